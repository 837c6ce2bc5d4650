"""The C heap of a worker: what a request frees is kept for the next one, and given back when no more come.

By itself glibc returns the top of its heap to the kernel as soon as 128 KiB of it are free, and maps large blocks anew
each time: a 640 × 480 JPEG through SqueezeNet costs 9 ``brk`` and 2,500 page faults, a fifth of its time. So a worker
tells malloc to keep what is freed (``keep_freed_memory``), by ``mallopt``: environment variables would reach the
programs that a handler starts. In return it trims the heap once after a pause (``IdleTrim``): what a load has freed
is there for the first request, which costs a SqueezeNet of ONNX 2,900 page faults less. Where memory is nearly used up,
the load itself trims it (``LoadedModel.load``).

Not glibc (musl, another allocator): nothing happens here.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable

from mme.libc import LIBC

# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
# More than an image through a network needs (at most 40 MiB). What a large request leaves beyond it goes back at once:
# a model that is always busy never pauses.
_TRIM_THRESHOLD_BYTES = 64 << 20
# The most that glibc allows (HEAP_MAX_SIZE / 2). Larger blocks are mapped, and unmapped when they are freed.
_MMAP_THRESHOLD_BYTES = 32 << 20
# The heap grows by so much at once. What is not written to is not memory.
_TOP_PAD_BYTES = 1 << 20

# A pause of a busy model is shorter than this; the 2,500 page faults after a trim are then 2 ms in 2 s.
IDLE_S = 2.0
# Where memory is short, others need it more.
IDLE_UNDER_PRESSURE_S = 0.2
# Who loads a model is about to invoke it.
IDLE_AFTER_LOAD_S = 0.2


class State(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


_ask_for_state = getattr(LIBC, "mallinfo2", None)
if _ask_for_state is not None:
    _ask_for_state.restype = State


def state() -> State | None:
    """The heap's sizes; None: not glibc, or one before 2.33."""
    return None if _ask_for_state is None else _ask_for_state()


def free_bytes() -> int | None:
    """What is free inside and at the end, whether the process holds pages there or not; None: not known."""
    found = state()
    return None if found is None else int(found.fordblks)


def keep_freed_memory() -> None:
    """Called before the model is loaded: what one step of loading frees is what the next one needs."""
    try:
        mallopt = LIBC.mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)


def trim() -> None:
    """Returns the free pages of the heap to the kernel."""
    try:
        LIBC.malloc_trim(0)
    except AttributeError:
        pass


class IdleTrim:
    """When to trim: once in each pause, and never between two requests of a busy model.

    A request that comes alone, the first one or one after a pause, is followed by a trim at once if no other is there
    yet: most models of a server are asked seldom, and what their last request needed would add up.
    """

    def __init__(self, is_memory_short: Callable[[], bool]) -> None:
        """``is_memory_short`` costs nothing: it tells what was found when memory was last looked at."""
        self._is_memory_short = is_memory_short
        self._is_due = False
        self._last_used_s = -math.inf
        self._is_alone = False

    def loaded(self) -> None:
        """Loading has used the heap."""
        self._is_due = True

    def used(self) -> None:
        """A request has used the heap."""
        now_s = time.monotonic()
        self._is_alone = now_s - self._last_used_s > IDLE_S
        self._last_used_s = now_s
        self._is_due = True

    def wait_ms(self) -> int | None:
        """How long to wait for a request before the heap is trimmed; None: for ever, as it has been."""
        if not self._is_due:
            return None
        if self._is_alone:
            return 0
        if math.isinf(self._last_used_s):
            return int(1000 * IDLE_AFTER_LOAD_S)
        return int(1000 * (IDLE_UNDER_PRESSURE_S if self._is_memory_short() else IDLE_S))

    def trim(self) -> None:
        """The pause has come."""
        self._is_due = False
        trim()
