"""Lets an allocation fail in the one process that asks too much, where Linux would grant it and kill somebody later.

Linux grants memory that is not there. What a load or a request takes beyond all expectation would so be noticed by the
kernel alone, which kills. RLIMIT_DATA makes such an allocation fail instead: ``MemoryError`` in Python, ``bad_alloc``
in C++, 507 for the client, and nobody else is harmed. The limit counts what is allocated rather than what is used, so
it is set relative to what the process has already, and anew as time goes by. The stacks of threads count with their
whole address space, 8 MiB each, of which they use a few pages: a pool of threads that is started inside (PyTorch, ONNX
Runtime, an executor) must not look like memory, so that much is allowed on top. Where a model has a GPU nothing is
limited: CUDA reserves address space by the gigabyte.

Memory that is shared with the process that a worker was forked from, and copied when written to, is not under it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mme.capacity.memory import MIB, MemoryReader, MemorySample
from mme.capacity.policy import request_growth_bytes, reserve_bytes
from mme.capacity.shared_numbers import SharedNumbers
from mme.settings import Settings

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RENEW_S = 0.1
SAMPLE_NUMBERS = 3  # of a ``MemorySample``, for ``RequestLimit``'s ``shared``
_FEW_THREADS = 4
_DEFAULT_STACK_BYTES = 2 * MIB
_LARGEST_STACK_BYTES = 8 * MIB


@contextmanager
def limited_growth(growth_bytes: int) -> Iterator[None]:
    """Inside, this process may allocate at most ``growth_bytes`` more; afterwards what it could before.

    A limit that is set inside stays.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    _set_limit(_data_bytes() + growth_bytes + thread_stacks_bytes(), within=before)
    inside, _ = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        yield
    finally:
        if resource.getrlimit(resource.RLIMIT_DATA)[0] == inside:
            resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def limit_worker(settings: Settings) -> None:
    """Bounds this process, and what it starts, by MME_WORKER_MEMORY_LIMIT_MB for good: no later limit is higher.

    A lower limit that is already there stays.
    """
    if settings.worker_memory_limit_mb is None:
        return
    limit_bytes = settings.worker_memory_limit_mb * MIB
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_least(limit_bytes, soft, hard), _least(limit_bytes, hard)))


class RequestLimit:
    """For a worker to call before each request: bounds what the request may allocate by what is free.

    ``shared``: what any worker has found, for all of them: a look takes half as long as a small model's request.
    """

    def __init__(self, settings: Settings, memory: MemoryReader, shared: SharedNumbers | None = None) -> None:
        self._settings = settings
        self._memory = memory
        self._shared = SharedNumbers(None, SAMPLE_NUMBERS) if shared is None else shared
        self._renew_at_s = 0.0
        self.is_memory_short = False  # when it was last looked at: requests live on the reserve

    def renew(self, sample: MemorySample | None = None) -> None:
        """Looks at what is free and sets the limit, at most every 100 ms; else it takes no time.

        ``sample``: what has been found just now, by the kernel's limits alone.
        """
        found_s = time.monotonic()
        if found_s < self._renew_at_s:
            return
        if sample is None:
            found_s, sample = self._look()
        reserve = reserve_bytes(self._settings, sample)
        self._renew_at_s = found_s + RENEW_S
        self.is_memory_short = sample.free_bytes < reserve
        growth_bytes = request_growth_bytes(sample, reserve_bytes=reserve)
        _set_limit(_data_bytes() + growth_bytes + thread_stacks_bytes())

    def _look(self) -> tuple[float, MemorySample]:
        """What has been found by any worker within ``RENEW_S``, else now; and when that was."""
        known = self._shared.read(RENEW_S)
        if known is not None:
            found_s, (limit_bytes, used_bytes, smallest_limit_bytes) = known
            return found_s, MemorySample(limit_bytes, used_bytes, smallest_limit_bytes, "another worker")
        sample = self._memory.read()
        self._shared.write(sample.limit_bytes, sample.used_bytes, sample.smallest_limit_bytes)
        return time.monotonic(), sample


def thread_stacks_bytes() -> int:
    """Address space of the threads that one pool may have: one per processor, and a few (``ThreadPoolExecutor``)."""
    stack_bytes, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack_bytes == resource.RLIM_INFINITY:
        stack_bytes = _DEFAULT_STACK_BYTES  # glibc's choice then
    return ((os.cpu_count() or 1) + _FEW_THREADS) * min(stack_bytes, _LARGEST_STACK_BYTES)


def _set_limit(limit_bytes: int, *, within: int = resource.RLIM_INFINITY) -> None:
    """Sets the soft limit to the least of ``limit_bytes``, ``within`` and the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_least(limit_bytes, within, hard), hard))


def _least(*limits: int) -> int:
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=resource.RLIM_INFINITY)


def _data_bytes() -> int:
    """What the limit counts now: private memory that may be written to (and the stack, which is little)."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (half the time of Path.open)
        return int(file.read().split()[5]) * _PAGE_BYTES
