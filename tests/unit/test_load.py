"""The process that sends load: every answer is held against its own request, whatever the server does."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pytest

from benchmarks.failure import BenchmarkError
from benchmarks.load.client import MOST_ERRORS, Load, Questions, Run
from benchmarks.load.generator import LoadGenerator, body_load, busy_core, numbers_load

# What a server does with the numbers of a request: status and body, or None to hang up.
Answering = Callable[[list[int]], tuple[int, bytes] | None]


def multiplied_by_2(numbers: list[int]) -> tuple[int, bytes]:
    return 200, json.dumps({"predictions": [[number * 2 for number in numbers]]}).encode()


def read_head(file: BinaryIO) -> list[bytes]:
    """The lines of a request's head; none where the connection has ended."""
    lines = []
    while (line := file.readline()) not in (b"", b"\r\n"):
        lines.append(line)
    return lines


@contextmanager
def server(
    answering: Answering,
    *,
    extra: bytes = b"",
    closes_after_errors: bool = False,
    on_path: Callable[[bytes], None] = lambda _: None,
) -> Iterator[int]:
    """Answers requests by ``answering``, each connection in a thread; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while head := read_head(file):
                (length,) = [int(line.split()[1]) for line in head if line.lower().startswith(b"content-length:")]
                body = file.read(length)
                on_path(head[0].split()[1])
                answer = answering(json.loads(body)[0] if body.startswith(b"[") else [])
                if answer is None:
                    return
                status, content = answer
                closes = closes_after_errors and status >= 400
                close = b"Connection: close\r\n" if closes else b""
                message = b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n%s\r\n" % (status, len(content), close)
                connection.sendall(message + content + extra)
                if closes:
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


def load(port: int, **more: Any) -> Load:
    return numbers_load(port, "m", 2, **{"clients": 1, "requests": 20, **more})


@pytest.mark.parametrize("clients", [1, 8])
def test_every_request_is_answered_and_right(clients: int) -> None:
    with server(multiplied_by_2) as port:
        report = Run(load(port, clients=clients, requests=100, keep_times=True)).perform()
    assert (report.answered, report.right, report.errors.total()) == (100, 100, 0)
    assert report.statuses == {"200": 100}
    assert len(report.times_s) == 100
    assert 0 < max(report.times_s) == report.longest_s <= report.elapsed_s


def test_no_two_requests_have_the_same_numbers() -> None:
    seen: list[tuple[int, ...]] = []

    def note(numbers: list[int]) -> tuple[int, bytes]:
        seen.append(tuple(numbers))
        return multiplied_by_2(numbers)

    with server(note) as port:
        for seed in (1, 2):
            assert Run(load(port, requests=500, seed=seed, clients=4)).perform().right == 500
    assert len(set(seen)) == 1000
    assert max(number for numbers in seen for number in numbers) < 1 << 24  # exact in float32


def test_the_answer_of_another_request_is_an_error() -> None:
    before: list[int] = [0, 0, 0, 0]

    def late_by_one(numbers: list[int]) -> tuple[int, bytes]:
        nonlocal before
        answer, before = multiplied_by_2(before), numbers
        return answer

    with server(late_by_one) as port:
        report = Run(load(port)).perform()
    assert report.right == 0
    assert report.errors == {"wrong answer": 20}
    assert "wrong answer" in report.examples[0]


@pytest.mark.parametrize("closes", [False, True])
def test_answers_other_than_200_are_counted_by_status(closes: bool) -> None:
    count = iter(range(1000))

    def failing(numbers: list[int]) -> tuple[int, bytes]:
        return (500, b"Worker died.") if next(count) % 5 == 0 else multiplied_by_2(numbers)

    with server(failing, closes_after_errors=closes) as port:
        report = Run(load(port)).perform()
    assert report.right == 16
    assert report.errors == {"status 500": 4}
    assert report.statuses == {"200": 16, "500": 4}
    assert "Worker died." in report.examples[0]


def test_a_closed_connection_is_an_error_and_a_new_one_is_made() -> None:
    count = iter(range(1000))
    with server(lambda numbers: None if next(count) == 3 else multiplied_by_2(numbers)) as port:
        report = Run(load(port)).perform()
    assert report.right == 19
    assert report.errors == {"connection": 1}


def test_more_bytes_than_the_answer_are_an_error() -> None:
    with server(multiplied_by_2, extra=b"?") as port:
        report = Run(load(port, requests=5)).perform()
    assert report.right == 0
    assert report.errors == {"malformed answer": 5}


def test_a_load_ends_when_nothing_but_errors_comes() -> None:
    with server(lambda _: (503, b"")) as port:
        report = Run(load(port, requests=100_000)).perform()
    assert report.errors == {"status 503": MOST_ERRORS}


def test_a_load_ends_when_its_time_is_up() -> None:
    with server(multiplied_by_2) as port:
        report = Run(load(port, requests=None, seconds=0.2)).perform()
    assert report.right == report.answered > 0
    assert report.elapsed_s >= 0.2


def test_rests_are_counted_and_lose_nothing() -> None:
    with server(multiplied_by_2) as port:
        report = Run(load(port, requests=1000, clients=2, rests=True)).perform()
    assert report.right == 1000
    assert 0 < report.rested_s < report.elapsed_s


def test_an_answer_to_a_body_must_be_the_expected_bytes() -> None:
    with server(lambda _: (200, b"cat")) as port:
        right = Run(body_load(port, "m", b"picture", "image/jpeg", b"cat", 2, requests=10)).perform()
        wrong = Run(body_load(port, "m", b"picture", "image/jpeg", b"dog", 2, requests=10)).perform()
    assert right.right == 10
    assert wrong.errors == {"wrong answer": 10}


def test_a_load_is_spread_over_models_by_its_pattern() -> None:
    asked: list[bytes] = []

    names = ["a b", "c", "d"]
    with server(lambda _: (200, b"cat"), on_path=asked.append) as port:
        sent = Run(body_load(port, names, b"x", "text/csv", b"cat", 2, requests=300, pattern="hot")).perform()
    assert sent.right == 300
    counts = Counter(asked)
    assert set(counts) == {b"/models/a%20b/invoke", b"/models/c/invoke", b"/models/d/invoke"}
    assert counts[b"/models/a%20b/invoke"] > 240  # 270 are expected; five standard deviations are 26


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (b"[[2.0, 4.0, 6.0, 8.0]]", True),
        (b'{"predictions": [[2, 4, 6, 8]]}', True),
        (b"[[2, 4, 6]]", False),
        (b"[[1, 2, 3, 4]]", False),
        (b"[]", False),
        (b"{}", False),
        (b"no JSON", False),
    ],
)
def test_an_answer_to_numbers_is_right_where_all_are_multiplied(answer: bytes, right: bool) -> None:
    assert Questions(Load(1, ["/"], 1, factor=2)).is_right(answer, [1, 2, 3, 4]) is right


def test_a_generator_sends_one_load_after_the_other_and_tells_of_its_progress() -> None:
    told: list[tuple[int, int]] = []
    with server(multiplied_by_2) as port, LoadGenerator() as generator:
        first = generator.send(load(port), lambda done, errors: told.append((done, errors)))
        second = generator.send(load(port, requests=30))
    assert (first.right, second.right) == (20, 30)
    assert first.statuses["200"] == 20
    assert told and told[0][1] == 0


def test_a_server_that_cannot_be_reached_ends_the_load_with_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with server(multiplied_by_2) as port:
        pass
    with LoadGenerator() as generator, pytest.raises(BenchmarkError):
        generator.send(load(port))
    assert "refused" in capfd.readouterr().err


def test_a_busy_core_is_busy_and_ends() -> None:
    import psutil

    before = set(psutil.Process().children())
    with busy_core():
        (process,) = set(psutil.Process().children()) - before
        assert process.is_running()
    assert not process.is_running()
