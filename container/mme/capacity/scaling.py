"""How many workers each model gets. Pure: samples, limits, the last decision's memory and the time in; changes out.

One more   for a model in which requests wait while all its workers are busy: after ``HOLD_S`` in which they did, or
           after ``HEAVY_HOLD_S`` where more than ``HEAVY_BATCHES`` batches wait. Those first that keep most waiting.
           One at a time: the next one when the last one serves.
Fewer      for a model whose workers have not all been busy at once for its ``max_idle_time``: half of those that it
           has beyond its least. Never one that is busy, never below the least.
Bounds     of a model: its own, and cores × MME_WORKERS_PER_CORE. Over all models: as many workers beyond the models'
           least as that, for that many keep all cores busy.
Contention where a model should get a worker and cannot, because others have them all or because there is no memory,
           another one gives one of its own back as soon as it has been idle for ``CONTENDED_IDLE_S``: for each model
           that waits, the one that has been idle longest.
Refusals   a worker that did not come to serve (no memory, mostly) is asked for again after ``FIRST_WAIT_S``, and twice
           as long each time.

``least_workers`` and ``most_workers`` of a sample are the model's wish; what it has at least is never taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mme.settings import Settings

HEAVY_BATCHES = 2
HEAVY_HOLD_S = 0.05
HOLD_S = 0.5
# A sample stands for the time since the last one, but not for more: what was in between is not known.
_LONGEST_SAMPLE_S = 0.25
# While nothing waits, what has been noted goes this much faster than it came.
_FORGET = 2.0
_ROUNDING_S = 1e-6
SHORTEST_IDLE_S = 1.0
CONTENDED_IDLE_S = 0.5
# How long it may take until a worker that is asked for is among a model's workers.
ANSWERED_S = 0.2
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
# How often to look where requests wait or a worker is about to serve.
BUSY_LOOK_S = 0.05


@dataclass(frozen=True)
class Limits:
    """Of one server: the most workers of one model, and the most that all models have beyond their least."""

    workers_per_model: int
    extra_workers: int

    @classmethod
    def of(cls, settings: Settings, cores: float) -> Limits:
        """``cores`` are those that the server may use, which need not be whole."""
        workers = max(1, math.floor(cores * settings.workers_per_core))
        return cls(workers, workers)


class ModelSample(NamedTuple):
    """One model at one moment. (A tuple, as the next one: made many times a second.)"""

    name: str
    workers: int  # those that are still loading among them
    loaded: int  # those that serve
    busy: int  # those that work on requests
    waiting: int  # requests
    all_busy_s: float  # when all workers were last busy at once (time.monotonic)
    least_workers: int = 1
    most_workers: int = 1
    batch_size: int = 1
    max_idle_s: float = 60.0

    @property
    def extra_workers(self) -> int:
        """Those beyond its least."""
        return max(0, self.workers - self.least_workers)

    @property
    def is_pressed(self) -> bool:
        """Do requests wait that a further worker would begin?"""
        return self.is_heavily_pressed or (self.waiting > 0 and self.busy >= self.loaded)

    @property
    def is_heavily_pressed(self) -> bool:
        """Do more wait than its workers take with their next batches?"""
        return self.waiting > HEAVY_BATCHES * self.batch_size


class ModelMemory(NamedTuple):
    """What one decision leaves to the next about a model."""

    seen_s: float
    pressed_s: float = 0.0  # HOLD_S: it is to get a worker
    changed_s: float = -math.inf  # its number of workers
    asked_for: int | None = None  # so many workers, of which one is yet to serve
    refusals: int = 0  # in a row
    not_before_s: float = -math.inf  # is it asked for again

    @property
    def is_worth_keeping(self) -> bool:
        """Does it say more than a model's first sample?"""
        return self.pressed_s > 0 or self.asked_for is not None or self.refusals > 0


Memory = Mapping[str, ModelMemory]


@dataclass(frozen=True)
class Change:
    """A model is to have so many workers."""

    sample: ModelSample
    workers: int

    @property
    def name(self) -> str:
        """The model's."""
        return self.sample.name


@dataclass(frozen=True)
class Decision:
    """What to do now, what to remember, and after how long to look again (None: when requests wait)."""

    changes: Sequence[Change] = ()
    memory: Memory = field(default_factory=dict)
    look_again_s: float | None = None


def decide(samples: Iterable[ModelSample], limits: Limits, memory: Memory, now_s: float) -> Decision:
    """``samples`` has every model in which requests wait, that has workers beyond its least, or is in ``memory``.

    Other models need none. A model of ``memory`` that is not among the samples has been unloaded.
    """
    models = {each.name: each for each in samples}
    noted = {name: _note(sample, memory.get(name), now_s) for name, sample in models.items()}
    growing, blocked = _growing(models, noted, limits, now_s)
    shrinking = _shrinking(models, noted, now_s, blocked)
    if blocked and shrinking:  # who waits takes now what is given back now
        given_back = sum(each.sample.workers - each.workers for each in shrinking)
        growing, _ = _growing(models, noted, limits, now_s, given_back)
    changes = [*growing, *shrinking]
    for each in changes:
        asked_for = each.workers if each.workers > each.sample.workers else None
        noted[each.name] = noted[each.name]._replace(changed_s=now_s, pressed_s=0.0, asked_for=asked_for)
    kept = {
        name: note
        for name, note in noted.items()
        if note.is_worth_keeping or models[name].is_pressed or models[name].extra_workers
    }
    return Decision(changes, kept, _look_again_s(models, kept, changes, now_s))


