"""Immortal objects: what the template holds is never counted again, so that workers do not copy it page by page.

CPython writes to each object that it looks at, for it counts references. In a forked worker each such write copies a
page of the template. Since 3.12 an object whose count has one certain value is never counted (PEP 683): ``None``, for
one. ``make_all_immortal`` gives that count to everything that exists. Such an object is never freed. A template keeps
its objects for good anyway.

What relies on being the only holder of an object (a string that grows in place, NumPy's reuse of temporary arrays)
sees many holders, and makes a new object. So it is slower, never wrong. ``ndarray.resize`` alone refuses: an array of
a module, made before the fork, cannot be resized in a worker without ``refcheck=False``.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import sysconfig
from types import CodeType

# The lower half of an object's first word is its count; in 3.14 the upper half holds flags, which stay as they are.
_Count = ctypes.c_uint32
_FIRST_VERSION = (3, 12)
_SIGN = 1 << 31  # a count that is negative as an int32_t, so this or more, is that of an immortal object
_PROBE_REFERENCES = 1000
_BATCH = 4096  # objects


def why_not() -> str | None:
    """Why objects cannot be made immortal in this interpreter; None where they can, which is tried on one object."""
    if sys.implementation.name != "cpython" or sys.version_info < _FIRST_VERSION:
        return "it takes CPython 3.12 or later"
    if sysconfig.get_config_var("Py_GIL_DISABLED") or sys.maxsize < 1 << 32 or sys.byteorder != "little":
        return "this build of Python counts references in another way"
    if not _immortal_count() & _SIGN:
        return f"the count of None, {_immortal_count():#x}, is not that of an immortal object"
    probe: list[object] = []
    _count_of(probe).value = _immortal_count()
    before = _count_of(probe).value
    holders = [probe] * _PROBE_REFERENCES
    while_held = _count_of(probe).value
    del holders
    if {before, while_held, _count_of(probe).value} != {_immortal_count()}:
        return "the count of an object that was made immortal still moves"
    return None


def make_all_immortal() -> int:
    """Makes every object immortal that exists, and returns how many these were. ``why_not`` must have said None."""
    immortal = _immortal_count()
    # Called for each of hundreds of thousands of objects.
    count_at, references_of = _Count.from_address, sys.getrefcount
    # No set of what has been seen: it would be as large as the heap. An object's count says it.
    found = gc.get_objects()
    made = 0
    while found:
        batch = []
        for each in found[-_BATCH:]:
            if references_of(each) < _SIGN:
                count_at(id(each)).value = immortal
                batch.append(each)
        del found[-_BATCH:]
        made += len(batch)
        found += map(type, batch)
        found += gc.get_referents(*batch)
        for each in batch:
            if type(each) is CodeType:  # the collector does not look into it (and isinstance runs code of some objects)
                found += (each.co_consts, each.co_names, each.co_filename, each.co_name, each.co_qualname)
                found += (each.co_linetable, each.co_exceptiontable)
    return made


def is_immortal(thing: object) -> bool:
    """Whether ``thing`` is never counted."""
    return sys.getrefcount(thing) >= _SIGN


def _immortal_count() -> int:
    return _count_of(None).value


def _count_of(thing: object) -> ctypes.c_uint32:
    return _Count.from_address(id(thing))
