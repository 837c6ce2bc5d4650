"""How requests are spread over models: the patterns of a load test. Only the standard library is imported.

uniform   every model as often as any other
popular   the first 11 models take 90 % of the requests, the others share the rest
hot       the first model takes 90 % of the requests, the others share the rest
zipf      the model of rank k takes a share in proportion to k ** -1.1
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

POPULAR_MODELS = 11
POPULAR_SHARE = 0.9
ZIPF_EXPONENT = 1.1


def shares(pattern: str, models: int) -> list[float]:
    """Each model's share of the requests; they add up to 1. ``models`` is at least 1."""
    return PATTERNS[pattern](models)


class Chooser:
    """Draws the number of a model (from 0) for one request after the other, the same for the same ``seed``."""

    def __init__(self, pattern: str, models: int, seed: int) -> None:
        self._numbers = range(models)
        self._cumulated = list(itertools.accumulate(shares(pattern, models)))
        self._chance = random.Random(seed)

    def next(self) -> int:
        """The next request's model."""
        return self._chance.choices(self._numbers, cum_weights=self._cumulated)[0]


def _uniform(models: int) -> list[float]:
    return [1 / models] * models


def _led_by(leaders: int) -> Callable[[int], list[float]]:
    def spread(models: int) -> list[float]:
        others = models - leaders
        if others < 1:  # all of them are popular
            return _uniform(models)
        return [POPULAR_SHARE / leaders] * leaders + [(1 - POPULAR_SHARE) / others] * others

    return spread


def _zipf(models: int) -> list[float]:
    weights = [rank**-ZIPF_EXPONENT for rank in range(1, models + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


PATTERNS: dict[str, Callable[[int], list[float]]] = {
    "uniform": _uniform,
    "popular": _led_by(POPULAR_MODELS),
    "hot": _led_by(1),
    "zipf": _zipf,
}
