"""How requests reach a container, and how often: against servers that break connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

import pytest

from local_endpoint.container_client import ContainerClient
from local_endpoint.errors import ContainerGone, ContainerRefused, ContainerTimeout

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class RawServer:
    """Accepts one connection after the other, each of which a subclass serves; started and ended in ``with``."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the end
                return
            self.connections += 1
            with connection:
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):  # it may have died
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


class BreakingServer(RawServer):
    """Answers the first ``answers`` requests of each connection and closes it when the next one has come."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self._answers = answers
        self.requests = 0

    def _serve(self, connection: socket.socket) -> None:
        for number in range(self._answers + 1):
            if not self._has_come(connection):
                break
            self.requests += 1
            if number < self._answers:
                connection.sendall(ANSWER)

    @staticmethod
    def _has_come(connection: socket.socket) -> bool:
        received = b""
        while not received.endswith(b"body"):
            piece = connection.recv(65536)
            if not piece:
                return False
            received += piece
        return True


def invoke(client: ContainerClient) -> bytes:
    return client.invoke("m", b"body", {}, 5).body


class DyingServer(BreakingServer):
    """Takes no connection any more once it has broken one."""

    def _serve(self, connection: socket.socket) -> None:
        super()._serve(connection)
        self._listener.shutdown(socket.SHUT_RDWR)


def test_a_request_that_breaks_on_a_new_connection_is_not_sent_again() -> None:
    """The container may have begun to work on it, and another instance is going to be asked."""
    with BreakingServer(answers=0) as server:
        client = ContainerClient("127.0.0.1", server.port)
        with pytest.raises(ContainerGone):
            invoke(client)
        assert server.requests == 1
        client.close()


def test_a_request_that_breaks_on_a_kept_connection_is_sent_once_more() -> None:
    with BreakingServer(answers=1) as server:
        client = ContainerClient("127.0.0.1", server.port)
        assert [invoke(client), invoke(client)] == [b"ok", b"ok"]
        assert server.requests == 3
        client.close()


def test_a_server_that_dies_of_a_request_on_a_kept_connection_has_not_refused_it() -> None:
    """Who is refused may try again for as long as there is time, and would end one container after the other."""
    with DyingServer(answers=1) as server:
        client = ContainerClient("127.0.0.1", server.port)
        assert invoke(client) == b"ok"
        with pytest.raises(ContainerGone) as error:
            invoke(client)
        assert type(error.value) is ContainerGone
        with pytest.raises(ContainerRefused):
            invoke(client)
    assert server.requests == 2


def test_nobody_there_is_known_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ContainerGone):
        invoke(ContainerClient("127.0.0.1", port))


class OneAnswer(RawServer):
    """Sends ``pieces``, ``pause_s`` apart, as the answer to each request; a connection serves one."""

    def __init__(self, pieces: list[bytes], pause_s: float = 0.0) -> None:
        super().__init__()
        self._pieces = pieces
        self._pause_s = pause_s

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has given up
            connection.recv(65536)
            for piece in self._pieces:
                connection.sendall(piece)
                if self._over.wait(self._pause_s):
                    return


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize(
    "pieces", [[HEAD, *[b"x"] * 100], [bytes([each]) for each in HEAD] + [b"x" * 100]], ids=["body", "head"]
)
def test_an_answer_that_trickles_is_given_up_when_the_time_is_over(pieces: list[bytes]) -> None:
    with OneAnswer(pieces, pause_s=0.1) as server:
        client = ContainerClient("127.0.0.1", server.port)
        started_s = time.monotonic()
        with pytest.raises(ContainerTimeout, match="no answer to GET /ping within 1 s"):
            client.request("GET", "/ping", timeout_s=1.0)
        assert time.monotonic() - started_s < 5  # the whole answer would take ten
        client.close()


@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
@pytest.mark.parametrize(("length", "status"), [(1000, 200), (1001, 0)])
def test_an_answer_larger_than_the_limit_is_not_passed_on(length: int, status: int, framing: str) -> None:
    body = b"x" * length
    heads = {
        "length": f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + body,
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (length, body),
        "end": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body,
    }
    with OneAnswer([heads[framing]]) as server:
        client = ContainerClient("127.0.0.1", server.port, response_bytes=1000)
        for _ in range(2):  # a connection that has been used so serves no other request
            answer = client.request("GET", "/", timeout_s=5.0)
            assert answer.status == status
            assert answer.body == (body if status else b"The response is larger than 1000 bytes.")
        client.close()


def test_kept_connections_are_reused_after_answers_of_every_kind() -> None:
    with BreakingServer(answers=3) as server:
        client = ContainerClient("127.0.0.1", server.port, response_bytes=1000)
        for _ in range(3):
            assert client.request("POST", "/", 5.0, b"body").body == b"ok"
        assert server.connections == 1
        client.close()
