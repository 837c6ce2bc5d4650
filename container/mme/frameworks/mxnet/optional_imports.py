"""What MXNet imports where it is installed and no model needs: scikit-learn, and SciPy's statistics.

They are a third of the time and of the modules of ``import mxnet``. MXNet does without (it catches ``ImportError``):
``mx.model.FeedForward`` is then no estimator of scikit-learn. The statistics, which ``mx.contrib.quantization`` and
``mx.test_utils`` use, are imported when one of the two comes to them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SKLEARN, _STATISTICS = "sklearn", "scipy.stats"


@contextmanager
def left_out() -> Iterator[None]:
    """Around ``import mxnet``: what was not imported before is not to be had, and can be imported by others later."""
    names = [name for name in (_SKLEARN, _STATISTICS) if name not in sys.modules]
    if "mxnet" in sys.modules or not names:
        yield
        return
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]  # so that importing it raises ImportError
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
    if _STATISTICS in names:
        sys.modules["mxnet.contrib.quantization"].stats = _Statistics()  # type: ignore[attr-defined]
        sys.modules["mxnet.test_utils"].ss = _Statistics()  # type: ignore[attr-defined]


class _Statistics:
    """``scipy.stats``, imported when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(_STATISTICS), name)
