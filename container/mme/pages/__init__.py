"""Pages of memory that workers share with the fork server, and share again after they have written to them.

``pages.c`` says how; ``objects.py`` finds what it has to know of Python. In the fork server:

    survey = Survey()          # a process that looks at all objects; takes a second or two
    ...
    survey.finish()            # when it has ended: all memory is shared from here on, by the workers to come

In a worker, whenever it has nothing to do: ``drop()``.
"""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).with_name("pages.so")
SOURCE = Path(__file__).with_name("pages.c")

logger = logging.getLogger("mme.pages")

_shared = False  # in the fork server, and in the workers that it has forked since


class Known(ctypes.Structure):
    """``struct known`` of pages.c: addresses."""

    _fields_ = [
        ("objects", ctypes.c_void_p),
        ("types", ctypes.c_void_p),
        ("object_count", ctypes.c_size_t),
        ("warmups", ctypes.c_void_p),
        ("warmup_count", ctypes.c_size_t),
        ("counters", ctypes.c_void_p),
        ("counter_count", ctypes.c_size_t),
    ]


@cache
def _library() -> ctypes.CDLL:
    """Raises ``OSError`` where it cannot be loaded, on another architecture, say."""
    library = ctypes.CDLL(str(LIBRARY))
    library.pages_share.argtypes, library.pages_share.restype = [ctypes.POINTER(Known)], ctypes.c_long
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


def share(known: Known) -> int:
    """Shares this process's memory with those that will be forked; returns how many bytes. For a process of one thread.

    Raises ``OSError``; nothing has changed then that would matter.
    """
    global _shared
    shared_bytes = _checked(_library().pages_share(ctypes.byref(known)))
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
