"""What memory there is: the tightest of every limit that applies to this server, read anew for each decision.

    source                     limit                                  used
    cgroup v2, every level     memory.max, memory.high                memory.current − page cache that can go
    cgroup v1, every level     memory.limit_in_bytes, and what        memory.usage_in_bytes − page cache that can go
                               hierarchical_memory_limit says of
                               levels that cannot be seen
    the machine                MemTotal                               MemTotal − MemAvailable
    MME_MEMORY_LIMIT_MB        the setting                            the server's own processes (process_memory.py)

Page cache that can go is ``inactive_file + active_file − mapped``: the kernel drops it before it kills anything. Active
pages count as well as inactive ones, since nothing moves them back while there is no pressure: artifacts that are read
twice would look like memory in use for ever, and no unloading would help. Mapped pages stay: code that runs is needed.
What the kernel remembers of files that were looked at (``slab_reclaimable``) can go, too: unpacking thousands of
artifacts fills it. v1 does not tell it from what the kernel needs for processes, 0.5 MB for each worker, so there it
counts as used; what the JVM would fill it with is forgotten at once (``launcher.forget_closed_descriptors``).
Swap is not memory: neither its size nor what lies in it counts anywhere. What lies in a tmpfs is in use.

memory.high counts as a limit: nothing is killed beyond it, but everything is slowed down to a standstill.
A read costs about 0.2 ms and may be done from any process of the server; all of them are in one cgroup.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mme.capacity import cgroups
from mme.capacity.kernel_files import read_number, read_values
from mme.capacity.process_memory import ProcessTree
from mme.runtime_dir import in_memory
from mme.settings import Settings

MIB = 1024 * 1024
# "No limit" in cgroup v1 is the largest multiple of a page below 2^63.
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class MemorySample:
    """What one read found: the level that has least free, in bytes.

    ``smallest_limit_bytes`` is that of all levels; it differs where, say, the machine is fuller than our cgroup.
    """

    limit_bytes: int
    used_bytes: int
    smallest_limit_bytes: int
    source: str

    @property
    def free_bytes(self) -> int:
        """What can still be taken, never negative."""
        return max(0, self.limit_bytes - self.used_bytes)

    def __str__(self) -> str:
        return f"{self.free_bytes // MIB} of {self.limit_bytes // MIB} MiB free, as {self.source} says"


class MemoryReader(Protocol):
    """Whatever can be asked how much memory there is."""

    def read(self) -> MemorySample:
        """A sample of this moment."""


class Level(Protocol):
    """One place that limits memory."""

    source: str

    def limit_and_used(self) -> tuple[int, int] | None:
        """Both in bytes; None where nothing limits here, or the files are missing."""


class SystemMemory:
    """The ``MemoryReader`` of a real system. ``root`` is where /proc and /sys are looked for.

    ``runtime_dir`` is the server's private folder and ``server_pid`` the process that all its others descend from; only
    a limit by ``settings`` needs them. Where files lie is looked up once; their contents are read each time, as limits
    may change while we run.
    """

    def __init__(self, settings: Settings, runtime_dir: Path, *, server_pid: int, root: Path = Path("/")) -> None:
        self.levels: list[Level] = kernel_levels(root)
        if settings.memory_limit_mb is not None:
            tree = ProcessTree(server_pid, cache_file=in_memory(runtime_dir) / "processes.json", proc=root / "proc")
            self.levels.append(OwnLimit(settings.memory_limit_mb * MIB, tree))

    def read(self) -> MemorySample:
        return tightest(self.levels)


class KernelMemory:
    """The limits alone beyond which the kernel kills. Cheap enough to be asked while a request waits."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.levels = kernel_levels(root)

    def read(self) -> MemorySample:
        return tightest(self.levels)


def kernel_levels(root: Path) -> list[Level]:
    """Every level that the kernel itself enforces."""
    return [*_cgroup_levels(root), Machine(root)]


