"""The process that sends the load: keep-alive connections with one request in flight each, every answer checked.

    python -m benchmarks.load.client     (started by benchmarks.load.generator)

Standard input    one ``Load`` per line, as JSON
Standard output   per load: lines ``{"done": 1200, "errors": 0}`` while it runs, then ``{"report": {…}}``

One thread, one selector, plain sockets: sending, receiving and checking a small request takes some 40 µs of processor
time, of which half is the kernel's. What it really took is in the report (``cpu_s``), so that a run in which the client
was the bottleneck can be told. Only the standard library is imported: a process that has loaded NumPy starts threads.
"""

from __future__ import annotations

import base64
import json
import random
import re
import resource
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.patterns import Chooser

# A request that is not answered for so long is an error; SageMaker itself waits 60 s.
ANSWER_TIMEOUT_S = 60.0
# After so many errors the load ends: the server is not what it should be, and every further one says the same.
MOST_ERRORS = 100
MOST_EXAMPLES = 20
PROGRESS_S = 0.5
# float32 holds whole numbers exactly up to 2^24: a request's number is cut into two parts below it.
PART = 1 << 20
# How many requests come between two rests, and how long a rest takes: mostly a moment in which the worker just goes to
# sleep, sometimes longer than anything that a server does when it becomes idle.
BURST = (1, 400)
RESTS_S = ((0.80, (0.0005, 0.010)), (0.18, (0.020, 0.100)), (0.02, (2.5, 3.5)))
_RECONNECT_S = 0.1
# Answers are small. From 128 KiB on, each buffer would be mapped and unmapped by malloc.
_PIECE_BYTES = 16_384
_CLOSES = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What is to be sent: until ``requests`` are answered or ``seconds`` have passed, whichever is given.

    ``paths`` are the models', of which each request takes one by ``pattern`` (``benchmarks.load.patterns``).
    ``body`` (base64) None: every request has numbers of its own, four in a JSON row, and its answer must be these,
    ``factor`` times as large. Else every request has this body, and its answer must be ``answer`` (base64).
    """

    port: int
    paths: Sequence[str]
    clients: int
    pattern: str = "uniform"
    requests: int | None = None
    seconds: float | None = None
    rests: bool = False
    seed: int = 1
    factor: int = 1
    content_type: str = "application/json"
    body: str | None = None
    answer: str | None = None
    keep_times: bool = False


@dataclass
class Report:
    """What came of it. ``statuses`` counts answers by HTTP status; ``errors`` all that is no right answer, by kind."""

    answered: int = 0
    right: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    longest_s: float = 0.0
    elapsed_s: float = 0.0
    rested_s: float = 0.0
    cpu_s: float = 0.0


class Questions:
    """Requests and their right answers."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._number = load.seed * 1_000_003
        self._right = base64.b64decode(load.answer) if load.answer is not None else None
        self._heads = [
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {load.content_type}\r\n".encode()
            for path in load.paths
        ]
        self._messages: list[bytes] = []
        if load.body is not None:
            body = base64.b64decode(load.body)
            self._messages = [self._with_length(head, body) for head in self._heads]
        self._models = Chooser(load.pattern, len(load.paths), load.seed) if len(load.paths) > 1 else None

    def ask(self, client: int) -> tuple[bytes, list[int] | None]:
        """The next request of this client, and its numbers where it has some."""
        model = self._models.next() if self._models else 0
        if self._messages:
            return self._messages[model], None
        self._number += 1
        numbers = [self._number % PART, self._number // PART % PART, client, self._number % 7]
        return self._with_length(self._heads[model], json.dumps([numbers]).encode()), numbers

    def is_right(self, answer: bytes, numbers: list[int] | None) -> bool:
        """Is this the answer to that request, and no other?"""
        if numbers is None:
            return answer == self._right
        try:
            rows = json.loads(answer)
            if isinstance(rows, dict):  # ours wraps the rows in an object, a plain handler does not
                rows = rows["predictions"]
            return bool(rows == [[number * self._load.factor for number in numbers]])
        except (ValueError, KeyError, TypeError):
            return False

    @staticmethod
    def _with_length(head: bytes, body: bytes) -> bytes:
        return b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


class Client:
    """One connection. ``receive`` returns a whole answer, or None while parts of it are missing."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.numbers: list[int] | None = None
        self.sent_s = 0.0
        self.closes = False  # the server said so with its last answer, which it does after errors
        self._port = port
        self._received = b""
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self._port), ANSWER_TIMEOUT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def reconnect(self) -> None:
        """A new connection in place of the old one. Raises OSError where the server does not take it."""
        self.close()
        self._received, self.closes = b"", False
        self.socket = self._connect()

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()

    def send(self, message: bytes, numbers: list[int] | None) -> None:
        """Sends a request. Raises OSError."""
        self.numbers = numbers
        self.sent_s = time.perf_counter()
        self.socket.sendall(message)

    def receive(self) -> tuple[int, bytes] | None:
        """Status and body, once all of it is there. Raises OSError; ValueError for what is no answer to one request."""
        piece = self.socket.recv(_PIECE_BYTES)
        if not piece:
            raise ConnectionError("the server closed the connection")
        self._received += piece
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = _LENGTH.search(head + b"\r\n")
        if length is None:
            raise ValueError("an answer without Content-Length")
        missing = int(length[1]) - len(body)
        if missing > 0:
            return None
        self._received = b""
        if missing < 0:
            raise ValueError(f"{-missing} bytes more than the answer")
        self.closes = _CLOSES.search(head + b"\r\n") is not None
        return int(head[9:12]), body


class Run:
    """One load, from its first request to its report."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.report = Report()
        self._questions = Questions(load)
        self._chance = random.Random(load.seed)
        self._selector = selectors.DefaultSelector()
        self._in_flight: set[Client] = set()
        self._waiting: list[Client] = []
        self._started = 0
        self._burst_ends = self._chance.randint(*BURST) if load.rests else None
        self._deadline_s = float("inf")
        self._told_s = 0.0

    def perform(self) -> Report:
        """Sends everything and returns what came of it. Raises OSError where the server cannot be reached at first."""
        used_s, started_s = _cpu_s(), time.perf_counter()
        if self.load.seconds is not None:
            self._deadline_s = started_s + self.load.seconds
        clients = [Client(number, self.load.port) for number in range(self.load.clients)]
        try:
            self._waiting = list(clients)
            for client in clients:
                self._selector.register(client.socket, selectors.EVENT_READ, client)
            self._loop()
        finally:
            for client in clients:
                client.close()
            self._selector.close()
        self.report.elapsed_s = time.perf_counter() - started_s
        self.report.cpu_s = _cpu_s() - used_s
        return self.report

    def _loop(self) -> None:
        while True:
            self._rest_between_bursts()
            while self._waiting and self._may_ask():
                self._ask(self._waiting.pop())
            if not self._in_flight:
                if self._is_over():
                    return
                continue
            ready = self._selector.select(1.0)
            for key, _ in ready:
                self._hear(key.data)
            self._tell()
            if not ready:
                self._miss()

    # ---- when ----

    def _is_over(self) -> bool:
        enough = self.load.requests is not None and self._started >= self.load.requests
        late = time.perf_counter() >= self._deadline_s
        return enough or late or self.report.errors.total() >= MOST_ERRORS

    def _may_ask(self) -> bool:
        return not self._is_over() and (self._burst_ends is None or self._started < self._burst_ends)

    def _rest_between_bursts(self) -> None:
        """All clients rest together, so that the server has nothing at all to do."""
        if self._burst_ends is None or self._started < self._burst_ends or self._in_flight or self._is_over():
            return
        ((_, (shortest_s, longest_s)),) = self._chance.choices(RESTS_S, [share for share, _ in RESTS_S])
        rest_s = min(self._chance.uniform(shortest_s, longest_s), max(0.0, self._deadline_s - time.perf_counter()))
        time.sleep(rest_s)
        self.report.rested_s += rest_s
        self._burst_ends = self._started + self._chance.randint(*BURST)

    # ---- what ----

    def _ask(self, client: Client) -> None:
        self._started += 1
        self._in_flight.add(client)
        try:
            client.send(*self._questions.ask(client.number))
        except OSError as error:
            self._fail(client, "connection", str(error))

    def _hear(self, client: Client) -> None:
        try:
            if client not in self._in_flight:
                raise ConnectionError("the server closed the connection between two requests")
            answer = client.receive()
        except OSError as error:
            self._fail(client, "connection", str(error))
        except ValueError as error:
            self._fail(client, "malformed answer", str(error))
        else:
            if answer is not None:
                self._judge(client, *answer)

    def _judge(self, client: Client, status: int, body: bytes) -> None:
        took_s = time.perf_counter() - client.sent_s
        report = self.report
        report.answered += 1
        report.statuses[str(status)] += 1
        report.longest_s = max(report.longest_s, took_s)
        if status != 200:
            self._note(client, f"status {status}", body[:200].decode(errors="replace"))
        elif not self._questions.is_right(body, client.numbers):
            self._note(client, "wrong answer", f"to {client.numbers}: {body[:200].decode(errors='replace')}")
        else:
            report.right += 1
            if self.load.keep_times:
                report.times_s.append(took_s)
        self._in_flight.discard(client)
        self._waiting.append(client)
        if client.closes:
            self._reconnect(client)

    def _miss(self) -> None:
        now_s = time.perf_counter()
        for client in list(self._in_flight):
            if now_s - client.sent_s > ANSWER_TIMEOUT_S:
                self._fail(client, "no answer", f"within {ANSWER_TIMEOUT_S:.0f} s")

    def _note(self, client: Client, kind: str, said: str) -> None:
        self.report.errors[kind] += 1
        if len(self.report.examples) < MOST_EXAMPLES:
            now, after_ms = time.strftime("%H:%M:%S"), (time.perf_counter() - client.sent_s) * 1000
            self.report.examples.append(
                f"{now} {kind} after {after_ms:.1f} ms, request {self._started}, client {client.number}: {said}"
            )

    def _fail(self, client: Client, kind: str, said: str) -> None:
        """The connection is of no use any more: a new one is made, unless the server takes none."""
        self._note(client, kind, said)
        self._in_flight.discard(client)
        if client not in self._waiting:
            self._waiting.append(client)
        self._reconnect(client)

    def _reconnect(self, client: Client) -> None:
        self._selector.unregister(client.socket)
        while True:
            try:
                client.reconnect()
                break
            except OSError as error:
                self._note(client, "connection", str(error))
                if self.report.errors.total() >= MOST_ERRORS:
                    return
                time.sleep(_RECONNECT_S)
        self._selector.register(client.socket, selectors.EVENT_READ, client)

    def _tell(self) -> None:
        now_s = time.perf_counter()
        if now_s - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            print(json.dumps({"done": self.report.answered, "errors": self.report.errors.total()}), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Serves standard input until it ends."""
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        print(json.dumps({"report": vars(Run(Load(**wanted)).perform())}), flush=True)


if __name__ == "__main__":
    main()
