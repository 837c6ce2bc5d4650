"""What processes take: one of them alone, or the server's tree of them. From /proc, Linux only."""

from __future__ import annotations

import json
import os
from dataclasses import astuple, dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# A process whose resident size moved by more than this since it was looked at is looked at again.
_STALE_BYTES = 4 * 1024 * 1024


def anonymous_bytes(pid: int | str = "self", proc: Path = Path("/proc")) -> int:
    """What the process holds that is not a file's, in bytes; 0 where it is gone. Takes 10 µs.

    Pages that it shares with the process that it was forked from are in it.
    """
    resident, shared = _statm(proc / str(pid))
    return max(0, resident - shared)


@dataclass(frozen=True)
class ProcessId:
    """A process for certain: numbers are used again, but not with the same start (in clock ticks since boot)."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int, proc: Path = Path("/proc")) -> ProcessId | None:
        """None where there is no such process, or it has ended and only waits for its parent."""
        stat = _stat(proc / str(pid))
        return cls(pid, stat.start_ticks) if stat and stat.state not in "ZX" else None

    def is_alive(self, proc: Path = Path("/proc")) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid, proc) == self


def parent_of(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The number of the parent process; None where there is no such process."""
    stat = _stat(proc / str(pid))
    return stat.parent if stat else None


@dataclass(frozen=True)
class _Stat:
    state: str
    parent: int
    start_ticks: int


@dataclass(frozen=True)
class _Known:
    start_ticks: int
    resident_bytes: int
    proportional_bytes: int


class ProcessTree:
    """The memory of a process and all its descendants: the sum of their proportional set sizes (PSS).

    Pages that workers share with the process that they were forked from count once. What the kernel holds on their
    behalf (page tables, kernel stacks) is not in it. The kernel takes milliseconds for each process's PSS, so it is
    asked again only for those whose resident size has changed, and the answers are kept in ``cache_file`` for the next
    process that wants to know; a thousand idle processes then cost 30 ms in all.
    """

    def __init__(self, root_pid: int, *, cache_file: Path | None = None, proc: Path = Path("/proc")) -> None:
        self._root_pid = root_pid
        self._cache_file = cache_file
        self._proc = proc
        self._known: dict[int, _Known] = {}

    def used_bytes(self) -> int:
        """The sum in bytes; 0 where the root process is gone."""
        known = {**self._known, **self._read_cache()}
        self._known = {pid: self._look_at(pid, stat, known.get(pid)) for pid, stat in self._tree().items()}
        if self._known != known:
            self._write_cache()
        return sum(each.proportional_bytes for each in self._known.values())

    def _tree(self) -> dict[int, _Stat]:
        stats = {}
        for name in os.listdir(self._proc):  # noqa: PTH208 (names are all we need)
            if name.isdigit() and (stat := _stat(self._proc / name)):
                stats[int(name)] = stat
        children: dict[int, list[int]] = {}
        for pid, stat in stats.items():
            children.setdefault(stat.parent, []).append(pid)
        tree: dict[int, _Stat] = {}
        waiting = [self._root_pid]
        while waiting:
            pid = waiting.pop()
            if pid in stats and pid not in tree:
                tree[pid] = stats[pid]
                waiting += children.get(pid, [])
        return tree

    def _look_at(self, pid: int, stat: _Stat, known: _Known | None) -> _Known:
        resident, _ = _statm(self._proc / str(pid))
        if known and known.start_ticks == stat.start_ticks and abs(resident - known.resident_bytes) < _STALE_BYTES:
            return known
        # without the right to look (another user's process) the resident size must do
        proportional = _smaps_rollup(self._proc / str(pid)).get("Pss", resident)
        return _Known(stat.start_ticks, resident, proportional)

    def _read_cache(self) -> dict[int, _Known]:
        if self._cache_file is None:
            return {}
        try:
            return {int(pid): _Known(*values) for pid, values in json.loads(self._cache_file.read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write_cache(self) -> None:
        """Replaces the file as a whole; of two processes at once the later one wins, and nothing is lost but time."""
        if self._cache_file is None:
            return
        temporary = self._cache_file.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(json.dumps({pid: astuple(known) for pid, known in self._known.items()}))
            os.replace(temporary, self._cache_file)  # noqa: PTH105
        except OSError:
            pass  # a full file system: the next one looks for itself


def _stat(folder: Path) -> _Stat | None:
    try:
        with open(folder / "stat", "rb") as file:  # noqa: PTH123 (half the time of Path.open)
            # the second field, the program's name in brackets, may itself hold blanks and brackets
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return _Stat(fields[0].decode(), int(fields[1]), int(fields[19])) if len(fields) > 19 else None


def _statm(folder: Path) -> tuple[int, int]:
    """(resident, the files' and shared part of it) in bytes."""
    try:
        with open(folder / "statm", "rb") as file:  # noqa: PTH123
            fields = file.read().split()
        return int(fields[1]) * _PAGE_BYTES, int(fields[2]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0, 0


def _smaps_rollup(folder: Path) -> dict[str, int]:
    """Bytes per kind; empty where the process is gone or not ours to look at."""
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    values = {}
    for line in lines[1:]:
        parts = line.split()
        if len(parts) == 3 and parts[2] == "kB":
            values[parts[0].rstrip(":")] = int(parts[1]) * 1024
    return values
