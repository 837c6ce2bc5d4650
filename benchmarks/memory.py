"""What a tree of processes holds in memory, as the kernel accounts for it. Linux only.

The proportional set size (PSS) counts a page that n processes share as 1/n for each, so that the sum over a tree is
what the tree takes from the machine, apart from pages that processes outside of it share as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_JVM_ARGUMENT = "com.amazonaws.ml.mms.ModelServer"


@dataclass(frozen=True)
class Memory:
    """Bytes, of one process or the sum of several. ``private`` pages, clean and dirty, belong to one process alone."""

    pss_bytes: int = 0
    private_bytes: int = 0
    private_dirty_bytes: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.pss_bytes + other.pss_bytes,
            self.private_bytes + other.private_bytes,
            self.private_dirty_bytes + other.private_dirty_bytes,
        )


@dataclass(frozen=True)
class TreeMemory:
    """A server's memory by role: ``jvm``, ``supervisor`` (what started it) and ``workers``, which is all else."""

    jvm: Memory
    supervisor: Memory
    workers: Memory
    processes: int
    jvm_threads: int

    @property
    def total(self) -> Memory:
        """The whole tree."""
        return self.jvm + self.supervisor + self.workers


def parse_rollup(text: str) -> Memory:
    """What /proc/PID/smaps_rollup says."""
    kilobytes = {}
    for line in text.splitlines()[1:]:
        name, _, value = line.partition(":")
        kilobytes[name] = int(value.split()[0])
    dirty, clean = kilobytes["Private_Dirty"], kilobytes["Private_Clean"]
    return Memory(kilobytes["Pss"] * 1024, (dirty + clean) * 1024, dirty * 1024)


def of_process(pid: int) -> Memory:
    """Memory of one process; none where it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return Memory()
    return parse_rollup(text) if text else Memory()


def of_tree(supervisor: psutil.Process) -> TreeMemory:
    """Memory of ``supervisor`` and of all that descends from it, with orphans that came back to it."""
    jvm = workers = Memory()
    jvm_threads = 0
    descendants = supervisor.children(recursive=True)
    for process in descendants:
        held = of_process(process.pid)
        if is_jvm(process):
            jvm = jvm + held
            jvm_threads = process.num_threads()
        else:
            workers = workers + held
    return TreeMemory(jvm, of_process(supervisor.pid), workers, 1 + len(descendants), jvm_threads)


def private_bytes(processes: Iterable[psutil.Process]) -> int:
    """Private memory of these processes together."""
    return sum(of_process(process.pid).private_bytes for process in processes)


def minor_faults(supervisor: psutil.Process) -> dict[int, int]:
    """By process: how often each of a server's processes but the JVM and the supervisor has touched a page that it did
    not have, so far, without a disk being read."""
    found = {}
    for process in supervisor.children(recursive=True):
        if is_jvm(process):
            continue
        try:
            stat = Path(f"/proc/{process.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[process.pid] = parse_minor_faults(stat)
    return found


def cpu_s(supervisor: psutil.Process) -> float:
    """Processor time that a server's living processes but the JVM have taken so far."""
    used_s = 0.0
    for process in [supervisor, *supervisor.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            if not is_jvm(process):
                times = process.cpu_times()
                used_s += times.user + times.system
    return used_s


def parse_minor_faults(stat: str) -> int:
    """What /proc/PID/stat says (``minflt``, its tenth field; the second may hold blanks and brackets)."""
    return int(stat.rpartition(")")[2].split()[7])


def is_jvm(process: psutil.Process) -> bool:
    """Is this the front end's process?"""
    try:
        return _JVM_ARGUMENT in process.cmdline()
    except psutil.Error:
        return False
