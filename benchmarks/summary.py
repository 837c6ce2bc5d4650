"""From samples to figures: percentiles, and the ratio of two targets with its spread over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of ``values`` lie, interpolated between the two nearest."""
    if not values:
        raise ValueError("no values")
    if not 0 <= share <= 1:
        raise ValueError(f"a share is from 0 to 1, not {share}")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True)
class Summary:
    """What is kept of a sample of times; all in the sample's unit."""

    count: int
    p50: float
    p95: float
    p99: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Raises ValueError for an empty sample."""
        return cls(
            count=len(values),
            p50=percentile(values, 0.50),
            p95=percentile(values, 0.95),
            p99=percentile(values, 0.99),
            lowest=min(values),
            highest=max(values),
        )


@dataclass(frozen=True)
class Ratio:
    """How many times larger: ``value`` of all rounds together, ``lowest`` and ``highest`` of any single round."""

    value: float
    lowest: float
    highest: float

    @classmethod
    def of_rounds(cls, numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]]) -> Ratio:
        """Medians of all samples divided, and the same of each round. Both hold one non-empty sample per round."""
        if len(numerators) != len(denominators) or not numerators:
            raise ValueError(f"{len(numerators)} rounds against {len(denominators)}")
        each = [
            statistics.median(above) / statistics.median(below)
            for above, below in zip(numerators, denominators, strict=True)
        ]
        value = statistics.median(_flat(numerators)) / statistics.median(_flat(denominators))
        return cls(value, min(each), max(each))

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.lowest:.2f}–{self.highest:.2f})"


def _flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [value for values in rounds for value in values]
