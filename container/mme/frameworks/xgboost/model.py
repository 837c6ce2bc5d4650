"""A loaded XGBoost model: rows of features in, scores out, as ``Booster.predict`` gives them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mme import threads
from mme.errors import ModelLoadError
from mme.frameworks.base import Predictor, TensorSpec, memory_errors
from mme.frameworks.table import DATA, Table


class XGBoostModel(Predictor):
    """A booster. Where training stopped early, its best iteration is the last one that counts, as for XGBoost itself.

    ``missing`` is the number that stands for a missing value beside NaN, as an estimator was told; NaN for none.
    """

    output_names = ("scores",)

    def __init__(self, xgb: Any, booster: Any, missing: float) -> None:
        self._xgb = xgb
        self._booster = self.native = booster
        self._missing = missing
        self._threads = threads.count(os.environ)
        booster.set_param({"nthread": self._threads})
        width = int(booster.num_features())
        if width < 1:
            raise ModelLoadError("The booster has no features: it was not trained.")
        self._names = tuple(booster.feature_names or ())
        self.table = Table(width, self._names, dtype=np.dtype(np.float32), absent=np.nan)
        self.inputs = (TensorSpec(DATA, (1, width), np.dtype(np.float32), allows_missing=True),)
        self._iterations = (0, _best_iteration(booster) + 1)
        self._in_place = True

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        rows = arrays[DATA]
        with memory_errors(f"run {len(rows)} samples through the trees"):
            if self._in_place:
                try:
                    return [self._predict_in_place(rows)]
                except self._xgb.core.XGBoostError as error:
                    if "not supported by the current booster" not in str(error):
                        raise
                self._in_place = False  # a linear booster
            names = list(self._names) or None
            data = self._xgb.DMatrix(rows, missing=self._missing, feature_names=names, nthread=self._threads)
            return [self._booster.predict(data, iteration_range=self._iterations, validate_features=False)]

    def _predict_in_place(self, rows: np.ndarray) -> np.ndarray:
        return self._booster.inplace_predict(
            rows, iteration_range=self._iterations, missing=self._missing, validate_features=False
        )


def _best_iteration(booster: Any) -> int:
    """The attribute that early stopping leaves; -1 where there is none, which means all iterations."""
    found = booster.attr("best_iteration")
    try:
        return int(found) if found is not None else -1
    except ValueError:
        return -1
