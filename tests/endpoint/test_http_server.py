"""The HTTP server by itself, with an application of the test's own."""

from __future__ import annotations

import gc
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from local_endpoint.http.server import HttpServer
from tests.harness.waiting import wait_until

BODY = bytes(1024 * 1024)
# close() then resets the connection: the server's next write fails.
NO_LINGER = struct.pack("ii", 1, 0)


def test_a_client_that_hangs_up_before_its_answer_leaves_nothing_to_be_sent_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is left unsent would be sent by the garbage collector, which prints that it cannot."""
    asked, hung_up = threading.Event(), threading.Event()

    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        asked.set()
        assert hung_up.wait(10)
        start_response("200 OK", [("Content-Length", str(len(BODY)))])
        return [BODY]

    printed: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: printed.append(repr(what.exc_value)))
    server = HttpServer("127.0.0.1", 0, application)
    writers: list[Any] = []
    connection_class = server._server.ConnectionClass

    def connection(*arguments: Any) -> Any:
        made = connection_class(*arguments)
        writers.append(made.wfile)
        return made

    monkeypatch.setattr(server._server, "ConnectionClass", connection)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
            assert asked.wait(10)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        hung_up.set()
        wait_until(lambda: writers[0].closed, "the writer is closed with its connection", 10)
    finally:
        hung_up.set()
        server.stop()
    writers.clear()
    gc.collect()
    assert not printed


def test_requests_that_follow_closely_stay_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local_endpoint.http.server.LINGER_S", 10.0)
    threads: list[int] = []

    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        threads.append(threading.get_ident())
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    server = HttpServer("127.0.0.1", 0, application)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as client, client.makefile("rb") as answers:
            for _ in range(5):
                client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                while answers.readline() != b"\r\n":
                    pass
                assert answers.read(2) == b"ok"
    finally:
        server.stop()
    assert len(threads) == 5
    assert len(set(threads)) == 1
