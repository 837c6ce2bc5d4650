"""Each metric once: its name, what it says, its labels and where its numbers come from. docs/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from mme.capacity.memory import MIB
from mme.metrics.container import LOAD_RESULTS, ContainerMetrics
from mme.metrics.models import COUNTERS, GAUGES, ModelMetrics
from mme.supervisor.model_statistics import BUCKETS, LIMITS_S

# No model has this name: a slash is not allowed in one.
OTHERS = "/others"
NS = 1e9
_LIMITS = [*map(floatToGoString, LIMITS_S), "+Inf"]
Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Family(Generic[Subject]):
    """One metric. A subject has a value for each of ``parts``; of a histogram, its buckets, added up, and the sum."""

    name: str
    kind: str  # gauge, counter, histogram
    documentation: str
    values: Callable[[Subject], Sequence[float]]
    label: str = ""  # besides those of the subject
    parts: tuple[str, ...] = ("",)  # the label's values

    def metric(self, labels: dict[str, str], values: Sequence[float]) -> Metric:
        """The client's object for one subject: what it is called and labelled, with these numbers."""
        names = [*labels, *filter(None, [self.label])]
        metric: Metric
        if self.kind == "histogram":
            metric = HistogramMetricFamily(self.name, self.documentation, labels=names)
            buckets = list(zip(_LIMITS, values, strict=False))
            metric.add_metric([*labels.values()], buckets, values[-1])
            return metric
        family = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        metric = family(self.name, self.documentation, labels=names)
        for part, value in zip(self.parts, values, strict=True):
            metric.add_metric([*labels.values(), *([part] if self.label else [])], value)
        return metric

    @property
    def size(self) -> int:
        """How many numbers a subject has."""
        return len(_LIMITS) + 1 if self.kind == "histogram" else len(self.parts)


def labels_of(model: ModelMetrics, *, with_target: bool) -> dict[str, str]:
    """A model's labels."""
    name = OTHERS if model.name is None else model.name
    return {"model": name, "target_model": model.target} if with_target else {"model": name}


def _counter(name: str, documentation: str, field: str, unit: float = 1) -> Family[ModelMetrics]:
    at = COUNTERS.index(field)
    return Family(
        name, "counter", documentation, lambda model: (model.counters[at] / unit if unit != 1 else model.counters[at],)
    )


def _gauge(name: str, documentation: str, field: str, unit: int = 1) -> Family[ModelMetrics]:
    at = GAUGES.index(field)
    return Family(name, "gauge", documentation, lambda model: (model.gauges[at] * unit,))


def _histogram(name: str, documentation: str, time: str) -> Family[ModelMetrics]:
    first, total = COUNTERS.index(f"{time}_bucket_0"), COUNTERS.index(f"{time}_ns")
    end = first + BUCKETS

    def values(model: ModelMetrics) -> Sequence[float]:
        return [*accumulate(model.counters[first:end]), model.counters[total] / NS]

    return Family(name, "histogram", documentation, values)


_ANSWERS = {
    **{each: f"answers_{each}" for each in ("2xx", "3xx", "4xx", "5xx", "507")},
    "refused": "refused",
    "abandoned": "abandoned",
}
_ANSWERS_AT = [COUNTERS.index(field) for field in _ANSWERS.values()]

MODEL_FAMILIES: tuple[Family[ModelMetrics], ...] = (
    Family(
        "mme_model_requests",
        "counter",
        "Requests that have ended, by the class of the answer's status. 507: there was no memory. refused: 503 at "
        "once, as the queue was full or the model had no worker. abandoned: the client hung up while it waited.",
        lambda model: [model.counters[at] for at in _ANSWERS_AT],
        "status",
        tuple(_ANSWERS),
    ),
    _histogram("mme_model_queue_seconds", "Time from a request's arrival until a worker was given it.", "queue"),
    _histogram("mme_model_handler_seconds", "Time from there until the worker's answer.", "handler"),
    _histogram("mme_model_request_seconds", "Time from a request's arrival until its answer.", "whole"),
    _gauge("mme_model_queue_length", "Requests that wait.", "waiting"),
    _gauge("mme_model_requests_under_way", "Requests that workers have, or collect for a batch.", "under_way"),
    _gauge("mme_model_workers", "Workers that have loaded the model, those that sleep among them.", "workers"),
    _gauge("mme_model_workers_busy", "Workers that have a batch.", "busy_workers"),
    _gauge("mme_model_workers_asleep", "Workers whose process has ended until the next request.", "asleep"),
    _gauge("mme_model_workers_wanted", "Workers that the model is to have.", "wanted_workers"),
    Family(
        "mme_model_busy_share",
        "gauge",
        "Share of its workers' time that they had a batch, over the last 5 s or since the scrape before.",
        lambda model: (model.busy_share,),
    ),
    _counter("mme_model_busy_seconds", "Time that workers had a batch, all workers added up.", "busy_ns", NS),
    _counter("mme_model_batches", "Batches that workers were given.", "batches"),
    _counter("mme_model_loads", "Times that the model was loaded: its cold loads.", "loads"),
    _counter("mme_model_load_failures", "Loads that failed.", "failed_loads"),
    _counter("mme_model_unloads", "Times that the model was unloaded.", "unloads"),
    _counter("mme_model_worker_loads", "Workers that have loaded the model.", "worker_loads"),
    _counter("mme_model_worker_exits", "Workers that had the model and have ended, by whatever.", "worker_ends"),
    _counter("mme_model_sleeps", "Times that a worker fell asleep.", "sleeps"),
    _counter("mme_model_wake_ups", "Times that a worker was woken by a request.", "wake_ups"),
    _gauge("mme_model_memory_bytes", "Memory that its workers took to load it, of those awake.", "taken_mib", MIB),
)


def _of_container(name: str, kind: str, documentation: str, field: str) -> Family[ContainerMetrics]:
    return Family(name, kind, documentation, lambda container: (getattr(container, field),))


_REFUSALS = ("queue_full", "body_too_large", "unknown_model", "invalid_request", "stopping")
CONTAINER_FAMILIES: tuple[Family[ContainerMetrics], ...] = (
    _of_container("mme_memory_limit_bytes", "gauge", "The tightest limit of memory that applies.", "limit_bytes"),
    _of_container("mme_memory_used_bytes", "gauge", "Memory in use there, without what can go.", "used_bytes"),
    _of_container("mme_memory_reserve_bytes", "gauge", "Memory that loads leave free for requests.", "reserve_bytes"),
    _of_container("mme_models_loaded", "gauge", "Models that are loaded, those asleep among them.", "models_loaded"),
    _of_container("mme_models_asleep", "gauge", "Models of which all workers sleep.", "models_asleep"),
    _of_container("mme_workers", "gauge", "Workers of all models.", "workers"),
    _of_container("mme_queue_length", "gauge", "Requests that wait, of all models.", "waiting"),
    _of_container("mme_requests_under_way", "gauge", "Requests that workers of all models have.", "under_way"),
    _of_container("mme_templates", "gauge", "Processes that workers are forked from.", "templates"),
    Family(
        "mme_loads",
        "counter",
        "Loads that were asked for, by what became of them.",
        lambda container: [container.loads[result] for result in LOAD_RESULTS.values()],
        "result",
        tuple(LOAD_RESULTS.values()),
    ),
    _of_container("mme_unloads", "counter", "Models that were unloaded.", "unloads"),
    Family(
        "mme_refusals",
        "counter",
        "Requests that were answered without a model, by the reason.",
        lambda container: [container.refusals[reason] for reason in _REFUSALS],
        "reason",
        _REFUSALS,
    ),
)
