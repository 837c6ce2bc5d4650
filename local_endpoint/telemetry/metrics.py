"""CloudWatch's metrics of endpoints: what happens is counted, instances are looked at, both are published together.

    Events ─► a queue ─(every second)─► aggregates per series ─(every period)─► MetricStore ◄─ moto's CloudWatch

Dimensions are EndpointName and VariantName; where an instance has several containers the same again with ContainerName.
``TARGET_MODELS`` is a namespace of our own: the same by TargetModel, which AWS does not have.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from local_endpoint.events import Event, Invoked, ModelDownloaded, ModelLoaded, ModelUnloaded, Where
from local_endpoint.telemetry.metric_store import Aggregate, MetricStore, Series

logger = logging.getLogger(__name__)

INVOCATIONS = "AWS/SageMaker"
INSTANCES = "/aws/sagemaker/Endpoints"
TARGET_MODELS = "LocalEndpoint/TargetModels"
DRAIN_S = 1.0

Dimensions = tuple[tuple[str, str], ...]
Sample = tuple[str, str, float]
"""Name, unit, value."""
Looked = tuple[str, str, Dimensions, list[Sample]]
"""Region, namespace, dimensions, and what is added to each of the metrics there."""
_Place = tuple[str, str, Dimensions]
"""Region, namespace and dimensions: where several metrics are."""


class Metrics:
    """``start`` → ``on_event`` from any thread → ``stop``."""

    def __init__(self, store: MetricStore, look: Callable[[], Iterable[Looked]], period_s: float) -> None:
        """``look`` is called once a period: what the instances take at that moment."""
        self._store = store
        self._look = look
        self._period_s = period_s
        self._events: collections.deque[Event] = collections.deque()
        self._found: dict[_Place, dict[tuple[str, str], Aggregate]] = {}  # by name and unit
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def on_event(self, event: Event) -> None:
        """A listener of ``Events``."""
        self._events.append(event)

    # ---- the thread ----

    def _run(self) -> None:
        """Publishes at whole multiples of the period, as CloudWatch's minutes are."""
        period_start_s = time.time() // self._period_s * self._period_s
        while True:
            left_s = period_start_s + self._period_s - time.time()
            if self._stopping.wait(max(0.0, min(DRAIN_S, left_s))):
                return
            try:
                self._drain()
                if time.time() >= period_start_s + self._period_s:
                    for region, namespace, dimensions, samples in self._look():
                        self._add(region, namespace, dimensions, samples)
                    found, self._found = self._found, {}
                    self._store.publish(period_start_s, _series(found))
            except Exception:
                logger.exception("metrics could not be published")
            period_start_s = max(period_start_s, time.time() // self._period_s * self._period_s)

    def _drain(self) -> None:
        for _ in range(len(self._events)):
            event = self._events.popleft()
            for namespace, dimensions, samples in samples_of(event):
                self._add(event.where.region, namespace, dimensions, samples)

    def _add(self, region: str, namespace: str, dimensions: Dimensions, samples: Iterable[Sample]) -> None:
        place = self._found.setdefault((region, namespace, dimensions), {})
        for name, unit, value in samples:
            aggregate = place.get((name, unit))
            if aggregate is None:
                aggregate = place[(name, unit)] = Aggregate()
            aggregate.add(value)


def _series(found: dict[_Place, dict[tuple[str, str], Aggregate]]) -> dict[Series, Aggregate]:
    return {
        Series(region, namespace, name, dimensions, unit): aggregate
        for (region, namespace, dimensions), aggregates in found.items()
        for (name, unit), aggregate in aggregates.items()
    }


def dimensions_of(endpoint: str, variant: str, **more: str | None) -> Dimensions:
    """As CloudWatch names them; those that are None are left out."""
    further = [(name, value) for name, value in more.items() if value is not None]
    return (("EndpointName", endpoint), ("VariantName", variant), *further)


# ---- what an event adds ----

Samples = tuple[str, Dimensions, list[Sample]]
"""Namespace, dimensions, and what is added to each of its metrics."""


def samples_of(event: Event) -> Iterator[Samples]:
    """What the event is worth, in every namespace and with all dimensions that it has."""
    where = event.where
    samples = _samples(event)
    variant = dimensions_of(where.endpoint, where.variant)
    yield INVOCATIONS, variant, samples
    if isinstance(event, Invoked):
        yield from _calls(event)
    elif where.container is not None:
        yield INVOCATIONS, (*variant, ("ContainerName", where.container)), samples
    if event.target is not None:
        own = [each for each in samples if each[0] != "InvocationsPerInstance"]
        yield TARGET_MODELS, _of_target(where, event.target), own


def _of_target(where: Where, target: str) -> Dimensions:
    return dimensions_of(where.endpoint, where.variant, ContainerName=where.container, TargetModel=target)


def _samples(event: Event) -> list[Sample]:
    if isinstance(event, ModelDownloaded):
        return [_duration("ModelDownloadingTime", event.duration_s)]
    if isinstance(event, ModelLoaded):
        return [_duration("ModelLoadingTime", event.duration_s)]
    if isinstance(event, ModelUnloaded):
        return [_duration("ModelUnloadingTime", event.duration_s)]
    samples: list[Sample] = [
        ("Invocations", "None", 1.0),
        ("InvocationsPerInstance", "None", 1.0 / max(1, event.instances)),
        *_errors(event.model_status, event.status == 424),
        # all that is not the model's, as AWS defines it
        _duration("OverheadLatency", event.overhead_s + event.waited_s),
    ]
    if event.calls:
        samples.append(_duration("ModelLatency", event.model_latency_s))
    if event.target is not None and event.where.instance is not None:
        samples.append(("ModelCacheHit", "None", float(event.cache_hit)))
        if not event.cache_hit:
            samples.append(_duration("ModelLoadingWaitTime", event.waited_s))
    return samples


def _calls(event: Invoked) -> Iterator[Samples]:
    where = event.where
    for call in event.calls:
        if call.container is None:
            continue
        own: list[Sample] = [("Invocations", "None", 1.0)]
        own += _errors(call.status, call.status is None or not 200 <= call.status < 300)
        own.append(_duration("ContainerLatency", call.latency_s))
        yield INVOCATIONS, dimensions_of(where.endpoint, where.variant, ContainerName=call.container), own


def _errors(status: int | None, is_models: bool) -> list[Sample]:
    """0 or 1 for each request, so that the average is the rate."""
    status = status or 0
    return [
        ("Invocation4XXErrors", "None", float(400 <= status < 500)),
        ("Invocation5XXErrors", "None", float(500 <= status < 600)),
        ("InvocationModelErrors", "None", float(is_models)),
    ]


def _duration(name: str, duration_s: float) -> Sample:
    return name, "Microseconds", duration_s * 1e6
