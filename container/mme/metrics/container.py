"""What there is to say about the server as a whole: memory, models, loads, refusals, templates."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mme.capacity.memory import MemoryReader
from mme.capacity.policy import reserve_bytes
from mme.settings import Settings
from mme.supervisor.model_statistics import ModelStatistics

# The status of a load's answer, and what it means.
LOAD_RESULTS = {
    "ok": "loaded",
    "507": "no_memory",
    "400": "refused",
    "404": "not_found",
    "409": "conflict",
    "500": "failed",
    "503": "not_ready",
    "other": "other",
}


@dataclass(frozen=True)
class ContainerMetrics:
    """The server at a moment."""

    limit_bytes: int
    used_bytes: int
    reserve_bytes: int
    models_loaded: int
    models_asleep: int
    workers: int
    waiting: int
    under_way: int
    templates: int
    unloads: int
    loads: dict[str, int]  # by LOAD_RESULTS
    refusals: dict[str, int]  # of requests, by the reason


class ContainerReader:
    """Runs in a child of the supervisor, whose zygote it counts the templates of."""

    def __init__(self, settings: Settings, statistics: ModelStatistics, memory: MemoryReader) -> None:
        self._settings = settings
        self._statistics = statistics
        self._memory = memory

    def read(self, models_asleep: int) -> ContainerMetrics:
        memory, statistics = self._memory.read(), self._statistics
        refusals = statistics.refusals()
        loads = statistics.loads()
        return ContainerMetrics(
            limit_bytes=memory.limit_bytes,
            used_bytes=memory.used_bytes,
            reserve_bytes=reserve_bytes(self._settings, memory),
            models_loaded=sum(1 for workers in statistics.column("workers") if workers > 0),
            models_asleep=models_asleep,
            workers=sum(statistics.column("workers")),
            waiting=statistics.waiting,
            under_way=statistics.under_way,
            templates=sum(1 for _ in _templates(os.getppid())),
            unloads=sum(statistics.column("unloads")),
            loads={result: loads[status] for status, result in LOAD_RESULTS.items()},
            refusals={
                "queue_full": sum(statistics.column("refused")),
                "body_too_large": refusals["too_large"],
                "unknown_model": refusals["unknown"],
                "invalid_request": refusals["invalid"],
                "stopping": refusals["draining"],
            },
        )


def _templates(supervisor: int) -> Iterator[int]:
    """The processes that workers are forked from: children of the zygote, which is one of the supervisor's."""
    for child in _children(supervisor):
        if _name(child) == "zygote":
            yield from (each for each in _children(child) if _name(each).startswith("template"))


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []  # it has ended, or the kernel does not tell (CONFIG_PROC_CHILDREN)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""
