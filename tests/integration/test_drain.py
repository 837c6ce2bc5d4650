"""SIGTERM: who has asked is answered, who asks now is refused, and the server ends in time with exit code 0."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tests.harness.agent import in_flight, wait_until_idle
from tests.harness.container_client import ContainerClient
from tests.harness.ports import free_port
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until


@pytest.fixture
def client() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


@pytest.fixture
def start() -> Iterator[Callable[..., ServerProcess]]:
    """``start(**settings)``: a server with the models ``m`` and ``n``."""
    running = []

    def start(**settings: Any) -> ServerProcess:
        server = ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", **settings)
        server.__enter__()
        running.append(server)
        for name in ("m", "n"):
            make_model(server.model_dir(name))
            assert server.load(name).status_code == 200
        return server

    yield start
    for server in running:
        server.__exit__(None, None, None)


def begin(server: ServerProcess, client: ThreadPoolExecutor, name: str, *words: object) -> Future[requests.Response]:
    """Sends a request, and returns when the worker is at it."""
    before = server.log().count("begun")
    future = client.submit(server.invoke, name, command("sequence", ["print", "begun"], words))
    wait_until(lambda: server.log().count("begun") > before, "the worker is at the request")
    return future


def ask_to_stop(server: ServerProcess, number: signal.Signals = signal.SIGTERM) -> None:
    assert server.process is not None
    server.process.send_signal(number)


def is_refused(server: ServerProcess, port: int | None = None) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port or server.port), timeout=5).close()
    except (ConnectionRefusedError, ConnectionResetError):  # the latter where it came in that instant
        return True
    return False


def test_requests_under_way_are_answered_new_ones_refused_and_idle_connections_not_waited_for(
    start: Callable[..., ServerProcess], client: ThreadPoolExecutor
) -> None:
    server = start()
    go_on = server.folder / "go_on"
    make_model(server.model_dir("late"), "wait_for", str(go_on))
    working = begin(server, client, "m", "wait_for", str(go_on))
    queued = [client.submit(server.invoke, "m", command("sleep", 0.2)) for _ in range(3)]
    with requests.Session() as idle, socket.create_connection(("127.0.0.1", server.port)):
        assert idle.post(f"{server.url}/models/n/invoke", data=command("echo", 1), timeout=20).status_code == 200
        wait_until(lambda: in_flight(server) == 4, "the quick one is answered")
        load = client.submit(server.load, "late")
        wait_until(
            lambda: in_flight(server) == 5,
            lambda: f"the others are under way: {in_flight(server)}\n{server.log_tail()}",
        )

        ask_to_stop(server)

        wait_until(lambda: is_refused(server), "new connections are refused")
        go_on.touch()
        assert [future.result().status_code for future in [working, *queued, load]] == [200] * 5
        assert server.wait(timeout_s=10) == 0, "connections that ask nothing are not waited for"


def test_clients_that_ask_on_are_turned_away_and_an_answer_that_is_still_read_arrives_whole(
    start: Callable[..., ServerProcess], client: ThreadPoolExecutor
) -> None:
    server, size = start(), 4_000_000
    ended = threading.Event()

    def ask_again_and_again() -> list[int]:
        statuses = []
        with requests.Session() as session:
            while not ended.is_set():
                try:
                    url = f"{server.url}/models/m/invoke"
                    statuses.append(session.post(url, data=command("sleep", 0.05), timeout=20).status_code)
                except requests.ConnectionError:
                    break
        return statuses

    clients = [client.submit(ask_again_and_again) for _ in range(4)]
    wait_until(lambda: server.log().count("/models/m/invoke") > 8, "requests are answered")
    try:
        with reader(server, "n", command("echo", "x" * size)) as connection:
            received = connection.recv(4096)
            ask_to_stop(server)
            wait_until(lambda: is_refused(server), "new connections are refused")
            while len(received.partition(b"\r\n\r\n")[2]) < size + 2:
                part = connection.recv(65536)
                assert part, f"cut off after {len(received)} bytes"
                received += part
        assert json.loads(received.partition(b"\r\n\r\n")[2]) == "x" * size
        assert server.wait(timeout_s=10) == 0
    finally:
        ended.set()
    for statuses in (each.result() for each in clients):
        answered = [status for status in statuses if status != 503]
        assert answered == [200] * len(answered)
        assert statuses[len(answered) :] in ([], [503])


@contextmanager
def reader(server: ServerProcess, name: str, body: str) -> Iterator[socket.socket]:
    """A connection with a request sent, and little room for its answer."""
    sent = body.encode()
    head = (
        f"POST /models/{name}/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(sent)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(10)
        connection.sendall(head.encode() + sent)
        yield connection


def test_what_takes_longer_than_the_drain_is_cut_off(
    start: Callable[..., ServerProcess], client: ThreadPoolExecutor
) -> None:
    server = start(MME_DRAIN_TIMEOUT_S="1")
    endless = begin(server, client, "m", "hang_in_c")
    asked_s = time.monotonic()
    ask_to_stop(server)
    assert server.wait(timeout_s=10) == 0
    assert time.monotonic() - asked_s >= 1
    with pytest.raises(requests.ConnectionError):
        endless.result()
    assert "cut off" in server.log()


def test_a_second_signal_ends_the_drain(start: Callable[..., ServerProcess], client: ThreadPoolExecutor) -> None:
    server = start()
    endless = begin(server, client, "m", "spin")
    ask_to_stop(server)
    wait_until(lambda: is_refused(server), "it drains")
    ask_to_stop(server, signal.SIGINT)
    assert server.wait(timeout_s=10) == 0
    with pytest.raises(requests.ConnectionError):
        endless.result()


def test_a_front_end_that_dies_ends_the_drain(start: Callable[..., ServerProcess], client: ThreadPoolExecutor) -> None:
    server = start()
    begin(server, client, "m", "spin")
    ask_to_stop(server)
    wait_until(lambda: is_refused(server), "it drains")
    server.front_end().kill()
    assert server.wait(timeout_s=10) == 0


def test_no_model_is_loaded_any_more_on_a_port_of_its_own(
    start: Callable[..., ServerProcess], client: ThreadPoolExecutor
) -> None:
    port = free_port()
    server = ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", MME_MANAGEMENT=str(port))
    management = ContainerClient(f"http://127.0.0.1:{port}")
    with server:
        for name in ("m", "late", "later"):
            make_model(server.model_dir(name))
        assert management.load("m", server.model_url("m")).status_code == 200
        go_on = server.folder / "go_on"
        make_model(server.model_dir("late"), "wait_for", str(go_on))
        wait_until_idle(server)
        load = client.submit(management.load, "late", server.model_url("late"))
        wait_until(lambda: in_flight(server) == 1, "the load is under way")
        ask_to_stop(server)
        wait_until(lambda: is_refused(server) and is_refused(server, port), "new connections are refused")
        with pytest.raises(requests.ConnectionError):
            management.load("later", server.model_url("later"))
        go_on.touch()
        assert load.result().status_code == 200
        assert server.wait(timeout_s=10) == 0


@pytest.mark.ci
@pytest.mark.slow
def test_a_handler_that_never_answers_does_not_keep_the_server_for_30_s(
    start: Callable[..., ServerProcess], client: ThreadPoolExecutor
) -> None:
    server = start()  # with the default drain of 20 s
    endless = begin(server, client, "m", "hang_in_c")
    asked_s = time.monotonic()
    ask_to_stop(server)
    assert server.wait(timeout_s=30) == 0
    assert 20 <= time.monotonic() - asked_s < 30
    with pytest.raises(requests.ConnectionError):
        endless.result()
