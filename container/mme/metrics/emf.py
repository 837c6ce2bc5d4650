"""Metrics in CloudWatch's embedded metric format (EMF): lines of the log that CloudWatch Logs makes metrics of.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html

A line for the container and one for each model that had a request or a load since the last time. Counters are written
as what has been added since, gauges as they are, times as their mean. CloudWatch takes ASCII for dimensions alone.

What was written last the writer alone knows. The next one, where its process has died, counts from its own first time
on: nothing is counted twice, and what came after the last line of the one that died is in none.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from mme.capacity.memory import MIB
from mme.metrics.container import ContainerMetrics
from mme.metrics.families import OTHERS
from mme.metrics.models import COUNTERS, GAUGES, ModelMetrics
from mme.settings import Settings

logger = logging.getLogger("mme.metrics.emf")

NAMESPACE = "MultiModelServer"
_NS_PER_MS = 1e6
_ANSWERS = ("answers_2xx", "answers_3xx", "answers_4xx", "answers_5xx", "answers_507")


class EmfWriter:
    """``run`` writes every ``settings.emf_period_s``; ``read`` gives what there is to say at a moment."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], tuple[ContainerMetrics, list[ModelMetrics]]],
        *,
        is_first: bool,
    ) -> None:
        """``is_first``: this server has had no writer before, and all that it has counted is to be written."""
        self._period_s = settings.emf_period_s
        self._read = read
        self._knows_last = is_first  # what was written last: nothing yet
        self._last: dict[str, list[int]] = {}  # counters by model
        self._last_container: dict[str, int] | None = None

    def run(self) -> None:
        """Never returns."""
        while True:
            self.write()
            time.sleep(self._period_s)

    def write(self) -> None:
        """All lines of now, to standard output. What cannot be read is said, and counts the next time."""
        try:
            text = "".join(f"{line}\n" for line in self.lines())
        except Exception:
            logger.exception("no metrics for CloudWatch this time")
            return
        sys.stdout.write(text)
        sys.stdout.flush()

    def lines(self) -> Iterator[str]:
        """One JSON object each."""
        container, models = self._read()
        now_ms = time.time_ns() // 1_000_000
        yield _line(now_ms, "Scope", "Container", self._of_container(container))
        for model in models:
            name = OTHERS if model.name is None else model.name.encode("ascii", "backslashreplace").decode()
            added = self._added(name, model.counters)
            # whatever it is: a request may arrive in one period, and be answered in the next
            if any(count for field, count in added.items() if not field.endswith("_ns")):
                yield _line(now_ms, "ModelName", name, _of_model(added, model))
        self._knows_last = True

    def _added(self, name: str, counters: list[int]) -> dict[str, int]:
        """What has been added to a model's counters since the last time; all of a model that there was not then."""
        last = self._last.get(name, [0] * len(COUNTERS) if self._knows_last else counters)
        if last[0] > counters[0]:
            last = [0] * len(COUNTERS)  # it has got a new record
        self._last[name] = counters
        return {field: max(0, now - before) for field, now, before in zip(COUNTERS, counters, last, strict=True)}

    def _of_container(self, container: ContainerMetrics) -> dict[str, tuple[float, str]]:
        counters = {
            "Unloads": container.unloads,
            "Loads": container.loads["loaded"],
            "LoadsWithoutMemory": container.loads["no_memory"],
            "LoadsFailed": sum(container.loads.values()) - container.loads["loaded"] - container.loads["no_memory"],
            "RequestsRefused": sum(container.refusals.values()),
        }
        last = self._last_container or (dict.fromkeys(counters, 0) if self._knows_last else counters)
        self._last_container = counters
        return {
            "MemoryLimit": (container.limit_bytes / MIB, "Megabytes"),
            "MemoryUsed": (container.used_bytes / MIB, "Megabytes"),
            "ModelsLoaded": (container.models_loaded, "Count"),
            "ModelsAsleep": (container.models_asleep, "Count"),
            "Workers": (container.workers, "Count"),
            "QueueLength": (container.waiting, "Count"),
            **{name: (value - last[name], "Count") for name, value in counters.items()},
        }


def _of_model(added: dict[str, int], model: ModelMetrics) -> dict[str, tuple[float, str]]:
    gauges = dict(zip(GAUGES, model.gauges, strict=True))
    answers = sum(added[field] for field in _ANSWERS)
    sent = sum(added[field] for field in COUNTERS if field.startswith("handler_bucket_"))
    metrics: dict[str, tuple[float, str]] = {
        "Requests": (answers + added["refused"], "Count"),
        "Errors4XX": (added["answers_4xx"], "Count"),
        "Errors5XX": (added["answers_5xx"] + added["answers_507"] + added["refused"], "Count"),
        "OutOfMemory": (added["answers_507"], "Count"),
        "Refused": (added["refused"], "Count"),
        "QueueLength": (gauges["waiting"], "Count"),
        "Workers": (gauges["workers"], "Count"),
        "ColdLoads": (added["loads"], "Count"),
        "WakeUps": (added["wake_ups"], "Count"),
        "Sleeps": (added["sleeps"], "Count"),
        "Memory": (gauges["taken_mib"], "Megabytes"),
    }
    if answers:
        metrics["QueueTime"] = (added["queue_ns"] / answers / _NS_PER_MS, "Milliseconds")
        metrics["RequestTime"] = (added["whole_ns"] / answers / _NS_PER_MS, "Milliseconds")
    if sent:
        metrics["HandlerTime"] = (added["handler_ns"] / sent / _NS_PER_MS, "Milliseconds")
    return metrics


def _line(now_ms: int, dimension: str, value: str, metrics: dict[str, tuple[float, str]]) -> str:
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [[dimension]],  # none is not allowed
        "Metrics": [{"Name": name, "Unit": unit} for name, (_, unit) in metrics.items()],
    }
    entry: dict[str, Any] = {"_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [directive]}}
    return json.dumps({**entry, dimension: value, **{name: value for name, (value, _) in metrics.items()}})
