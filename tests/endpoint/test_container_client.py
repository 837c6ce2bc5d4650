"""How requests reach a container, and how often: against servers that break connections."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

import pytest

from local_endpoint.container_client import ContainerClient
from local_endpoint.errors import ContainerGone

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class BreakingServer:
    """Answers the first ``answers`` requests of each connection and closes it when the next one has come."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests = 0
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the end
                return
            with connection:
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

    def __enter__(self) -> BreakingServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def invoke(client: ContainerClient) -> bytes:
    return client.invoke("m", b"body", {}, 5).body


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


def test_nobody_there_is_known_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ContainerGone):
        invoke(ContainerClient("127.0.0.1", port))
