"""Speaks the container's HTTP interface (docs: "Custom containers contract for multi-model endpoints")."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import urllib3

from local_endpoint.errors import ContainerGone, ContainerTimeout

CONNECT_TIMEOUT_S = 5.0


class _ThisThread(threading.local):
    """Whether the request that this thread is sending made a new connection."""

    has_connected = False


_this_thread = _ThisThread()


class _Connection(urllib3.connection.HTTPConnection):
    def connect(self) -> None:
        _this_thread.has_connected = True
        super().connect()


@dataclass(frozen=True)
class Answer:
    """What the container said. Header names are matched without regard to case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ContainerClient:
    """One container's client; safe to use from many threads, connections are kept open and reused."""

    def __init__(self, host: str, port: int, connections: int = 160) -> None:
        self.address = (host, port)
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
        """Raises ``ContainerGone`` and ``ContainerTimeout``.

        A kept connection that the container closed in the meantime is no sign of its death: such a request is sent
        once more. One that breaks on a new connection is not: the container may have begun to work on it.
        """
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s)
        for last in (False, True):
            _this_thread.has_connected = False
            try:
                response = self._pool.urlopen(
                    method, path, body=body, headers=headers, timeout=timeout, retries=False, redirect=False
                )
                return Answer(response.status, response.headers, response.data)
            except (
                urllib3.exceptions.ConnectTimeoutError,
                urllib3.exceptions.NewConnectionError,
                urllib3.exceptions.ClosedPoolError,  # the instance was ended between the choice of it and now
            ) as error:
                raise ContainerGone(str(error)) from None
            except urllib3.exceptions.ReadTimeoutError:
                raise ContainerTimeout(f"no answer to {method} {path} within {timeout_s:.0f} s") from None
            except (urllib3.exceptions.ProtocolError, OSError) as error:
                if last or _this_thread.has_connected:
                    raise ContainerGone(f"the connection broke: {error}") from None
        raise AssertionError("unreachable")

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
