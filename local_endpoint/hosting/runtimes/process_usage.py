"""What a container that is a process takes, all of its processes together."""

from __future__ import annotations

import random

import psutil

from local_endpoint.hosting.runtimes.base import Usage

# Memory that processes share is known by reading all of their pages' mappings, which costs a millisecond or more for
# each: of more processes than this, so many are read, and the rest is taken to be like them.
PROCESSES_READ = 64


def usage_of(pid: int) -> Usage | None:
    """Of the process and all below it; None where it has ended."""
    try:
        first = psutil.Process(pid)
        processes = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    cpu_s = sum(_cpu_s(process) for process in processes)
    read = random.sample(processes, min(len(processes), PROCESSES_READ))
    memory_bytes = sum(map(_memory_bytes, read)) * len(processes) // len(read)
    return Usage(cpu_s, memory_bytes)


def _cpu_s(process: psutil.Process) -> float:
    """With what its children had taken that have ended."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.Error:
        return 0.0


def _memory_bytes(process: psutil.Process) -> int:
    """Its proportional share, where the system tells it."""
    try:
        memory = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(memory, "pss", 0) or memory.rss)
