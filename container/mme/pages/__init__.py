"""Pages of memory that workers share with the zygote, and share again after they have written to them.

``pages.c`` says how. The zygote calls ``share()`` before it forks; a worker, whenever it has nothing to do,
``drop()``.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import opcode
import os
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).with_name("pages.so")
SOURCE = Path(__file__).with_name("pages.c")

logger = logging.getLogger("mme.pages")

# Objects that live for as long as the interpreter, which the collector does not list either.
_UNLISTED = (
    *(None, True, False, Ellipsis, NotImplemented, (), "", b"", frozenset()),
    *range(-5, 257),
    *map(chr, range(256)),
    *(bytes([number]) for number in range(256)),
)
# What share() began with, kept for good: to let go of it would count down in every object, and copy its page.
_roots: list[object] = []
_shared = False  # in the zygote, and in the workers that it has forked since


@cache
def _library() -> ctypes.CDLL:
    """Raises ``OSError`` where it cannot be loaded, on another architecture, say."""
    library = ctypes.PyDLL(str(LIBRARY))
    library.pages_share.argtypes, library.pages_share.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_long
    library.pages_drop.argtypes, library.pages_drop.restype = [], ctypes.c_long
    return library


def can_share() -> bool:
    """Whether this machine can run the library."""
    try:
        _library()
    except OSError as error:
        logger.info("workers share no pages again: %s", error)
        return False
    return True


def share() -> int:
    """Shares this process's memory with those that will be forked; returns how many bytes. For a process of one thread.

    All objects are frozen afterwards (``gc.freeze``). Raises ``OSError`` or ``MemoryError``; nothing else has changed
    then that would matter.
    """
    global _shared
    gc.unfreeze()  # the collector does not list frozen objects
    cache_entries: list[int] = getattr(opcode, "_inline_cache_entries", [0] * 256)
    try:
        _roots[:] = [*_UNLISTED, *gc.get_objects()]
        shared_bytes = _checked(_library().pages_share(_roots, bytes(cache_entries)))
    finally:
        gc.freeze()
    _shared = True
    return shared_bytes


def is_shared() -> bool:
    """Whether this process's memory is shared so: pages that it copies then are anonymous memory that it grows by."""
    return _shared


def drop() -> int:
    """Gives back the pages that are as they were in the process that this one was forked from; returns how many bytes.

    0 where nothing is shared, or where this process has several threads. Raises ``OSError``.
    """
    return _checked(_library().pages_drop()) if _shared else 0


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
