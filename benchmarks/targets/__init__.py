"""What is measured: ``stock``, ``ours`` and, where its image is built, ``docker``."""

from __future__ import annotations

from benchmarks.targets.base import Target, running
from benchmarks.targets.docker import DockerTarget
from benchmarks.targets.ours import OurTarget
from benchmarks.targets.stock import StockTarget

TARGETS: dict[str, type[Target]] = {"stock": StockTarget, "ours": OurTarget, "docker": DockerTarget}

__all__ = ["TARGETS", "Target", "running"]
