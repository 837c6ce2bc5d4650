"""Puts the code of functions that workers run side by side in memory.

CPython writes to the code of a function that it runs: an instruction that cannot be specialised counts each time. In a
forked worker each such write copies a page of the template. Some 700 functions run until a worker's first answer, and
their code lies where their modules were imported, one or two on a page. Side by side they cost a tiny MXNet model
0.6 MB less.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType
from typing import Any


@contextmanager
def code_that_runs() -> Iterator[set[CodeType]]:
    """A set that the code of each function is added to that is called inside."""
    found: set[CodeType] = set()

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        yield found
    finally:
        sys.setprofile(before)


def move(hot: Collection[CodeType]) -> int:
    """Gives each function whose code is one of ``hot`` a copy of it, all of them one after the other.

    So they are side by side where the heap has no holes. Returns how many. Nothing is specialised in the copies.
    """
    functions = [each for each in gc.get_objects() if type(each) is FunctionType and each.__code__ in hot]
    for function in functions:
        function.__code__ = _copy(function.__code__)
    return len(functions)


def _copy(code: CodeType) -> CodeType:
    """With copies of the code inside it."""
    return code.replace(co_consts=tuple(_copy(each) if isinstance(each, CodeType) else each for each in code.co_consts))
