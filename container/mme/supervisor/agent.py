"""The supervisor's side of the front end's agent: what it asks and tells the code inside the JVM.

Named pipes in the server's private folder, which no other user can open; front_end/src/mme/Control.java has the
lines. The agent counts the requests that are under way, and refuses new ones for a drain; it answers ``GET /ping`` by
what it is told here.
"""

from __future__ import annotations

import json
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mme.front_end import ANSWERS, COMMANDS, EVENTS

# A healthy front end answers within a millisecond.
ANSWER_TIMEOUT_S = 5.0
_EVENTS = 0  # the number of lines that answer no command, and of commands that nobody answers


class AgentError(OSError):
    """The agent does not answer: the front end has ended, or hangs."""


@dataclass(frozen=True)
class Status:
    """What the agent says after each command."""

    in_flight: int  # requests that are not answered, loads among them
    startup_model: str  # in single-model mode loading, loaded or failed, else none
    failure_status: int  # of the startup model's load
    failure: str


class Agent:
    """The agent of one server's front end. Made before the front end is started."""

    def __init__(self, runtime_dir: Path) -> None:
        """Makes the pipes. Both ends stay open here: neither side ever waits for the other, or reads an end."""
        for name in (COMMANDS, ANSWERS, EVENTS):
            os.mkfifo(runtime_dir / name, 0o600)
        self._commands = os.open(runtime_dir / COMMANDS, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._answers = os.open(runtime_dir / ANSWERS, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.events = os.open(runtime_dir / EVENTS, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # for scaling_loop.py
        self._received = b""
        self._number = _EVENTS
        self._is_serving = False

    def close(self) -> None:
        """Closes the pipes."""
        for descriptor in (self._commands, self._answers, self.events):
            os.close(descriptor)

    def expect_start(self) -> None:
        """To be called before each start of a front end: what another has left in the pipes is dropped."""
        for descriptor in (self._commands, self._answers):
            try:
                while os.read(descriptor, 65536):
                    pass
            except BlockingIOError:
                pass
        self._received = b""
        self._is_serving = False

    def is_serving(self, timeout_s: float = 0) -> bool:
        """Whether the front end accepts connections; waits up to ``timeout_s`` for it."""
        if not self._is_serving and (line := self._line(time.monotonic() + timeout_s)):
            self._note_event(*line)
        return self._is_serving

    def status(self) -> Status:
        """Raises ``AgentError``, as all of the following."""
        return self._ask("status")

    def drain(self) -> Status:
        """Has new connections refused and new requests on open ones answered 503, for good."""
        return self._ask("drain")

    def report_unhealthy(self, reason: str) -> None:
        """Has ``GET /ping`` answered 503 with ``reason``."""
        self._ask(f"unhealthy {' '.join(reason.split())}")

    def report_healthy(self) -> None:
        """Takes ``report_unhealthy`` back."""
        self._ask("healthy")

    def scale(self, model: str, workers: int) -> None:
        """The model is to have so many workers. Nobody waits for it: the model's statistics show what comes of it."""
        try:
            os.write(self._commands, f"{_EVENTS} scale {workers} {model}\n".encode())
        except BlockingIOError:
            raise AgentError("the front end's agent reads no commands") from None

    def take_events(self) -> None:
        """Empties ``events``."""
        try:
            os.read(self.events, 65536)
        except BlockingIOError:
            pass

    def _ask(self, command: str) -> Status:
        self._number += 1
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        try:
            os.write(self._commands, f"{self._number} {command}\n".encode())
        except BlockingIOError:
            raise AgentError("the front end's agent reads no commands") from None
        while line := self._line(deadline_s):
            number, answer = line
            if number == self._number:
                return Status(**answer)
            self._note_event(number, answer)
        raise AgentError(f"the front end's agent did not answer {command!r} within {ANSWER_TIMEOUT_S:g} s")

    def _note_event(self, number: int, answer: dict[str, Any]) -> None:
        if number == _EVENTS and answer == {"event": "serving"}:
            self._is_serving = True

    def _line(self, deadline_s: float) -> tuple[int, dict[str, Any]] | None:
        """The next line: the number of its command, and the answer. None if there is none until ``deadline_s``."""
        while b"\n" not in self._received:
            if not select.select([self._answers], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                return None
            self._received += os.read(self._answers, 65536)
        line, _, self._received = self._received.partition(b"\n")
        number, _, answer = line.partition(b" ")
        return int(number), json.loads(answer)
