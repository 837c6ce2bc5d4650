"""How many processor cores this server may use: those it is bound to, or what its control groups leave of them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from mme.capacity import cgroups
from mme.capacity.kernel_files import read_text


def usable_cores(root: Path = Path("/")) -> float:
    """Need not be whole: ``docker run --cpus 1.5``. ``root`` is where /proc and /sys are looked for."""
    quotas = (_quota(level) for level in cgroups.levels(root, "cpu"))
    return min([float(len(os.sched_getaffinity(0))), *(quota for quota in quotas if quota > 0)])


def whole_cores(cores: float) -> int:
    """So many processes keep ``cores`` busy."""
    return max(1, math.ceil(cores))


def _quota(level: cgroups.CgroupLevel) -> float:
    """Of one level, in cores; 0 where it has none."""
    if level.unified:
        words = read_text(level.folder / "cpu.max").split()  # "max 100000", or microseconds in each period
    else:
        words = [read_text(level.folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return 0.0
    return int(words[0]) / int(words[1])
