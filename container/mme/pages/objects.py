"""What ``pages.c`` has to know of Python: where all objects are, and where byte code counts.

A process forked for it looks at everything, which writes to nearly every page; the addresses are the same in the
process that it was forked from, which they are told to through a file in memory.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import opcode
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from mme import pages

logger = logging.getLogger("mme.pages")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_AT_ONCE = 10_000  # arguments of a call
_NICE = 10
_QUICKENED = 0  # co_warmup of code that has run often enough
_FIRST_WARMUP = -8  # and of code that has never run


class _Code(ctypes.Structure):
    """``PyCodeObject`` of CPython 3.11 up to its instructions (Include/cpython/code.h)."""

    _fields_ = [
        *((name, ctypes.c_ssize_t) for name in ("ob_refcnt", "ob_type", "ob_size")),
        *((name, ctypes.c_void_p) for name in ("co_consts", "co_names", "co_exceptiontable")),
        *(("co_flags", ctypes.c_int), ("co_warmup", ctypes.c_short), ("_co_linearray_entry_size", ctypes.c_short)),
        *((name, ctypes.c_int) for name in ("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_stacksize")),
        *((name, ctypes.c_int) for name in ("co_firstlineno", "co_nlocalsplus", "co_nlocals", "co_nplaincellvars")),
        *((name, ctypes.c_int) for name in ("co_ncellvars", "co_nfreevars")),
        *((name, ctypes.c_void_p) for name in ("co_localsplusnames", "co_localspluskinds", "co_filename", "co_name")),
        *((name, ctypes.c_void_p) for name in ("co_qualname", "co_linetable", "co_weakreflist", "_co_code")),
        *(("_co_linearray", ctypes.c_void_p), ("_co_firsttraceable", ctypes.c_int), ("co_extra", ctypes.c_void_p)),
    ]


class Survey:
    """A process that looks at all objects of this one. ``pid`` is to be reaped by the caller, who then finishes it."""

    def __init__(self) -> None:
        """Forks. Raises ``OSError``."""
        self._file = os.memfd_create("survey", os.MFD_CLOEXEC)
        self._parent = os.getpid()
        self._started_s = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._look()

    def _look(self) -> None:
        """Runs in the forked process, and ends it."""
        code = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == self._parent:
                Path("/proc/self/comm").write_text("mme survey")
                os.nice(_NICE)
                _write(self._file)
                code = 0
        except BaseException as error:  # nothing of it may go on in this process
            logger.warning("what can be shared was not found out: %r", error)
        finally:
            os._exit(code)

    def finish(self, status: int) -> None:
        """Shares all memory, where the survey has ended well (``status`` of ``os.waitpid``)."""
        try:
            if os.waitstatus_to_exitcode(status) != 0:
                logger.warning("workers share no pages again: the survey ended with status %d", status)
                return
            with open(self._file, "rb", closefd=False) as file:
                file.seek(0)
                objects, types, warmups, counters = (np.load(file) for _ in range(4))
            known = pages.Known(
                *(objects.ctypes.data, types.ctypes.data, len(objects)),
                *(warmups.ctypes.data, len(warmups)),
                *(counters.ctypes.data, len(counters)),
            )
            shared_bytes = pages.share(known)
        except OSError as error:
            logger.warning("workers share no pages again: %s", error)
        else:
            elapsed_s = time.monotonic() - self._started_s
            logger.debug("%d MiB in %d objects are shared after %.1f s", shared_bytes >> 20, len(objects), elapsed_s)
        finally:
            os.close(self._file)


def _write(descriptor: int) -> None:
    gc.unfreeze()  # the frozen ones are not listed otherwise
    found = list(_all_objects())
    codes = [each for each in found if type(each) is CodeType] if _knows_code_objects() else []
    arrays: tuple[Iterable[int], ...] = (
        map(id, found),
        map(id, map(type, found)),
        map(_warmup_of, codes),
        (address for code in codes for address in _counters_of(code)),
    )
    with open(descriptor, "wb", closefd=False) as file:
        for addresses in arrays:
            np.save(file, np.fromiter(addresses, np.uint64))


def _all_objects() -> Iterator[Any]:
    """Every object that can be reached, each once, but for frames: what a running call holds will be gone."""
    constants = (None, True, False, Ellipsis, NotImplemented, (), b"", "", frozenset(), *range(-5, 257))
    characters = [*map(chr, range(256)), *(bytes([number]) for number in range(256))]
    level: list[Any] = [*gc.get_objects(), *constants, *characters]
    known: set[int] = set()
    while level:
        fresh = {id(each): each for each in level}
        for address in fresh.keys() & known:
            del fresh[address]
        known.update(fresh)
        level = [each for each in fresh.values() if type(each) is not FrameType]
        yield from level
        level = [*_referents(level), *set(map(type, level))]


def _referents(objects: list[Any]) -> Iterator[Any]:
    for start in range(0, len(objects), _AT_ONCE):
        yield from gc.get_referents(*objects[start : start + _AT_ONCE])
    for code in objects:
        if type(code) is CodeType:  # the collector does not look into these
            yield from (code.co_consts, code.co_names, code.co_filename, code.co_name, code.co_qualname)
            yield from (code.co_linetable, code.co_exceptiontable)


def _knows_code_objects() -> bool:
    """Whether code objects are what ``_Code`` says."""

    def probe() -> int:
        return 1

    if sys.version_info[:2] != (3, 11) or not hasattr(opcode, "_inline_cache_entries"):
        return False
    probe()
    probe()
    code = probe.__code__
    instructions = ctypes.string_at(id(code) + ctypes.sizeof(_Code), len(code.co_code))
    return _Code.from_address(id(code)).co_warmup == _FIRST_WARMUP + 2 and instructions == code.co_code


def _warmup_of(code: CodeType) -> int:
    return id(code) + _Code.co_warmup.offset


def _counters_of(code: CodeType) -> Iterator[int]:
    """Where the counters of its instructions are: the first entries of their caches, once it has been quickened."""
    if _Code.from_address(id(code)).co_warmup != _QUICKENED:
        return
    start, instructions = id(code) + ctypes.sizeof(_Code), code.co_code  # as they were before
    caches: list[int] = opcode._inline_cache_entries  # type: ignore[attr-defined]
    at = 0
    while at < len(instructions):
        entries = caches[instructions[at]]
        if entries:
            yield start + at + 2
        at += 2 + 2 * entries
