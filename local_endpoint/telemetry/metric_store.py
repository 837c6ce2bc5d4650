"""The metrics that this local endpoint publishes, where moto's CloudWatch finds them beside what clients have put.

moto keeps every datum in one list, goes through all of it for each request, and takes dimensions that a request leaves
out as equal. Here each request gets the series that it names, and no other.
"""

from __future__ import annotations

import collections
import datetime
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from moto.cloudwatch.models import CloudWatchBackend, MetricAggregatedDatum

from local_endpoint.configuration import ACCOUNT
from local_endpoint.telemetry.percentiles import Buckets, middle_of_bucket

# Points that are kept, of all series together; the oldest go first (our choice). 1,000 models that are all invoked
# make about 8,000 a minute.
POINTS = 200_000


class Series(NamedTuple):
    """One metric with its dimensions."""

    region: str
    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]
    unit: str


class Aggregate:
    """What CloudWatch keeps of the values of one period. ``buckets`` are filled once two values differ."""

    __slots__ = ("buckets", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self.buckets: dict[float, int] = {}
        self.count = 0
        self.total = 0.0
        self.minimum = float("inf")
        self.maximum = float("-inf")

    def add(self, value: float) -> None:
        if self.minimum != value or self.maximum != value:
            self._sort_in(value)
        self.count += 1
        self.total += value
        if value < self.minimum:  # twice as quick as min() and max(), and there are 15 values to an invocation
            self.minimum = value
        if value > self.maximum:
            self.maximum = value

    def _sort_in(self, value: float) -> None:
        if self.count:
            buckets = self.buckets or {middle_of_bucket(self.minimum): self.count}
            middle = middle_of_bucket(value)
            buckets[middle] = buckets.get(middle, 0) + 1
            self.buckets = buckets


@dataclass(frozen=True)
class _Wanted:
    """Which series the request of a thread is about; a member that is None is about all.

    ``exactly``: those with these dimensions and no other.
    """

    namespace: str | None = None
    name: str | None = None
    dimensions: tuple[tuple[str, str], ...] = ()
    exactly: bool = False

    def fits(self, series: Series) -> bool:
        if self.namespace not in (None, series.namespace) or self.name not in (None, series.name):
            return False
        # ListMetrics may name a dimension without a value
        names = {name for name, _ in series.dimensions}
        return all(each in series.dimensions or (not each[1] and each[0] in names) for each in self.dimensions)


class _Datum(MetricAggregatedDatum):
    """A point as moto has it. It was chosen already."""

    buckets: Buckets

    def filter(self, *_: Any, **__: Any) -> bool:
        return True


class MetricStore:
    """``install`` → ``publish`` once a period → ``uninstall``. One per process, as moto's state is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: dict[Series, collections.deque[tuple[datetime.datetime, Aggregate]]] = {}
        self._series: dict[tuple[str, str, str, frozenset[tuple[str, str]]], Series] = {}  # by all but the unit
        self._order: collections.deque[Series] = collections.deque()  # of all points, the oldest first
        self._request = threading.local()
        self._originals: dict[str, Any] = {}

    def publish(self, time_s: float, found: Mapping[Series, Aggregate]) -> None:
        """What was ``found`` in the period that began at ``time_s`` (since the epoch)."""
        when = datetime.datetime.fromtimestamp(time_s, datetime.UTC).replace(tzinfo=None)  # as moto has it
        with self._lock:
            for series, aggregate in found.items():
                key = _key(series)
                if (known := self._series.get(key)) == series:
                    series = known  # one object for all of its points
                self._series[key] = series
                self._points.setdefault(series, collections.deque()).append((when, aggregate))
                self._order.append(series)
            while len(self._order) > POINTS:
                series = self._order.popleft()
                self._points[series].popleft()
                if not self._points[series]:
                    del self._points[series]
                    del self._series[_key(series)]

    # ---- moto ----

    def install(self) -> None:
        for name, wanted in (
            ("get_metric_statistics", _of_statistics),
            ("get_metric_data", _of_data),
            ("get_filtered_metrics", _of_list),
        ):
            self._wrap(name, lambda original, wanted=wanted: self._with_wanted(original, wanted))  # type: ignore[misc]
        self._wrap("get_all_metrics", self._with_ours)

    def uninstall(self) -> None:
        for name, original in self._originals.items():
            setattr(CloudWatchBackend, name, original)

    def _wrap(self, name: str, wrapper: Callable[[Any], Any]) -> None:
        self._originals[name] = getattr(CloudWatchBackend, name)
        setattr(CloudWatchBackend, name, wrapper(self._originals[name]))

    def _with_wanted(self, original: Any, wanted: Callable[..., list[_Wanted]]) -> Any:
        def method(backend: Any, *arguments: Any, **named: Any) -> Any:
            self._request.wanted = wanted(*arguments, **named)
            try:
                return original(backend, *arguments, **named)
            finally:
                self._request.wanted = []

        return method

    def _with_ours(self, original: Any) -> Any:
        def get_all_metrics(backend: Any) -> list[Any]:
            if backend.account_id != ACCOUNT:
                return list(original(backend))
            return [*original(backend), *self._chosen(backend.region_name)]

        return get_all_metrics

    def _chosen(self, region: str) -> list[_Datum]:
        wanted: list[_Wanted] = getattr(self._request, "wanted", [])
        with self._lock:
            chosen = [point for each in wanted for point in self._points_of(region, each)]
        return [_datum(series, when, aggregate) for series, when, aggregate in chosen]

    def _points_of(self, region: str, wanted: _Wanted) -> list[tuple[Series, datetime.datetime, Aggregate]]:
        """All of the one series that is meant, or the newest of each. Call it holding the lock."""
        if wanted.exactly:
            key = (region, wanted.namespace or "", wanted.name or "", frozenset(wanted.dimensions))
            series = self._series.get(key)
            return [(series, *point) for point in self._points[series]] if series is not None else []
        return [
            (series, *points[-1])
            for series, points in self._points.items()
            if series.region == region and wanted.fits(series)
        ]


def _key(series: Series) -> tuple[str, str, str, frozenset[tuple[str, str]]]:
    return series.region, series.namespace, series.name, frozenset(series.dimensions)


def _datum(series: Series, when: datetime.datetime, aggregate: Aggregate) -> _Datum:
    datum = _Datum(
        series.namespace,
        series.name,
        aggregate.minimum,
        aggregate.maximum,
        aggregate.count,
        aggregate.total,
        [{"Name": name, "Value": value} for name, value in series.dimensions],
        when,
        series.unit,
    )
    datum.buckets = aggregate.buckets
    return datum


def _pairs(dimensions: Iterable[Mapping[str, str]] | None) -> tuple[tuple[str, str], ...]:
    return tuple((each["Name"], each.get("Value") or "") for each in dimensions or ())


# Each has the arguments of moto's method.


def _of_statistics(
    namespace: str, metric_name: str, *_: Any, dimensions: list[dict[str, str]] | None = None, **__: Any
) -> list[_Wanted]:
    return [_Wanted(namespace, metric_name, _pairs(dimensions), exactly=True)]


def _of_data(queries: list[dict[str, Any]], *_: Any, **__: Any) -> list[_Wanted]:
    metrics = [each["MetricStat"]["Metric"] for each in queries if "MetricStat" in each]
    wanted = {
        _Wanted(each["Namespace"], each["MetricName"], _pairs(each.get("Dimensions")), exactly=True) for each in metrics
    }
    return list(wanted)  # a series is asked for once per statistic


def _of_list(metric_name: str | None, namespace: str | None, dimensions: list[dict[str, str]]) -> list[_Wanted]:
    return [_Wanted(namespace, metric_name, _pairs(dimensions))]
