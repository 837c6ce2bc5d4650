"""What is under way, by the kernel's counters of real connections, and when a drain is over."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from mme.supervisor.connections import Connection, connections_to, count_in_flight, stop_listening
from mme.supervisor.draining import UNCLEAR_MS, is_quiet
from tests.harness.waiting import wait_until

IDLE = Connection(1, received_bytes=9, sent_segments=1, since_received_ms=80, since_sent_ms=40, unacknowledged_bytes=0)
WAITING = Connection(
    2, received_bytes=9, sent_segments=1, since_received_ms=4, since_sent_ms=80, unacknowledged_bytes=0
)
UNCLEAR = Connection(3, received_bytes=9, sent_segments=1, since_received_ms=4, since_sent_ms=4, unacknowledged_bytes=0)
LONG_UNCLEAR = Connection(4, 9, 1, since_received_ms=UNCLEAR_MS, since_sent_ms=UNCLEAR_MS, unacknowledged_bytes=0)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Of this protocol; that of version 6 takes both, as a JVM's does."""
    family = request.param
    with socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_a_connection_waits_from_its_request_to_the_end_of_the_answer(listener: socket.socket) -> None:
    port = port_of(listener)
    with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as server:

        def waits() -> bool | None:
            (connection,) = connections_to(port)
            return connection.awaits_answer

        assert waits() is False
        client.sendall(b"request")
        wait_until(lambda: waits() is True, "the request is seen")
        wait_until(lambda: connections_to(port)[0].since_received_ms > 20, "time passes")
        server.sendall(b"answer")
        wait_until(lambda: waits() is False, "the answer is seen")
        wait_until(lambda: connections_to(port)[0].since_sent_ms > 20, "time passes")
        client.sendall(b"another request")
        wait_until(lambda: waits() is True, "the next request is seen")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                server.sendall(bytes(1 << 20))
        wait_until(lambda: connections_to(port)[0].since_received_ms > 20, "time passes")
        assert waits() is True, "the client has not read all of the answer"


def test_other_ports_do_not_count(listener: socket.socket) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(("127.0.0.1", port_of(other))) as client,
    ):
        client.sendall(b"request")
        assert connections_to(port_of(listener)) == []


def test_a_process_stops_listening_and_keeps_its_connections(listener: socket.socket) -> None:
    port = port_of(listener)
    with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as server:
        if not stop_listening(os.getpid(), port):
            pytest.skip("the kernel does not let us (seccomp)")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        client.sendall(b"request")
        assert server.recv(100) == b"request"
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"


def test_nothing_to_stop() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert not stop_listening(os.getpid(), port_of(unused))


def test_requests_that_may_be_under_way_are_counted() -> None:
    assert count_in_flight([IDLE, WAITING, UNCLEAR, IDLE]) == 2


@pytest.mark.parametrize(
    ("connections", "workers_are_busy", "quiet"),
    [
        ([], False, True),
        ([IDLE], False, True),
        ([IDLE, WAITING], False, False),
        ([IDLE], True, False),
        ([UNCLEAR], False, True),  # the workers know better
        ([UNCLEAR], True, False),
        ([IDLE], None, True),
        ([UNCLEAR], None, False),
        ([LONG_UNCLEAR], None, True),
        (None, False, True),
        (None, True, False),
        (None, None, False),  # nobody tells
    ],
)
def test_all_is_quiet_where_nobody_waits(
    connections: list[Connection] | None, workers_are_busy: bool | None, quiet: bool
) -> None:
    assert is_quiet(connections, workers_are_busy) is quiet
