"""What happened to each model and when, so that a request without its right answer can be understood afterwards.

Every event remembers how long the server's log was at that moment: lines that the server wrote between two events are
shown between them, whatever clock the log has.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import NamedTuple

EVERY_MODEL = "*"  # events of it are shown with those of every model
MOST_EVENTS = 2000  # of each model; the oldest go
MOST_LOG_LINES = 40
BEFORE_S, AFTER_S = 3.0, 3.0


class Event(NamedTuple):
    """Something happened to a model at ``at_s`` (``time.monotonic``), when the log had ``log_bytes``."""

    at_s: float
    log_bytes: int
    text: str


class Timeline:
    """Events by model. Any thread may note some."""

    def __init__(self, log_file: Path) -> None:
        self._log_file = log_file
        self._events: dict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=MOST_EVENTS))
        self._lock = threading.Lock()
        # of both clocks at one moment, to show the time of day
        self._started_s, self._started_at = time.monotonic(), time.time()

    def note(self, model: str, text: str) -> None:
        """Something happened to ``model`` just now."""
        try:
            log_bytes = self._log_file.stat().st_size
        except FileNotFoundError:
            log_bytes = 0
        with self._lock:
            self._events[model].append(Event(time.monotonic(), log_bytes, text))

    def around(self, model: str, from_s: float, to_s: float) -> list[str]:
        """Events of a model from a little before ``from_s`` to a little after ``to_s``, in order, and between them what
        the log says of it."""
        with self._lock:
            every = sorted([*self._events[model], *self._events[EVERY_MODEL]])
        shown = [event for event in every if from_s - BEFORE_S <= event.at_s <= to_s + AFTER_S]
        if not shown:
            return []
        lines = []
        position = max((event.log_bytes for event in every if event.at_s < shown[0].at_s), default=0)
        for event in shown:
            lines += self._log_lines(model, position, event.log_bytes)
            position = event.log_bytes
            lines.append(f"{self.time_of_day(event.at_s)}  {event.text}")
        later = [event.log_bytes for event in every if event.at_s > shown[-1].at_s]
        return lines + self._log_lines(model, position, min(later, default=None))

    def time_of_day(self, at_s: float) -> str:
        """``12:34:56.789`` of a ``time.monotonic``."""
        seconds = self._started_at + at_s - self._started_s
        return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{int(seconds % 1 * 1000):03d}"

    def _log_lines(self, model: str, start: int, end: int | None) -> list[str]:
        """Lines between two places of the log that name the model, or that name none and tell of an end."""
        if not self._log_file.exists() or (end is not None and end <= start):
            return []
        with self._log_file.open("rb") as log:
            log.seek(start)
            text = log.read() if end is None else log.read(end - start)
        found = [line for line in text.decode(errors="replace").splitlines() if model in line]
        more = len(found) - MOST_LOG_LINES
        return [f"      log | {line[:300]}" for line in found[:MOST_LOG_LINES]] + (
            [f"      log | … {more} more lines"] if more > 0 else []
        )
