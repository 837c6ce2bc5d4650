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
Swap is not memory: neither its size nor what lies in it counts anywhere. What lies in a tmpfs is in use.

memory.high counts as a limit: nothing is killed beyond it, but everything is slowed down to a standstill.
A read costs about 0.2 ms and may be done from any process of the server; all of them are in one cgroup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mme.capacity.process_memory import ProcessTree
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
            tree = ProcessTree(server_pid, cache_file=runtime_dir / "processes.json", proc=root / "proc")
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
        self._file = root / "proc/meminfo"

    def limit_and_used(self) -> tuple[int, int] | None:
        values = _read_values(self._file, separator=":")  # kB
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
        self._folder = folder

    def limit_and_used(self) -> tuple[int, int] | None:
        limits = [_read_number(self._folder / name) for name in ("memory.max", "memory.high")]
        known = [limit for limit in limits if limit is not None]
        used = _read_number(self._folder / "memory.current") if known else None
        if used is None:
            return None
        stat = _read_values(self._folder / "memory.stat")
        return min(known), max(0, used - _reclaimable(stat, "", "file_mapped"))


class CgroupV1:
    """One level of the memory controller's own hierarchy; the process's own level also knows of those above it."""

    def __init__(self, folder: Path, path: str, *, own: bool) -> None:
        self.source = f"cgroup v1 {path}"
        self._folder = folder
        self._own = own

    def limit_and_used(self) -> tuple[int, int] | None:
        limit = _read_number(self._folder / "memory.limit_in_bytes")
        if limit is None or (limit >= _UNLIMITED_BYTES and not self._own):
            return None
        stat = _read_values(self._folder / "memory.stat")
        if self._own:
            # The limit of a level above, which a container cannot see, and whose use is at least ours.
            limit = min(limit, stat.get("hierarchical_memory_limit", limit))
        used = _read_number(self._folder / "memory.usage_in_bytes") if limit < _UNLIMITED_BYTES else None
        if used is None:
            return None
        prefix = "total_" if "total_inactive_file" in stat else ""
        return limit, max(0, used - _reclaimable(stat, prefix, "mapped_file"))


def _reclaimable(stat: dict[str, int], prefix: str, mapped: str) -> int:
    """Page cache that can go, in bytes (module docstring)."""
    cached = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    return max(0, cached - stat.get(f"{prefix}{mapped}", 0))


# ---- where our cgroups are ----


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy: ``root`` is the part of it that ``point`` shows, "/" for all."""

    root: str
    point: Path


def _cgroup_levels(root: Path) -> list[Level]:
    """Every level from our own cgroup upwards, in v2 and in v1's memory hierarchy: both exist on hybrid systems."""
    v1, v2 = _mounts(root)
    levels: list[Level] = []
    for path, controllers in _own_cgroups(root):
        if controllers == "" and v2:
            levels += [CgroupV2(folder, shown) for folder, shown in _upwards(v2, path)]
        elif "memory" in controllers.split(",") and v1:
            levels += [CgroupV1(folder, shown, own=at == 0) for at, (folder, shown) in enumerate(_upwards(v1, path))]
    return levels


def _own_cgroups(root: Path) -> Iterator[tuple[str, str]]:
    """(path, controllers) per line of /proc/self/cgroup: ``4:memory:/a/b``, or ``0::/a/b`` for v2."""
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield parts[2], parts[1]


def _mounts(root: Path) -> tuple[list[_Mount], list[_Mount]]:
    """Where v1's memory controller and v2 are mounted, from /proc/self/mountinfo (proc(5)):

    ``32 31 0:29 ROOT POINT rw,relatime [optional …] - TYPE source SUPER_OPTIONS``
    """
    v1, v2 = [], []
    for line in _read_text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kinds) < 3:
            continue
        mount = _Mount(_unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/"))
        if kinds[0] == "cgroup2":
            v2.append(mount)
        elif kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
            v1.append(mount)
    return v1, v2


def _unescaped(text: str) -> str:
    """mountinfo writes blanks and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _upwards(mounts: list[_Mount], path: str) -> Iterator[tuple[Path, str]]:
    """(folder, its name) of our cgroup and of every level above it that is visible.

    A container may be shown only its own part of the hierarchy, under the path that it has outside; or /proc may name
    a path that is not there at all ("/../x" outside a cgroup namespace). The mount itself is then our own level.
    """
    mount, below = mounts[0], ""
    for each in mounts:
        prefix = each.root.rstrip("/")
        if path == each.root or path.startswith(prefix + "/"):
            mount, below = each, path[len(prefix) :].strip("/")
            break
    parts = [part for part in below.split("/") if part]
    if ".." in parts or not mount.point.joinpath(*parts).is_dir():
        parts = []
    while True:
        yield mount.point.joinpath(*parts), "/" + "/".join(parts)
        if not parts:
            return
        parts.pop()


# ---- reading ----


def _read_text(file: Path) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 (half the time of Path.open)
            return opened.read()
    except OSError:
        return ""


def _read_number(file: Path) -> int | None:
    """The number that the file holds; None for "max", and where there is none."""
    text = _read_text(file).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _read_values(file: Path, separator: str = " ") -> dict[str, int]:
    """Lines of ``name value``, or ``name: value kB``."""
    values = {}
    for line in _read_text(file).splitlines():
        name, _, rest = line.partition(separator)
        number = rest.split()[:1]
        if number and number[0].isdigit():
            values[name] = int(number[0])
    return values
