"""What MXNet imports where it is installed and few models need, and what does instead until it is needed.

SciPy and scikit-learn are half of the modules of ``import mxnet``, and 54 MB of a template where both are installed;
requests, ONNX, and setuptools, which stands in for distutils since Python 3.12, are half of what is left.

scikit-learn  MXNet does without (it catches ``ImportError``): ``mx.model.FeedForward`` is no estimator of it.
SciPy         is imported when MXNet comes to need it: its sparse matrices, which ``mx.nd.array`` takes and
              ``CSRNDArray.asscipy`` makes, and its statistics in ``mx.contrib.quantization`` and ``mx.test_utils``.
requests      is imported when MXNet downloads something (``mx.gluon.utils.download``).
ONNX          is imported when MXNet writes or reads such a model (``mx.onnx``).
distutils     MXNet only compares NumPy's version with it, which ``_Version`` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_SKLEARN, _SCIPY = "sklearn", "scipy"
_SPARSE, _STATISTICS = "scipy.sparse", "scipy.stats"
_LATER = ("onnx", "requests")
_VERSIONS = "distutils.version"


@contextmanager
def left_out() -> Iterator[None]:
    """Around ``import mxnet``: what was not imported before is not to be had, and can be imported by others later."""
    if "mxnet" in sys.modules:
        yield
        return
    names = [name for name in (_SKLEARN, _SCIPY, _STATISTICS, *_LATER, _VERSIONS) if name not in sys.modules]
    has_scipy = importlib.util.find_spec(_SCIPY) is not None
    for name in names:
        sys.modules[name] = _instead_of(name)
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


def _instead_of(name: str) -> Any:
    """What ``import NAME`` gives meanwhile. With None it raises ``ImportError``."""
    if name == _VERSIONS:
        versions = ModuleType(_VERSIONS)
        versions.LooseVersion = versions.StrictVersion = _Version  # type: ignore[attr-defined]
        return versions
    return _Later(name) if name in _LATER and importlib.util.find_spec(name) is not None else None


class _Later:
    """A module that is imported when something of it is asked for."""

    __spec__ = None  # which the import system asks for

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


class _Version(tuple[int, ...]):
    """The numbers of a version, in order: (1, 26, 4) of "1.26.4"."""

    __slots__ = ()

    def __new__(cls, text: str) -> _Version:
        return super().__new__(cls, map(int, re.findall(r"\d+", text)))


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
