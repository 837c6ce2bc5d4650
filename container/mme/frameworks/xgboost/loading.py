"""From the file of an XGBoost model to a booster, and the number that stands for a missing value.

A pickle holds a ``Booster``, or one of XGBoost's estimators, whose booster is taken. XGBoost refuses boosters that
versions before 2.0 have pickled in the binary format; they are unpickled once more, with a booster that keeps its bytes
as they are.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import ModelLoadError
from mme.frameworks import pickles
from mme.frameworks.base import means_no_memory
from mme.frameworks.xgboost import binary, files

# What XGBoost puts before its reasons: the time, the file and the line.
_PREFIX = re.compile(r"^(\[[\d:]+\] )?\S*\.(cc|h|cu):\d+: ")
_OFFSET_HEAD = b"CONFIG-offset:"  # of a booster that was pickled by version 1.0, and a number of 8 bytes


def load(xgb: Any, path: Path, body: bytearray) -> tuple[Any, float]:
    """A booster and what stands for a missing value. Raises ``ModelLoadError``."""
    match files.format_of(body):
        case "pickle":
            return _unpickled(xgb, path, body)
        case "binary":
            return _booster(xgb, path, _as_json(xgb, path, body)), np.nan
        case _:
            return _booster(xgb, path, body), np.nan


def _booster(xgb: Any, path: Path, body: bytearray) -> Any:
    try:
        booster = xgb.Booster()
        booster.load_model(body)
    except (xgb.core.XGBoostError, ValueError) as error:
        if means_no_memory(error):
            raise
        raise ModelLoadError(
            f"{path} is not read by XGBoost {xgb.__version__}: {_reason(error)}. The file must be whole, and of a "
            "version that is not newer."
        ) from None
    return booster


def _as_json(xgb: Any, path: Path, body: bytes | bytearray) -> bytearray:
    try:
        return binary.to_json(xgb, body)
    except ValueError as error:
        raise ModelLoadError(
            f"{path} is in XGBoost's binary format, which ended with version 3.0, and cannot be read: {error}. Load it "
            "with the version that wrote it, and save it as model.ubj or model.json."
        ) from None


def _unpickled(xgb: Any, path: Path, body: bytearray) -> tuple[Any, float]:
    with pickles.reading(path):
        try:
            held = _load(io.BytesIO(body))
        except (xgb.core.XGBoostError, ValueError) as error:
            if means_no_memory(error):
                raise
            held = _OldUnpickler(io.BytesIO(body)).load()
    missing = getattr(held, "missing", None)  # of an estimator
    booster = held if isinstance(held, xgb.Booster | _OldBooster) else getattr(held, "_Booster", None)
    if isinstance(booster, _OldBooster):
        raw = booster.model_bytes()
        booster = _booster(xgb, path, raw if files.format_of(raw) in ("json", "ubj") else _as_json(xgb, path, raw))
    if not isinstance(booster, xgb.Booster):
        raise ModelLoadError(
            f"{path} holds a {type(held).__name__}, not a trained booster or estimator of XGBoost. Save "
            "booster.save_model('model.ubj'); a pipeline of scikit-learn is model.joblib."
        )
    return booster, float(missing) if isinstance(missing, int | float) else np.nan


def _load(file: io.BytesIO) -> Any:
    """With joblib where it is installed: an estimator's arrays may have been written by it."""
    try:
        import joblib
    except ImportError:
        return pickle.load(file)
    return joblib.load(file)


class _OldBooster:
    """What a pickled ``Booster`` becomes whose bytes XGBoost does not take."""

    handle: bytes | bytearray | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.handle = state.get("handle")

    def model_bytes(self) -> bytearray:
        """The model alone, in the format of its time."""
        raw = bytes(self.handle or b"")
        if raw.startswith(_OFFSET_HEAD):
            raw = raw[len(_OFFSET_HEAD) + 8 :]
        return bytearray(raw)


class _OldUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _OldBooster if (module, name) == ("xgboost.core", "Booster") else super().find_class(module, name)


def _reason(error: Exception) -> str:
    """The first lines of an error of XGBoost, without its place in the source, up to the stack trace."""
    text = str(error).split("Stack trace", maxsplit=1)[0]
    words = " ".join(_PREFIX.sub("", text).split())
    return words if len(words) <= 200 else words[:197] + "..."
