"""MXNet's operators as functions that are written when they are first called.

When it is imported, MXNet writes the source of a Python function for each of its 1,300 operators, once for arrays and
once for symbols, and compiles it: more than half of the time of ``import mxnet``. A worker calls a few dozen of
them. So each is a small function at first, which at its first call (0.2 ms) takes the code, defaults and description of
the one that MXNet writes. It stays the same object, whatever modules have it by then. Until that call ``help`` does not
tell its parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any

_BASE = "mxnet.base"
_REGISTER = ("_init_op_module", "_init_np_op_module")  # of mxnet.base: they call what makes a function, per operator
_DESCRIPTION = "An operator of MXNet. What it does and takes is described here once it has been called."


@contextmanager
def written_when_called() -> Iterator[None]:
    """Around ``import mxnet``."""
    finder = _FindsBase()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _FindsBase:
    """Finds ``mxnet.base``, to change it before what imports it reads its functions."""

    def find_spec(self, name: str, path: Sequence[str] | None, _: object = None) -> ModuleSpec | None:
        if name != _BASE:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _LoadsBase(name, spec.origin)
        return spec


class _LoadsBase(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for name in _REGISTER:
            setattr(module, name, _making_lazily(getattr(module, name)))


def _making_lazily(register: Callable[..., None]) -> Callable[..., None]:
    """``register`` with what it is given to make functions with (its only argument that is one) made lazy."""

    def lazily(argument: Any) -> Any:
        return _lazy_maker(argument) if isinstance(argument, FunctionType) else argument

    def register_lazily(*arguments: Any, **named: Any) -> None:
        register(*map(lazily, arguments), **{name: lazily(argument) for name, argument in named.items()})

    return register_lazily


def _lazy_maker(make: FunctionType) -> Callable[..., FunctionType]:
    """``make(handle, name, function_name)``, but what it returns is written at its first call."""

    def make_lazily(handle: Any, name: str, function_name: str) -> FunctionType:
        operator = FunctionType(_CODE, make.__globals__, function_name)
        operator.__kwdefaults__ = {"_unwritten": _Unwritten(operator, make, handle, name, function_name)}
        operator.__doc__ = _DESCRIPTION
        return operator

    return make_lazily


class _Unwritten:
    """What an operator calls as long as it has no code of its own."""

    __slots__ = ("_function_name", "_handle", "_make", "_name", "_operator")

    def __init__(self, operator: FunctionType, make: FunctionType, handle: Any, name: str, function_name: str) -> None:
        self._operator = operator
        self._make = make
        self._handle = handle
        self._name = name
        self._function_name = function_name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.write()
        return self._operator(*arguments, **named)

    def write(self) -> None:
        """Gives the operator its code."""
        operator = self._operator
        written: FunctionType = self._make(self._handle, self._name, self._function_name)
        # in an order in which another thread may call it meanwhile: the code of now has no positional parameters
        operator.__defaults__ = written.__defaults__
        operator.__code__ = written.__code__
        operator.__kwdefaults__ = None
        if operator.__doc__ == _DESCRIPTION:
            operator.__doc__ = written.__doc__


def _operator(*arguments: Any, _unwritten: Any, **named: Any) -> Any:
    return _unwritten(*arguments, **named)


_CODE: CodeType = _operator.__code__