def _note(sample: ModelSample, before: ModelMemory | None, now_s: float) -> ModelMemory:
    """What is known of a model after one more sample."""
    if before is None:
        before = ModelMemory(now_s, changed_s=now_s if sample.extra_workers else -math.inf)
    elapsed_s = min(now_s - before.seen_s, _LONGEST_SAMPLE_S)
    if sample.is_pressed:
        pressed_s = before.pressed_s + elapsed_s * (HOLD_S / HEAVY_HOLD_S if sample.is_heavily_pressed else 1)
    else:
        pressed_s = before.pressed_s - elapsed_s * _FORGET
    note = before._replace(seen_s=now_s, pressed_s=min(HOLD_S, max(0.0, pressed_s)))
    if note.asked_for is None:
        return note
    if sample.workers < note.asked_for:
        if now_s - note.changed_s < ANSWERED_S:
            return note  # it may not have been begun yet
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**note.refusals)
        return note._replace(asked_for=None, refusals=note.refusals + 1, not_before_s=now_s + wait_s)
    if sample.loaded >= note.asked_for:
        return note._replace(asked_for=None, refusals=0)
    return note


def _most_workers(sample: ModelSample, limits: Limits) -> int:
    return max(sample.least_workers, min(sample.most_workers, limits.workers_per_model))


def _growing(
    models: Mapping[str, ModelSample], noted: Memory, limits: Limits, now_s: float, given_back: int = 0
) -> tuple[list[Change], set[str]]:
    """The models that get a worker, and the names of those that should and cannot.

    ``given_back`` workers beyond the models' least are about to go.
    """
    extra = sum(each.extra_workers for each in models.values()) - given_back
    changes: list[Change] = []
    blocked: set[str] = set()
    for sample in sorted(models.values(), key=lambda each: (-each.waiting, each.name)):
        note = noted[sample.name]
        is_below_least = sample.workers < sample.least_workers
        is_wanting = sample.workers < _most_workers(sample, limits) and note.pressed_s >= HOLD_S - _ROUNDING_S
        is_coming = sample.loaded < sample.workers or note.asked_for is not None
        if is_coming or not (is_below_least or is_wanting):
            continue
        if now_s < note.not_before_s:
            blocked.add(sample.name)
        elif is_below_least:
            changes.append(Change(sample, sample.workers + 1))
        elif extra < limits.extra_workers:
            extra += 1
            changes.append(Change(sample, sample.workers + 1))
        else:
            blocked.add(sample.name)
    return changes, blocked


def _shrinking(models: Mapping[str, ModelSample], noted: Memory, now_s: float, blocked: set[str]) -> list[Change]:
    idle_s = {}
    for sample in models.values():
        is_idle = sample.waiting == 0 and sample.busy < sample.workers and noted[sample.name].asked_for is None
        if sample.extra_workers and is_idle:
            idle_s[sample.name] = _idle_s(sample, noted[sample.name], now_s)
    changes: list[Change] = []
    wanted = len(blocked - idle_s.keys())
    for name in sorted(idle_s, key=lambda name: (-idle_s[name], name)):
        sample = models[name]
        if idle_s[name] >= _longest_idle_s(sample):
            workers = sample.least_workers + sample.extra_workers // 2
        elif idle_s[name] >= CONTENDED_IDLE_S and len(changes) < wanted:
            workers = sample.workers - 1
        else:
            continue
        workers = max(workers, sample.busy)
        if workers < sample.workers:
            changes.append(Change(sample, workers))
    return changes


def _idle_s(sample: ModelSample, note: ModelMemory, now_s: float) -> float:
    """For how long a worker less would have done."""
    return now_s - max(sample.all_busy_s, note.changed_s)


def _longest_idle_s(sample: ModelSample) -> float:
    return max(sample.max_idle_s, SHORTEST_IDLE_S)


def _look_again_s(
    models: Mapping[str, ModelSample], noted: Memory, changes: Sequence[Change], now_s: float
) -> float | None:
    if changes or any(each.waiting or each.loaded < each.workers for each in models.values()):
        return BUSY_LOOK_S
    if any(each.pressed_s > 0 or each.asked_for is not None for each in noted.values()):
        return BUSY_LOOK_S
    due_s = [
        _longest_idle_s(each) - _idle_s(each, noted[each.name], now_s)
        for each in models.values()
        if each.extra_workers and each.name in noted
    ]
    return max(BUSY_LOOK_S, min(due_s)) if due_s else None
