"""What became of every call: cold apart from warm, by the second, and errors by kind.

A call is cold where its model had not answered yet in this run when it was sent: it may wait for a download, a load or
a wake-up. A model that is evicted or falls asleep during the run is not seen to be cold by a client.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.load_test.destinations import Outcome
from benchmarks.summary import percentile

MOST_EXAMPLES = 3  # of each kind of error
COLD, WARM = "cold", "warm"


@dataclass(frozen=True)
class Call:
    """One call. Times are seconds; ``ended_s`` counts from the start of the run."""

    ended_s: float
    latency_s: float
    is_cold: bool
    is_right: bool


@dataclass(frozen=True)
class Second:
    """What ended in one second of the run. Percentiles are of right answers, None where there was none."""

    number: int
    answers: int
    errors: int
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None


class Record:
    """Filled by greenlets of one thread."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.errors: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)
        self.sent = 0
        self.most_behind_s = 0.0  # how late the latest request of an open loop was sent
        self.started_s = time.perf_counter()
        self.ended_s = self.started_s
        self._answered: set[str] = set()

    def start(self) -> None:
        """The run begins now."""
        self.started_s = self.ended_s = time.perf_counter()

    def send(self, model: str) -> bool:
        """A call of this model is sent now. Is it cold?"""
        self.sent += 1
        return model not in self._answered

    def end(self, model: str, is_cold: bool, latency_s: float, outcome: Outcome) -> None:
        """It has ended just now."""
        self.ended_s = time.perf_counter()
        at_s = self.ended_s - self.started_s
        self.calls.append(Call(at_s, latency_s, is_cold, outcome.error is None))
        if outcome.error is None:
            self._answered.add(model)
            return
        self.errors[outcome.error] += 1
        if len(self.examples[outcome.error]) < MOST_EXAMPLES:
            self.examples[outcome.error].append(f"after {at_s:.1f} s, {model}: {outcome.said}".rstrip(": "))

    def refuse(self, why: str) -> None:
        """A request that was due is not sent."""
        self.sent += 1
        self.errors[why] += 1

    def give_up(self, unanswered: int, timeout_s: float) -> None:
        """So many calls are still under way, and are not waited for any longer."""
        if unanswered:
            self.errors["no answer in time"] += unanswered
            self.examples["no answer in time"].append(f"{unanswered} at the end, waited for {timeout_s:g} s")

    @property
    def duration_s(self) -> float:
        """From the start to the last answer."""
        return self.ended_s - self.started_s

    @property
    def failed(self) -> int:
        """Requests without their answer."""
        return self.errors.total()

    def of_kind(self, is_cold: bool | None) -> list[Call]:
        """Cold ones, warm ones or (None) all."""
        return [call for call in self.calls if is_cold is None or call.is_cold == is_cold]

    def seconds(self) -> list[Second]:
        """Every second of the run, also those in which nothing ended."""
        by_second: defaultdict[int, list[Call]] = defaultdict(list)
        for call in self.calls:
            by_second[int(call.ended_s)].append(call)
        last = max(by_second, default=-1)
        return [_second(number, by_second.get(number, [])) for number in range(last + 1)]


def latencies_s(calls: Iterable[Call]) -> list[float]:
    """Of the right answers."""
    return [call.latency_s for call in calls if call.is_right]


def _second(number: int, calls: list[Call]) -> Second:
    times_s = latencies_s(calls)
    p50_s, p95_s, p99_s = [percentile(times_s, share) if times_s else None for share in (0.50, 0.95, 0.99)]
    return Second(number, len(times_s), len(calls) - len(times_s), p50_s, p95_s, p99_s)
