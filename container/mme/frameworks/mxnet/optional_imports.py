"""What MXNet imports where it is installed and few models need: scikit-learn and SciPy.

They are half of the time and of the modules of ``import mxnet``, and 54 MB of a template where both are installed.
MXNet does without (it catches ``ImportError``): ``mx.model.FeedForward`` is then no estimator of scikit-learn. SciPy is
imported when MXNet comes to need it: its sparse matrices, which ``mx.nd.array`` takes and ``CSRNDArray.asscipy`` makes,
and its statistics in ``mx.contrib.quantization`` and ``mx.test_utils``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SKLEARN, _SCIPY = "sklearn", "scipy"
_SPARSE, _STATISTICS = "scipy.sparse", "scipy.stats"


@contextmanager
def left_out() -> Iterator[None]:
    """Around ``import mxnet``: what was not imported before is not to be had, and can be imported by others later."""
    names = [name for name in (_SKLEARN, _SCIPY, _STATISTICS) if name not in sys.modules]
    if "mxnet" in sys.modules or not names:
        yield
        return
    has_scipy = importlib.util.find_spec(_SCIPY) is not None
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]  # so that importing it raises ImportError
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
    if _SCIPY in names and has_scipy:
        for module in ("mxnet.ndarray.sparse", "mxnet.ndarray.utils"):
            sys.modules[module].spsp = _Sparse()  # type: ignore[attr-defined]
    if _STATISTICS in names and has_scipy:
        sys.modules["mxnet.contrib.quantization"].stats = _Later(_STATISTICS)  # type: ignore[attr-defined]
        sys.modules["mxnet.test_utils"].ss = _Later(_STATISTICS)  # type: ignore[attr-defined]


class _Later:
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


class _NoneYet(type):
    """Where SciPy's matrices are not loaded, nothing is one."""

    def __instancecheck__(cls, instance: object) -> bool:
        sparse = sys.modules.get(_SPARSE)
        return sparse is not None and isinstance(instance, sparse.csr_matrix)


class _Sparse(_Later):
    """``scipy.sparse``, under SciPy's names. MXNet asks of each array whether it is a matrix: that imports nothing."""

    class csr:
        class csr_matrix(metaclass=_NoneYet):
            pass

    def __init__(self) -> None:
        super().__init__(_SPARSE)
