"""What processes take: one of them alone, or the server's tree of them. From /proc, Linux only."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# A process that has touched so many pages since it was looked at is looked at again.
_STALE_PAGES = 64
_STAT_BYTES = 4096  # 52 numbers and a name


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
        stat = _stat(f"{proc}/{pid}")
        return cls(pid, stat.start_ticks) if stat and stat.state not in "ZX" else None

    def is_alive(self, proc: Path = Path("/proc")) -> bool:
        """Whether this very process still runs."""
        return ProcessId.of(self.pid, proc) == self


def parent_of(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The number of the parent process; None where there is no such process."""
    stat = _stat(f"{proc}/{pid}")
    return stat.parent if stat else None


class _Stat(NamedTuple):
    """What /proc/PID/stat says. ``program`` is the same for a process and those that it forked, unless they exec'd."""

    state: str
    parent: int
    start_ticks: int
    faults: int
    resident_bytes: int
    program: tuple[int, int]


class _Kin(NamedTuple):
    """Whom of its program a process shares pages with. Where one of them ends, pages are its own, without a fault."""

    parent: int  # 0: another program
    is_forked_from: bool
    is_alone: bool


class _Known(NamedTuple):
    """What a process was found to hold, in bytes. Its memory cannot grow without a page fault."""

    start_ticks: int
    faults: int
    resident_bytes: int
    private_bytes: int
    shared_bytes: int
    # as of ``_Kin``
    parent: int
    is_forked_from: bool
    is_alone: bool

    def is_about(self, stat: _Stat, kin: _Kin) -> bool:
        """Whether the process is the same and holds about as much."""
        return (
            self.start_ticks == stat.start_ticks
            and kin == (self.parent, self.is_forked_from, self.is_alone)
            and stat.faults - self.faults < _STALE_PAGES
            and abs(stat.resident_bytes - self.resident_bytes) < _STALE_PAGES * _PAGE_BYTES
        )

    def most_private_bytes(self, stat: _Stat) -> int:
        """With all that it can have taken since."""
        return self.private_bytes + (stat.faults - self.faults) * _PAGE_BYTES


class ProcessTree:
    """The memory of a process and all its descendants: what each holds alone, and what they share once.

    A forked process shares pages with the one that it was forked from, until either writes to them. So each process
    counts with its private pages; one that others were forked from also with those that it shares, as far as it does
    not share them with its own parent. That stays true when others come and go, which a proportional size (PSS) does
    not: it would have to be asked for anew for all processes. What the kernel holds on their behalf (page tables,
    kernel stacks) is not in it.

    The kernel takes milliseconds to tell a process's private pages, so it is asked again only for those that have
    touched new pages since (page faults are counted), or that have lost whom they shared pages with. The answers are
    kept in ``cache_file`` for the next process that wants to know; a thousand idle processes then cost 30 ms in all.
    """

    def __init__(self, root_pid: int, *, cache_file: Path | None = None, proc: Path = Path("/proc")) -> None:
        self._root_pid = root_pid
        self._cache_file = cache_file
        self._proc = proc
        self._known: dict[int, _Known] = {}

    def used_bytes(self) -> int:
        """The sum in bytes; 0 where the root process is gone."""
        known = {**self._known, **self._read_cache()}
        tree = self._tree()
        families = _families(tree)
        kin = {pid: each for members in families for pid, each in _kin_of(members, tree).items()}
        self._known = {pid: self._look_at(pid, stat, kin[pid], known.get(pid)) for pid, stat in tree.items()}
        if self._known != known:
            self._write_cache()
        private_bytes = sum(each.most_private_bytes(tree[pid]) for pid, each in self._known.items())
        return private_bytes + sum(self._shared_bytes(members) for members in families)

    def _shared_bytes(self, members: list[int]) -> int:
        if len(members) == 1:
            return 0
        known = self._known
        # Several heads, where the process that they were forked from has died.
        total = max(known[pid].shared_bytes for pid in members if not known[pid].parent)
        for each in (known[pid] for pid in members):
            if each.is_forked_from and each.parent:
                total += max(0, each.shared_bytes - known[each.parent].shared_bytes)
        return total

    def _tree(self) -> dict[int, _Stat]:
        stats = {}
        proc = str(self._proc)
        for name in os.listdir(proc):  # noqa: PTH208 (names are all we need)
            if name.isdigit() and (stat := _stat(f"{proc}/{name}")):
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

    def _look_at(self, pid: int, stat: _Stat, kin: _Kin, known: _Known | None) -> _Known:
        if known and known.is_about(stat, kin):
            return known
        sizes = _smaps_rollup(self._proc / str(pid))
        # without the right to look (another user's process) the resident size must do
        private, shared = (
            sum(sizes.get(f"{kind}_{state}", 0) for state in ("Clean", "Dirty")) for kind in ("Private", "Shared")
        )
        if not sizes:
            private = stat.resident_bytes
        return _Known(stat.start_ticks, stat.faults, stat.resident_bytes, private, shared, *kin)

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
            temporary.write_text(json.dumps(self._known))
            os.replace(temporary, self._cache_file)  # noqa: PTH105
        except OSError:
            pass  # a full file system: the next one looks for itself


def _families(tree: dict[int, _Stat]) -> list[list[int]]:
    """The processes by program: those that may have been forked from each other."""
    families: dict[tuple[int, ...], list[int]] = {}
    for pid, stat in tree.items():
        families.setdefault(stat.program if any(stat.program) else (pid,), []).append(pid)
    return list(families.values())


def _kin_of(members: list[int], tree: dict[int, _Stat]) -> dict[int, _Kin]:
    """Of the members of one family."""
    own = set(members)
    parents = {pid: tree[pid].parent if tree[pid].parent in own else 0 for pid in members}
    forked_from = set(parents.values())
    return {pid: _Kin(parent, pid in forked_from, len(own) == 1) for pid, parent in parents.items()}


def _stat(folder: str) -> _Stat | None:
    try:
        # (a tenth of the time of Path.open: there are thousands)
        descriptor = os.open(f"{folder}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # the second field, the program's name in brackets, may itself hold blanks and brackets
        fields = os.read(descriptor, _STAT_BYTES).rpartition(b")")[2].split(None, 26)
    except OSError:
        return None  # it has just ended
    finally:
        os.close(descriptor)
    if len(fields) < 26:
        return None
    return _Stat(
        state=fields[0].decode(),
        parent=int(fields[1]),
        start_ticks=int(fields[19]),
        faults=int(fields[7]) + int(fields[9]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
        program=(int(fields[23]), int(fields[25])),  # where its code and its stack begin; 0 without the right to know
    )


def _statm(folder: Path) -> tuple[int, int]:
    """(resident, the files' and shared part of it) in bytes."""
    try:
        with open(folder / "statm", "rb") as file:  # noqa: PTH123
            fields = file.read().split()
        return int(fields[1]) * _PAGE_BYTES, int(fields[2]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0, 0


def _smaps_rollup(folder: Path) -> dict[str, int]:
    """Bytes per kind, of shared and private pages; empty where the process is gone or not ours to look at."""
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
