"""What MXNet 1.9.1 needs and NumPy 2 has dropped, put back before its import: names, and how scalars look.

MXNet is retired, its last release was written for NumPy 1.16 to 1.23. It looks about twenty names up when it is
imported, and a few more when they are called (``tests/unit/test_numpy_names.py`` reads them all from its source). Each
gets the meaning that it had; what NumPy has, stays as it is.

It also hands an operator's parameters to its C++ as text, and there ``(2, np.int64(32))``, as NumPy 2 writes it, is no
shape. So NumPy writes scalars in this process as it did before: ``(2, 32)``. (Threads have print options of their own.)

``restore`` does it. ``scripts/setup`` and the Dockerfile have it called in every Python of theirs when somebody imports
MXNet (``mme/before_import.py``), so that ``import mxnet`` works in scripts, notebooks and handlers of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What numpy-financial has now; NumPy 1.20 to 1.26 had functions here that only raised.
_FINANCIAL = ("fv", "ipmt", "irr", "mirr", "nper", "npv", "pmt", "ppmt", "pv", "rate")


def restore() -> None:
    """Gives NumPy the names that MXNet needs and it lacks. Calling it again changes nothing."""
    import numpy

    for name, value in {**_constants(numpy), **_types(numpy), **_functions(numpy)}.items():
        if not hasattr(numpy, name):
            setattr(numpy, name, value)
    if int(numpy.__version__.partition(".")[0]) >= 2:
        numpy.set_printoptions(legacy="1.25")


def _constants(numpy: Any) -> dict[str, float]:
    infinite = dict.fromkeys(("Inf", "Infinity", "PINF", "infty"), numpy.inf)
    return {**infinite, "NINF": -numpy.inf, "NAN": numpy.nan, "NaN": numpy.nan, "PZERO": 0.0, "NZERO": -0.0}


def _types(numpy: Any) -> dict[str, Any]:
    class compat:
        basestring = str

    return {"float_": numpy.float64, "complex_": numpy.complex128, "compat": compat, "int": int}


def _functions(numpy: Any) -> dict[str, Callable[..., Any]]:
    def in1d(ar1: Any, ar2: Any, assume_unique: bool = False, invert: bool = False) -> Any:
        return numpy.isin(numpy.ravel(ar1), ar2, assume_unique=assume_unique, invert=invert)

    def msort(a: Any) -> Any:
        return numpy.sort(a, axis=0)

    renamed = {
        "alltrue": numpy.all,
        "asfarray": lambda a, dtype=numpy.float64: numpy.asarray(a, dtype=dtype),
        "cumproduct": numpy.cumprod,
        "in1d": in1d,
        "msort": msort,
        "product": numpy.prod,
        "round_": numpy.round,
        "row_stack": numpy.vstack,
        "sometrue": numpy.any,
        "trapz": getattr(numpy, "trapezoid", None) or numpy.trapz,
    }
    # A function object each: MXNet keeps tables of its own functions by NumPy's.
    functions = {name: _named(name, function) for name, function in renamed.items()}
    return functions | {name: _gone(name) for name in _FINANCIAL}


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    call.__name__ = call.__qualname__ = name
    return call


def _gone(name: str) -> Callable[..., Any]:
    def raise_error(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError(f"NumPy has no {name} any more: install numpy-financial and use numpy_financial.{name}.")

    raise_error.__name__ = raise_error.__qualname__ = name
    return raise_error
