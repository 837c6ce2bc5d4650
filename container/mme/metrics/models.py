"""Which models have metrics of their own, and what these are.

``ModelReader.read`` is called for each scrape. It reads what the front end (supervisor/model_statistics.py) and
sessions have written, and asks nobody.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from mme.metrics.sessions import SessionReader, Sessions
from mme.supervisor.model_statistics import BUCKETS, ModelSample, ModelStatistics
from mme.zygote.session_records import model_key

_FIRST = ModelSample._fields.index("arrivals")
_LAST = ModelSample._fields.index("queue_buckets")
_FIELDS = ModelSample._fields[_FIRST:_LAST]
# What is counted of a model, in this order.
COUNTERS = (
    *_FIELDS,
    *(f"{time}_bucket_{bucket}" for time in ("queue", "handler", "whole") for bucket in range(BUCKETS)),
    *("sleeps", "wake_ups"),
)
# What is now.
_STATISTICS_GAUGES = ("waiting", "under_way", "workers", "busy_workers", "wanted_workers")
GAUGES = (*_STATISTICS_GAUGES, "taken_mib", "asleep")
# The shortest time that a share of busy time is taken over: several scrapers see the same.
_SHARE_OVER_NS = 5_000_000_000


@dataclass(frozen=True)
class ModelMetrics:
    """One model, or all those together that have no metrics of their own: then ``name`` is None."""

    name: str | None
    target: str
    counters: list[int]  # in the order of COUNTERS
    gauges: list[int]  # in the order of GAUGES
    busy_share: float = 0.0  # of its workers' time, lately


@dataclass
class _Own:
    """A model that has metrics of its own."""

    generation: int
    key: int
    base: list[int] | None  # what was counted of it while it was among the others
    shown: list[int] = field(default_factory=lambda: [0] * len(COUNTERS))
    share: float = 0.0
    share_since_ns: int = 0
    share_busy_ns: int = 0


class ModelReader:
    """Gives ``most_models`` models metrics of their own; counters never fall, nor do those of all others together.

    A model keeps its own for as long as it is loaded, and for as long as no loaded model wants them.
    """

    def __init__(self, statistics: ModelStatistics, sessions: SessionReader, most_models: int) -> None:
        self._statistics = statistics
        self._sessions = sessions
        self._most_models = most_models
        self._own: dict[int, _Own] = {}  # by record
        self._others: dict[int, int] = {}  # by record: the generation that is among the others
        self._given_up = [0] * len(COUNTERS)  # what models had shown when others got their place
        self.asleep = 0  # models of which all sessions sleep

    def read(self) -> list[ModelMetrics]:
        """Of each model that has its own, and of all others together, where there are any."""
        sessions = self._sessions.read()
        self.asleep = sum(1 for each in sessions.values() if each.asleep and not each.taken_mib)
        self._choose(sessions)
        now_ns = time.monotonic_ns()
        found = []
        for number, own in self._own.items():
            sample, of_sessions = self._statistics.sample(number), sessions.get(own.key, Sessions())
            own.shown = _counters(sample, of_sessions)
            if own.base is not None:
                own.shown = [max(0, now - base) for now, base in zip(own.shown, own.base, strict=True)]
            gauges = [*map(sample.__getattribute__, _STATISTICS_GAUGES), of_sessions.taken_mib, of_sessions.asleep]
            found.append(ModelMetrics(sample.name, sample.target, own.shown, gauges, _busy_share(own, sample, now_ns)))
        if self._are_there_others():
            found.append(self._all_others(found, sessions))
        return found

    def _are_there_others(self) -> bool:
        """Whether there are models without their own metrics, or have been that something was counted of."""
        counted = [self._given_up, *(own.base for own in self._own.values() if own.base is not None)]
        return bool(self._others) or any(map(any, counted)) or self._statistics.sample(0).arrivals > 0

    def _all_others(self, own: list[ModelMetrics], sessions: dict[int, Sessions]) -> ModelMetrics:
        """All records together, less what is shown of models that have their own, or was shown when they had."""
        statistics = self._statistics
        counters = [sum(statistics.column(each)) for each in _FIELDS]
        counters += [sum(statistics.bucket_column(each)) for each in range(3 * BUCKETS)]
        counters += [sum(each.sleeps for each in sessions.values()), sum(each.wake_ups for each in sessions.values())]
        gauges = [sum(statistics.column(each)) for each in _STATISTICS_GAUGES]
        gauges += [sum(each.taken_mib for each in sessions.values()), sum(each.asleep for each in sessions.values())]
        shown = zip(self._given_up, *(each.counters for each in own), strict=True)
        seen = zip([0] * len(GAUGES), *(each.gauges for each in own), strict=True)
        return ModelMetrics(
            None,
            "",
            [max(0, every - sum(some)) for every, some in zip(counters, shown, strict=True)],
            [max(0, every - sum(some)) for every, some in zip(gauges, seen, strict=True)],
        )

    def _choose(self, sessions: dict[int, Sessions]) -> None:
        states, generations = self._statistics.columns("state", "generation")
        for number in [number for number, own in self._own.items() if own.generation != generations[number]]:
            self._give_up(number)
        unloaded = [number for number in self._own if not states[number]]
        for number, state in enumerate(states):
            if not number or number in self._own:
                continue
            is_full = len(self._own) >= self._most_models
            if not state or (is_full and not unloaded):
                self._others[number] = generations[number]
                continue
            if is_full:
                self._give_up(unloaded.pop(0))
            self._take_up(number, sessions)

    def _take_up(self, number: int, sessions: dict[int, Sessions]) -> None:
        sample = self._statistics.sample(number)
        key = model_key(sample.name)
        base = None
        if self._others.pop(number, 0) == sample.generation:
            base = _counters(sample, sessions.get(key, Sessions()))
        self._own[number] = _Own(sample.generation, key, base)

    def _give_up(self, number: int) -> None:
        own = self._own.pop(number)
        self._others[number] = own.generation
        self._given_up = [kept + shown for kept, shown in zip(self._given_up, own.shown, strict=True)]


def _counters(sample: ModelSample, sessions: Sessions) -> list[int]:
    fields: tuple[int, ...] = sample[_FIRST:_LAST]  # type: ignore[assignment]
    return [
        *fields,
        *sample.queue_buckets,
        *sample.handler_buckets,
        *sample.whole_buckets,
        *(sessions.sleeps, sessions.wake_ups),
    ]


def _busy_share(own: _Own, sample: ModelSample, now_ns: int) -> float:
    if not own.share_since_ns:
        own.share_since_ns, own.share_busy_ns = now_ns, sample.busy_ns
    elif now_ns - own.share_since_ns >= _SHARE_OVER_NS:
        worked_ns = (now_ns - own.share_since_ns) * max(1, sample.workers)
        own.share = min(1.0, (sample.busy_ns - own.share_busy_ns) / worked_ns)
        own.share_since_ns, own.share_busy_ns = now_ns, sample.busy_ns
    return own.share
