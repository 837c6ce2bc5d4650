"""Percentiles of CloudWatch's metrics (``p99``, ``p99.9``), which moto does not have.

A value falls into the bucket of its logarithm, and a percentile is the middle of the bucket in which it lies: within
one part in a hundred, whatever the values are. What clients have put as single values counts as such.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from moto.cloudwatch.exceptions import ValidationError
from moto.cloudwatch.models import CloudWatchBackend, MetricAggregatedDatum, MetricDatum, Statistics
from moto.cloudwatch.responses import CloudWatchResponse

PLAIN = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")
_PERCENTILE = re.compile(r"p(100|\d{1,2}(\.\d{1,10})?)")
_WIDTH = math.log(1.02)  # of a bucket

Buckets = Mapping[float, int]
"""How many values are in each bucket, by the middle of it."""


def middle_of_bucket(value: float) -> float:
    """Of the one that ``value`` falls into; zero has one of its own."""
    if not value:
        return 0.0
    middle = _middle(math.ceil(math.log(abs(value)) / _WIDTH))
    return middle if value > 0 else -middle


@functools.lru_cache(4096)
def _middle(number: int) -> float:
    """Of a bucket of positive values. One object for all points that are kept."""
    return math.exp((number - 0.5) * _WIDTH)


def of_counts(counts: Iterable[tuple[float, int]], percent: float) -> float | None:
    """The least value that ``percent`` of all do not exceed; ``counts``: values, and how often each is there."""
    ordered = sorted(counts)
    rank = max(1, math.ceil(percent / 100 * sum(count for _, count in ordered)))
    for value, count in ordered:
        rank -= count
        if rank <= 0:
            return value
    return None


def of_data(data: Iterable[Any], name: str) -> float | None:
    """``name`` (p99) of moto's data. None where one is a summary of several values: CloudWatch has none then, too."""
    percentile = _PERCENTILE.fullmatch(name)
    assert percentile
    counts: list[tuple[float, int]] = []
    for each in data:
        if isinstance(each, MetricDatum):
            counts.append((each.value, 1))
        elif isinstance(each, MetricAggregatedDatum):
            buckets = getattr(each, "buckets", None)
            if each.min == each.max:
                counts.append((each.min, int(each.sample_count)))
            elif buckets is None:
                return None
            else:
                counts += [(min(max(middle, each.min), each.max), count) for middle, count in buckets.items()]
    return of_counts(counts, float(percentile[1]))


def check(names: Iterable[str], allowed: Iterable[str]) -> None:
    """Raises moto's ``ValidationError`` for a statistic that is neither ``allowed`` nor a percentile."""
    for name in names:
        if name not in allowed and not _PERCENTILE.fullmatch(name):
            known = ", ".join([*allowed, "percentiles (p50, p99.9)"])
            raise ValidationError(f"The statistic {name} is not supported by this local endpoint, which has {known}.")


class Percentiles:
    """``install`` → requests for percentiles are answered → ``uninstall``. One per process, as moto's state is."""

    def __init__(self) -> None:
        self._originals: list[tuple[Any, str, Any]] = []

    def install(self) -> None:
        for owner, name, wrapper in (
            (CloudWatchBackend, "get_metric_data", _checked_and_without_gaps),
            (CloudWatchResponse, "get_metric_statistics", _with_extended_statistics),
            (Statistics, "get_statistics_for_type", _with_percentiles),
        ):
            original = getattr(owner, name)
            self._originals.append((owner, name, original))
            setattr(owner, name, wrapper(original))

    def uninstall(self) -> None:
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)


# Each takes moto's method, and returns what comes in its place.


def _checked_and_without_gaps(original: Any) -> Any:
    def get_metric_data(backend: Any, queries: list[dict[str, Any]], *arguments: Any, **named: Any) -> Any:
        check((query["MetricStat"]["Stat"] for query in queries if "MetricStat" in query), PLAIN)
        return [_without_gaps(each) for each in original(backend, queries, *arguments, **named)]

    return get_metric_data


def _with_extended_statistics(original: Any) -> Any:
    def get_metric_statistics(response: Any) -> Any:
        asked = response._get_param("ExtendedStatistics") or []
        check(asked, ())
        answer = original(response)
        for point in answer.result["Datapoints"]:
            found = {name: of_data(point.metric_data, name) for name in asked}
            point.extended_statistics = {name: value for name, value in found.items() if value is not None}
        return answer

    return get_metric_statistics


def _with_percentiles(original: Any) -> Any:
    def get_statistics_for_type(statistics: Any, stat: str) -> Any:
        return original(statistics, stat) if stat in PLAIN else of_data(statistics.metric_data, stat)

    return get_statistics_for_type


def _without_gaps(result: dict[str, Any]) -> dict[str, Any]:
    """A result of GetMetricData without the points of which the statistic is not known."""
    known = [pair for pair in zip(result["timestamps"], result["values"], strict=True) if pair[1] is not None]
    return {**result, "timestamps": [time for time, _ in known], "values": [value for _, value in known]}
