"""Speaks the container's HTTP interface (docs: "Custom containers contract for multi-model endpoints").

Sockets and the parser of answers are the standard library's. A request is put together here: urllib3 takes as long for
it as all the rest of an invocation's way through the local endpoint.
"""

from __future__ import annotations

import collections
import http.client
import json
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local_endpoint.errors import ContainerGone, ContainerRefused, ContainerTimeout

CONNECT_TIMEOUT_S = 5.0
OWN_HEADERS = ("User-Agent: local-endpoint", "Accept-Encoding: identity")


class _Socket(socket.socket):
    """A time-out of a socket is one of each call: an answer that trickles would go on for ever. This one is total."""

    deadline_s = 0.0
    """When the answer must be there, to the last byte (monotonic)."""

    def _set_time_left(self) -> None:
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time is over")
        self.settimeout(left_s)

    def recv_into(self, *arguments: Any) -> int:
        self._set_time_left()
        return super().recv_into(*arguments)

    def sendall(self, *arguments: Any) -> None:
        self._set_time_left()
        super().sendall(*arguments)


@dataclass(frozen=True)
class Answer:
    """What the container said. Header names are matched without regard to case."""

    status: int
    headers: Mapping[str, str] | http.client.HTTPMessage
    body: bytes


class ContainerClient:
    """One container's client; safe to use from many threads, connections are kept open and reused."""

    def __init__(self, host: str, port: int, connections: int = 160, response_bytes: int | None = None) -> None:
        """``connections`` are kept at most; ``response_bytes`` is the largest body of an answer that is passed on.

        None is without limit.
        """
        self.address = (host, port)
        self._response_bytes = response_bytes
        self._most_kept = connections
        self._kept: collections.deque[_Socket] = collections.deque()
        self._is_closed = False

    def close(self) -> None:
        """Requests under way go on; none is begun any more."""
        self._is_closed = True
        while (kept := self._take_kept()) is not None:
            kept.close()

    def request(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raises ``ContainerGone`` and ``ContainerTimeout``; ``timeout_s`` is from the first to the last byte.

        ``ContainerRefused`` only where nothing was sent: a request that ends each container must not be tried for ever.

        A kept connection that the container closed in the meantime is no sign of its death: such a request is sent
        once more, on a new one. One that breaks on a new connection is not: the container may have begun to work on it.
        """
        deadline_s = time.monotonic() + timeout_s
        message = self._message(method, path, body, headers or {})
        for is_first in (True, False):
            try:
                connection, is_new = self._connection(deadline_s, may_be_kept=is_first)
            except ContainerRefused as error:
                if is_first:
                    raise
                raise ContainerGone(str(error)) from None
            connection.deadline_s = deadline_s
            try:
                connection.sendall(message)
                return self._read(connection, method)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if isinstance(error, TimeoutError) or time.monotonic() >= deadline_s:
                    raise ContainerTimeout(f"no answer to {method} {path} within {timeout_s:.0f} s") from None
                if is_new:
                    raise ContainerGone(f"the connection broke: {error!r}") from None
            except BaseException:
                connection.close()
                raise
        raise AssertionError("unreachable")

    def _message(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        """In one piece: a server that gets head and body apart is woken twice."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.address[0]}:{self.address[1]}", *OWN_HEADERS]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None or method == "POST":
            lines.append(f"Content-Length: {len(body or b'')}")
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"a header or the path has a line break: {lines!r}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")

    # ---- connections ----

    def _connection(self, deadline_s: float, may_be_kept: bool) -> tuple[_Socket, bool]:
        """A connection, and whether it is new. Raises ``ContainerRefused``."""
        if self._is_closed:  # the instance was ended between the choice of it and now
            raise ContainerRefused("the client is closed")
        while may_be_kept and (kept := self._take_kept()) is not None:
            if not _has_something(kept):
                return kept, False
            kept.close()  # the container has closed it
        timeout_s = max(0.001, min(CONNECT_TIMEOUT_S, deadline_s - time.monotonic()))
        try:
            plain = socket.create_connection(self.address, timeout_s)
        except OSError as error:
            raise ContainerRefused(f"nothing answers on {self.address[0]}:{self.address[1]}: {error}") from None
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Socket(plain.family, plain.type, plain.proto, plain.detach()), True

    def _take_kept(self) -> _Socket | None:
        """The one that was used last: those that are not needed stay idle, and the container may close them."""
        try:
            return self._kept.pop()
        except IndexError:
            return None

    def _keep(self, connection: _Socket) -> None:
        if self._is_closed or len(self._kept) >= self._most_kept:
            connection.close()
            return
        self._kept.append(connection)
        if self._is_closed:  # by another thread, just now
            self.close()

    def _read(self, connection: _Socket, method: str) -> Answer:
        """One that is too large is status 0, as one that did not come in time: it could not be passed on."""
        response = http.client.HTTPResponse(connection, method=method)
        try:
            response.begin()
            limit = self._response_bytes
            body = response.read() if limit is None else response.read(limit + 1)
            if limit is not None and len(body) > limit:
                connection.close()  # what is left of it would be taken for the next answer
                return Answer(0, {}, f"The response is larger than {limit} bytes.".encode())
            if limit is not None and response.length:
                raise http.client.IncompleteRead(body, response.length)
            is_whole = response.isclosed()
        finally:
            response.close()
        if response.will_close or not is_whole:
            connection.close()
        else:
            self._keep(connection)
        return Answer(response.status, response.headers, body)

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


def _has_something(connection: _Socket) -> bool:
    """To read: of a connection on which nothing was asked that is its end, or an answer to nothing."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