def tightest(levels: list[Level]) -> MemorySample:
    """Reads all and returns that with least free. Raises ``OSError`` if there is nothing to read."""
    found = [(*read, level.source) for level in levels if (read := level.limit_and_used()) is not None]
    if not found:
        raise OSError("no memory limit can be read: neither /proc/meminfo nor a cgroup's files are there")
    limit, used, source = min(found, key=lambda each: each[0] - each[1])
    return MemorySample(limit, used, min(each[0] for each in found), source)


class Machine:
    """All that the kernel has. MemAvailable is its own estimate of what can be had without swapping."""

    source = "the machine (/proc/meminfo)"

    def __init__(self, root: Path) -> None:
        self._file = str(root / "proc/meminfo")

    def limit_and_used(self) -> tuple[int, int] | None:
        values = read_values(self._file)  # kB
        if "MemTotal" not in values:
            return None
        free_kb = values.get("MemAvailable", values.get("MemFree", 0))
        return values["MemTotal"] * 1024, (values["MemTotal"] - free_kb) * 1024


class OwnLimit:
    """What the setting allows the server as a whole, the front end included."""

    source = "MME_MEMORY_LIMIT_MB"

    def __init__(self, limit_bytes: int, tree: ProcessTree) -> None:
        self._limit_bytes = limit_bytes
        self._tree = tree

    def limit_and_used(self) -> tuple[int, int]:
        return self._limit_bytes, self._tree.used_bytes()


class CgroupV2:
    """One level of the unified hierarchy."""

    def __init__(self, folder: Path, path: str) -> None:
        self.source = f"cgroup v2 {path}"
        self._folder = str(folder)  # a Path would be put together anew for each file and each look

    def limit_and_used(self) -> tuple[int, int] | None:
        limits = [read_number(f"{self._folder}/{name}") for name in ("memory.max", "memory.high")]
        known = [limit for limit in limits if limit is not None]
        used = read_number(f"{self._folder}/memory.current") if known else None
        if used is None:
            return None
        stat = read_values(f"{self._folder}/memory.stat")
        return min(known), max(0, used - _reclaimable(stat, "", "file_mapped"))


class CgroupV1:
    """One level of the memory controller's own hierarchy; the process's own level also knows of those above it."""

    def __init__(self, folder: Path, path: str, *, own: bool) -> None:
        self.source = f"cgroup v1 {path}"
        self._folder = str(folder)  # a Path would be put together anew for each file and each look
        self._own = own

    def limit_and_used(self) -> tuple[int, int] | None:
        limit = read_number(f"{self._folder}/memory.limit_in_bytes")
        if limit is None or (limit >= _UNLIMITED_BYTES and not self._own):
            return None
        stat = read_values(f"{self._folder}/memory.stat")
        if self._own:
            # The limit of a level above, which a container cannot see, and whose use is at least ours.
            limit = min(limit, stat.get("hierarchical_memory_limit", limit))
        used = read_number(f"{self._folder}/memory.usage_in_bytes") if limit < _UNLIMITED_BYTES else None
        if used is None:
            return None
        prefix = "total_" if "total_inactive_file" in stat else ""
        return limit, max(0, used - _reclaimable(stat, prefix, "mapped_file"))


def _reclaimable(stat: dict[str, int], prefix: str, mapped: str) -> int:
    """Page cache that can go, in bytes (module docstring)."""
    cached = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    return max(0, cached - stat.get(f"{prefix}{mapped}", 0)) + stat.get("slab_reclaimable", 0)


def _cgroup_levels(root: Path) -> list[Level]:
    return [
        CgroupV2(each.folder, each.path) if each.unified else CgroupV1(each.folder, each.path, own=each.own)
        for each in cgroups.levels(root, "memory")
    ]


def most_bytes_of_worker(settings: Settings) -> int:
    """The most memory that one worker can ever have here, if all other models are unloaded."""
    limits_mb = (settings.memory_limit_mb, settings.worker_memory_limit_mb)
    limits_bytes = [limit_mb * MIB for limit_mb in limits_mb if limit_mb is not None]
    return min([KernelMemory().read().smallest_limit_bytes, *limits_bytes])
