"""What happened in a soak, as all its threads saw it."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak.timeline import EVERY_MODEL, Timeline

# A worker dies a little before the server knows, and MMS hands it a request until then.
INSTANT_S = 0.5
MOST_EXAMPLES = 20
# What a kill may cost: the request that the worker had, and one that MMS hands to it before it knows that it is dead.
REQUESTS_PER_KILL = 2
# How a request may be answered whose worker was killed under it. 503 is not among them: it says that nothing serves the
# model, and a loaded model is served, if only when its next worker is there.
LOST_WITH_ITS_WORKER = (500, 507)


@dataclass(eq=False)
class Kill:
    """A worker was killed between these two moments (``time.monotonic``), and cost so many requests so far."""

    model: str
    from_s: float
    to_s: float
    requests_lost: int = 0

    def is_between(self, from_s: float, to_s: float) -> bool:
        """Whether it may have met a request that was sent and answered then."""
        return self.from_s <= to_s and self.to_s >= from_s - INSTANT_S


@dataclass(frozen=True)
class Violation:
    """A requirement was not met, by a call to ``model`` between these two moments (``time.monotonic``)."""

    requirement: str
    example: str
    model: str | None = None
    from_s: float = 0.0
    to_s: float = 0.0


class Record:
    """Counters and examples. Every method may be called by any thread."""

    def __init__(self, log_file: Path) -> None:
        self.statuses: Counter[str] = Counter()  # "invoke 200", "load 507" …
        self.counts: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.violation_counts: Counter[str] = Counter()
        self.longest_s: dict[str, float] = {}
        self.kills: list[Kill] = []
        self.timeline = Timeline(log_file)
        self._served_s: dict[str, float] = {}  # when each model last answered a request
        self._lock = threading.Lock()

    def answered(self, call: str, model: str, status: int, elapsed_s: float) -> None:
        """``call`` to ``model`` was answered with this status; 0 where the connection broke."""
        with self._lock:
            self.statuses[f"{call} {status}"] += 1
            self.longest_s[call] = max(self.longest_s.get(call, 0.0), elapsed_s)
            if call == "invoke" and status == 200:
                self._served_s[model] = time.monotonic()
        self.timeline.note(model, f"{call} answered {status} after {elapsed_s:.3f} s")

    def count(self, what: str, by: int = 1) -> None:
        """Adds to a counter."""
        with self._lock:
            self.counts[what] += by

    def violates(self, requirement: str, example: str, model: str | None = None, from_s: float = 0.0) -> None:
        """``requirement`` is not met: ``example`` says where. With ``model``, its call was sent at ``from_s``."""
        now_s = time.monotonic()
        with self._lock:
            self.violation_counts[requirement] += 1
            if self.violation_counts[requirement] <= MOST_EXAMPLES:
                self.violations.append(
                    Violation(requirement, f"{self.timeline.time_of_day(now_s)} {example}", model, from_s, now_s)
                )

    def begin_kill(self, model: str) -> Kill:
        """A worker is about to be killed: its request may be answered before ``end_kill`` is called."""
        kill = Kill(model, time.monotonic(), math.inf)
        with self._lock:
            self.kills.append(kill)
        return kill

    def end_kill(self, kill: Kill, pid: int | None) -> None:
        """It has been killed, or there was none (``pid`` None)."""
        with self._lock:
            kill.to_s = time.monotonic()
            if pid is None:
                self.kills.remove(kill)
                return
            self.counts["workers killed"] += 1
        self.timeline.note(kill.model, f"WORKER KILLED (process {pid})")

    def kills_in_a_row(self, model: str) -> int:
        """How many of its workers were killed since it last answered a request."""
        with self._lock:
            served_s = self._served_s.get(model, -math.inf)
            return sum(kill.model == model and kill.from_s > served_s for kill in self.kills)

    def note_for_all(self, text: str) -> None:
        """Something happened that may concern every model."""
        self.timeline.note(EVERY_MODEL, text)

    def was_killed(self, model: str, from_s: float, to_s: float) -> bool:
        """Whether a worker of ``model`` was killed while something was asked of it."""
        with self._lock:
            return any(kill.model == model and kill.is_between(from_s, to_s) for kill in self.kills)

    def excuses(self, model: str, status: int, from_s: float, to_s: float) -> bool:
        """Whether this answer is that of a request that a killed worker had: ``REQUESTS_PER_KILL`` are, and no more."""
        if status not in LOST_WITH_ITS_WORKER:
            return False
        with self._lock:
            for kill in self.kills:
                met = kill.model == model and kill.is_between(from_s, to_s)
                if met and kill.requests_lost < REQUESTS_PER_KILL:
                    kill.requests_lost += 1
                    self.counts[f"excused: request {kill.requests_lost} of a worker that was killed ({status})"] += 1
                    return True
        return False

    def total(self, call: str, *statuses: int) -> int:
        """How often ``call`` was answered, with one of ``statuses`` or at all."""
        with self._lock:
            if statuses:
                return sum(self.statuses[f"{call} {status}"] for status in statuses)
            return sum(number for name, number in self.statuses.items() if name.startswith(f"{call} "))

    def explain(self, violation: Violation) -> list[str]:
        """A violation, and what had happened to its model around then."""
        lines = [f"NOT MET: {violation.requirement}", f"  {violation.example}"]
        if violation.model is not None:
            told = self.timeline.around(violation.model, violation.from_s, violation.to_s)
            lines += [f"    {line}" for line in told]
        return lines
