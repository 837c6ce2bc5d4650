"""The C library of this process. ``ctypes.CDLL`` makes a class each time, in a forked process of memory of its own."""

from __future__ import annotations

import ctypes
import mmap

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

_MADV_POPULATE_WRITE = 23  # <sys/mman.h>, Linux 5.14
# A larger block would be none of a worker's heap (zygote/heap.py).
_MOST_BYTES = 31 << 20


def fault_in(size_bytes: int) -> None:
    """Has the kernel back the next ``size_bytes`` of the heap at once (31 MiB at most), which are about to be used.

    A page fault for each page takes twice as long. For workers, whose heap keeps what is freed. Where there is no
    memory, or the kernel cannot do it, nothing happens.
    """
    size_bytes = min(size_bytes, _MOST_BYTES)
    block = LIBC.malloc(size_bytes)
    if not block:
        return
    first = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    LIBC.madvise(first, max(0, block + size_bytes - first), _MADV_POPULATE_WRITE)
    LIBC.free(block)
