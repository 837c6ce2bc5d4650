"""What the instances that serve take, as CloudWatch's metrics have it: looked at once a period."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from local_endpoint.hosting.container import Container
from local_endpoint.hosting.fleet import Fleet
from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.instance_types import memory_bytes
from local_endpoint.telemetry.metrics import INSTANCES, Looked, Sample, dimensions_of


class Utilisation:
    """``look`` once a period, by one thread."""

    def __init__(self, fleets: Callable[[], Iterable[Fleet]]) -> None:
        """``fleets`` are those that serve at the moment."""
        self._fleets = fleets
        self._cpu: dict[str, tuple[float, float]] = {}  # by container: when (monotonic), and its time by then

    def look(self) -> list[Looked]:
        """Of each instance, and of each container where it has several."""
        seen: dict[str, tuple[float, float]] = {}
        looked = [
            each for fleet in self._fleets() for instance in fleet.instances for each in self._of(fleet, instance, seen)
        ]
        self._cpu = seen
        return looked

    def _of(self, fleet: Fleet, instance: Instance, seen: dict[str, tuple[float, float]]) -> Iterable[Looked]:
        its = fleet.definition
        dimensions = dimensions_of(its.endpoint, its.name)
        usages = [self._usage(f"{instance.id}-{number}", each, seen) for number, each in enumerate(instance.containers)]
        memory = memory_bytes(its.instance_type)
        for container, (cpu_percent, used_bytes, disk_bytes) in zip(instance.containers, usages, strict=True):
            if (hostname := container.hostname_among_others) is not None:
                own = utilisation(cpu_percent, used_bytes / memory, disk_bytes / its.disk_bytes)
                yield its.region, INSTANCES, (*dimensions, ("ContainerName", hostname)), own
        cpu_percent, used_bytes, disk_bytes = (sum(each) for each in zip(*usages, strict=True))
        whole = utilisation(cpu_percent, used_bytes / memory, disk_bytes / its.disk_bytes)
        yield its.region, INSTANCES, dimensions, whole
        caches = [each.cache for each in instance.containers if each.definition.multi_model]
        if caches:
            loaded = sum(each.models.loaded_count for each in caches)
            yield its.region, INSTANCES, dimensions, [("LoadedModelCount", "None", float(loaded))]

    def _usage(
        self, key: str, container: Container, seen: dict[str, tuple[float, float]]
    ) -> tuple[float, float, float]:
        """Percent of a processor since it was last looked at, bytes of memory, bytes of disk."""
        used = container.running.usage()
        if used is None:
            return 0.0, 0.0, 0.0
        now_s = time.monotonic()
        before_s, cpu_before_s = self._cpu.get(key, (now_s, used.cpu_s))
        seen[key] = (now_s, used.cpu_s)
        cpu_percent = 100 * max(0.0, used.cpu_s - cpu_before_s) / max(0.001, now_s - before_s)
        return cpu_percent, float(used.memory_bytes), float(folder_bytes(container.folder))


def utilisation(cpu_percent: float, memory: float, disk: float) -> list[Sample]:
    """``memory`` and ``disk`` are parts of what the instance has."""
    return [
        ("CPUUtilization", "Percent", cpu_percent),
        ("MemoryUtilization", "Percent", 100 * memory),
        ("DiskUtilization", "Percent", 100 * disk),
    ]


def folder_bytes(folder: Path) -> int:
    """What the files below take."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(f"{where}/{name}").st_blocks * 512
            except OSError:  # it went meanwhile
                continue
    return total
