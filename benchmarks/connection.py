"""One keep-alive HTTP connection that costs next to nothing itself, so that what is timed is the server.

The platform keeps its connections to a container open, too. ``http.client`` would add some 0.2 ms of header parsing
to every answer.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from benchmarks.failure import BenchmarkError

# SageMaker allows a load 360 s; stock MMS under load may need some of that.
TIMEOUT_S = 360.0


@dataclass(frozen=True)
class Answer:
    """A response, and the seconds from before its request was sent until its last byte was read."""

    status: int
    body: bytes
    elapsed_s: float
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case

    def must_be_ok(self, doing: str) -> Answer:
        """Returns itself; raises ``BenchmarkError`` where the status is not 200."""
        if self.status != 200:
            raise BenchmarkError(f"{doing}: answered {self.status} {self.body[:300].decode(errors='replace')}")
        return self


class Connection:
    """A connection to ``host``:``port``; opened with the first request and again where the server has closed it."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout_s: float = TIMEOUT_S) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ping(self) -> Answer:
        """``GET /ping``."""
        return self.request("GET", "/ping")

    def load(self, name: str, url: str) -> Answer:
        """``POST /models``."""
        body = json.dumps({"model_name": name, "url": url}).encode()
        return self.request("POST", "/models", body, {"Content-Type": "application/json"})

    def invoke(self, name: str, body: bytes, content_type: str) -> Answer:
        """``POST /models/NAME/invoke``."""
        return self.request("POST", f"/models/{quote(name, safe='')}/invoke", body, {"Content-Type": content_type})

    def unload(self, name: str) -> Answer:
        """``DELETE /models/NAME``."""
        return self.request("DELETE", f"/models/{quote(name, safe='')}")

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """Sends one request and reads its answer. Raises OSError where the server cannot be reached or hangs up."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._address[0]}\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        message = head.encode("latin-1") + b"\r\n" + body
        if self._socket is None:
            self._socket = socket.create_connection(self._address, self._timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            started_s = time.perf_counter()
            self._socket.sendall(message)
            status, answered, content = self._read_answer(self._socket)
            elapsed_s = time.perf_counter() - started_s
        except BaseException:
            self.close()
            raise
        if answered.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, content, elapsed_s, answered)

    @staticmethod
    def _read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
        """Reads a response with a Content-Length, which is what MMS sends."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += _receive(connection)
        head, _, content = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "content-length" not in headers:
            raise BenchmarkError(f"an answer without Content-Length: {status_line}")
        length = int(headers["content-length"])
        while len(content) < length:
            content += _receive(connection)
        return int(status_line.split()[1]), headers, content


def _receive(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise ConnectionError("the server closed the connection before its answer was complete")
    return piece
