"""Speaks the container's HTTP interface (docs: "Custom containers contract for multi-model endpoints")."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from local_endpoint.errors import ContainerGone, ContainerTimeout

CONNECT_TIMEOUT_S = 5.0


class _ThisThread(threading.local):
    """What concerns the request that this thread is sending."""

    has_connected = False
    """Whether it made a new connection."""
    deadline_s = 0.0
    """When its answer must be there, to the last byte (monotonic)."""


_this_thread = _ThisThread()


class _Socket(socket.socket):
    """A time-out of a socket is one of each call: an answer that trickles would go on for ever. This one is total."""

    def _set_time_left(self) -> None:
        left_s = _this_thread.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time is over")
        self.settimeout(left_s)

    def recv_into(self, *arguments: Any) -> int:
        self._set_time_left()
        return super().recv_into(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self._set_time_left()
        super().sendall(*arguments)


class _Connection(urllib3.connection.HTTPConnection):
    def connect(self) -> None:
        _this_thread.has_connected = True
        super().connect()

    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn()
        timeout_s = plain.gettimeout()
        made = _Socket(plain.family, plain.type, plain.proto, plain.detach())
        made.settimeout(timeout_s)
        return made


@dataclass(frozen=True)
class Answer:
    """What the container said. Header names are matched without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ContainerClient:
    """One container's client; safe to use from many threads, connections are kept open and reused."""

    def __init__(self, host: str, port: int, connections: int = 160, response_bytes: int | None = None) -> None:
        """``response_bytes`` is the largest body of an answer that is passed on; None is without limit."""
        self.address = (host, port)
        self._response_bytes = response_bytes
        self._pool = urllib3.HTTPConnectionPool(host, port, maxsize=connections, block=False)
        self._pool.ConnectionCls = _Connection

    def close(self) -> None:
        self._pool.close()

    def request(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raises ``ContainerGone`` and ``ContainerTimeout``; ``timeout_s`` is from the first to the last byte.

        A kept connection that the container closed in the meantime is no sign of its death: such a request is sent
        once more. One that breaks on a new connection is not: the container may have begun to work on it.
        """
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s)
        _this_thread.deadline_s = time.monotonic() + timeout_s
        for last in (False, True):
            _this_thread.has_connected = False
            try:
                response = self._pool.urlopen(
                    method,
                    path,
                    body=body,
                    headers=headers,
                    timeout=timeout,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
                return self._read(response)
            except (
                urllib3.exceptions.ConnectTimeoutError,
                urllib3.exceptions.NewConnectionError,
                urllib3.exceptions.ClosedPoolError,  # the instance was ended between the choice of it and now
            ) as error:
                raise ContainerGone(str(error)) from None
            except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
                raise ContainerTimeout(f"no answer to {method} {path} within {timeout_s:.0f} s") from None
            except (urllib3.exceptions.ProtocolError, OSError) as error:
                if time.monotonic() >= _this_thread.deadline_s:
                    raise ContainerTimeout(f"no answer to {method} {path} within {timeout_s:.0f} s") from None
                if last or _this_thread.has_connected:
                    raise ContainerGone(f"the connection broke: {error}") from None
        raise AssertionError("unreachable")

    def _read(self, response: urllib3.BaseHTTPResponse) -> Answer:
        """One that is too large is status 0, as one that did not come in time: it could not be passed on."""
        try:
            limit = self._response_bytes
            body = response.read() if limit is None else response.read(limit + 1)
            if limit is not None and len(body) > limit:
                response.close()  # what is left of it would be taken for the next answer
                return Answer(0, {}, f"The response is larger than {limit} bytes.".encode())
            return Answer(response.status, response.headers, body)
        finally:
            response.release_conn()

    def is_healthy(self, timeout_s: float, multi_model: bool) -> bool:
        """``GET /ping`` and, as the platform does for a multi-model endpoint, ``GET /models``."""
        try:
            if self.request("GET", "/ping", timeout_s).status != 200:
                return False
            return not multi_model or self.request("GET", "/models", timeout_s).status == 200
        except (ContainerGone, ContainerTimeout):
            return False

    def load(self, name: str, url: str, target: str, timeout_s: float) -> Answer:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "X-Amzn-SageMaker-Target-Model": target,
        }
        body = json.dumps({"model_name": name, "url": url}).encode()
        return self.request("POST", "/models", timeout_s, body, headers)

    def unload(self, name: str, target: str, timeout_s: float) -> Answer:
        headers = {"X-Amzn-SageMaker-Target-Model": target}
        return self.request("DELETE", f"/models/{name}", timeout_s, headers=headers)

    def is_loaded(self, name: str, timeout_s: float) -> bool:
        return self.request("GET", f"/models/{name}", timeout_s).status == 200

    def invoke(self, name: str | None, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """``name`` None is the only model of a single-model container."""
        path = "/invocations" if name is None else f"/models/{name}/invoke"
        return self.request("POST", path, timeout_s, body, headers)
