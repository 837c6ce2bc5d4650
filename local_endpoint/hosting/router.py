"""Which instance serves a request: a pure choice among samples, so that it can be tested without containers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One instance as it is now. ``index`` names it."""

    index: int
    has_model: bool
    """The model is loaded here, or on its way."""
    is_ready: bool
    """The model is loaded here."""
    is_on_disk: bool
    """The model's artifact is here: loading it needs no download."""
    takes_copy: bool
    """A copy may be loaded here: the last one did not fail a moment ago."""
    model_users: int
    """Requests of this model in flight here, or waiting for it."""
    in_flight: int
    """Requests of all models in flight here."""
    models: int
    """Models loaded here."""


@dataclass(frozen=True)
class Choice:
    """``serve`` answers the request; ``copy_to``, if any, is to get a copy of the model in the background."""

    serve: int
    copy_to: int | None = None


def choose(samples: Sequence[Sample], busy_invocations: int) -> Choice:
    """A model stays on the instance that has it; where all that have it are busy, one more instance gets a copy.

    The request itself goes to an instance that is ready, not to the one that has to load first.
    """
    holders = [sample for sample in samples if sample.has_model]
    others = [sample for sample in samples if not sample.has_model]
    if not holders:
        return Choice(_newcomer(others, busy_invocations).index)
    ready = [sample for sample in holders if sample.is_ready] or holders
    best = min(ready, key=lambda sample: (sample.model_users, sample.in_flight, sample.index))
    is_on_its_way = any(not sample.is_ready for sample in holders)
    takers = [sample for sample in others if sample.takes_copy]
    if best.is_ready and best.model_users >= busy_invocations and takers and not is_on_its_way:
        return Choice(best.index, _newcomer(takers, busy_invocations).index)
    return Choice(best.index)


def _newcomer(samples: Sequence[Sample], busy_invocations: int) -> Sample:
    """Where a model is to be loaded: where its artifact is, unless others have that much less to do."""
    least_in_flight = min(sample.in_flight for sample in samples)
    near = [sample for sample in samples if sample.is_on_disk and sample.in_flight < least_in_flight + busy_invocations]
    return min(near or samples, key=lambda sample: (sample.in_flight, sample.models, sample.index))
