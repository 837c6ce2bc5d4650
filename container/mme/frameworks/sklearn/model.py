"""A loaded scikit-learn model: rows in, what ``predict`` or another method says of them out.

An estimator that was fitted to a data frame knows its columns by name and gets a data frame, in which each column has
its own type. Others get an array: of float64, or of objects where there are texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import BadRequest, ModelLoadError
from mme.frameworks import properties
from mme.frameworks.base import Predictor, TensorSpec, means_no_memory, memory_errors
from mme.frameworks.sklearn import PREDICT_METHOD
from mme.frameworks.table import DATA, METHOD, Table

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform")
_USUAL = np.zeros(1, np.int8)  # the first of the methods


class SklearnModel(Predictor):
    """An estimator or pipeline. ``model_dir`` may hold serving.properties with ``option.predict_method``."""

    output_names = ("predictions",)

    def __init__(self, estimator: Any, model_dir: Path) -> None:
        self._estimator = self.native = estimator
        _use_one_job(estimator)
        methods = tuple(method for method in METHODS if hasattr(estimator, method))
        wanted = properties.read(model_dir).get(PREDICT_METHOD)
        if wanted is not None:
            if wanted not in methods:
                raise ModelLoadError(
                    f"{properties.place(model_dir, PREDICT_METHOD)}={wanted[:40]} is none of the methods of the "
                    f"model's {type(estimator).__name__}: {', '.join(methods)}."
                )
            methods = (wanted, *(method for method in methods if method != wanted))
        if not methods:
            raise ModelLoadError(f"A {type(estimator).__name__} cannot be asked: it has none of {', '.join(METHODS)}.")
        self._methods = methods
        columns = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
        width = getattr(estimator, "n_features_in_", None)
        documents = width is None and _takes_documents(estimator)
        width = int(width) if width is not None else None
        self._texts = texts_of(estimator)
        self._table = self.table = Table(
            width,
            columns,
            by_name=bool(columns),
            takes_text=True,
            text_columns=frozenset(self._texts),
            documents=documents,
            score=None,
            methods=methods,
        )
        self.inputs = (TensorSpec(DATA, (1, width or 1), np.dtype(np.float64), allows_missing=True),)
        if columns:
            import pandas  # noqa: F401 (now, not at the first request)

    def sample(self) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        if self._table.documents:
            arrays[DATA] = np.array(["text"], object)
        elif self._table.by_name:
            texts = {name: np.array([text], object) for name, text in self._texts.items()}
            arrays = {name: texts.get(name, np.zeros(1)) for name in self._table.columns}
        else:
            arrays = super().sample()
        return {**arrays, METHOD: _USUAL}

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        positions = arrays.get(METHOD, _USUAL)
        if (positions != positions[0]).any():
            raise ValueError("its requests ask for different methods")  # a batch is then run one by one
        method = self._methods[int(positions[0])]
        with memory_errors(f"run {len(positions)} samples through the model"):
            try:
                output = getattr(self._estimator, method)(self._rows(arrays))
            except (ValueError, TypeError, KeyError) as error:  # how estimators say that they do not like the rows
                if means_no_memory(error):
                    raise
                words = " ".join(str(error).split())[:300]
                raise BadRequest(f"The model's {method} does not take these rows: {words}") from error
        return [_as_array(output)]

    def _rows(self, arrays: Mapping[str, np.ndarray]) -> Any:
        if not self._table.by_name:
            return arrays[DATA]
        import pandas as pd

        if DATA in arrays and DATA not in self._table.columns:  # rows from a program beside the files
            return pd.DataFrame(arrays[DATA], columns=list(self._table.columns))
        return pd.DataFrame({name: arrays[name] for name in self._table.columns}, copy=False)


def _as_array(output: Any) -> np.ndarray:
    """Also of sparse matrices, data frames, and a list with an array for each of several outputs."""
    if hasattr(output, "toarray"):
        output = output.toarray()
    if isinstance(output, list):
        output = np.stack([np.asarray(each) for each in output], axis=1)
    return np.asarray(output)


def _takes_documents(estimator: Any) -> bool:
    """Is the first step one that reads texts (a vectorizer)?"""
    return hasattr(_steps(estimator)[0], "build_analyzer")


def texts_of(estimator: Any) -> dict[str, str]:
    """The columns that were texts when it was fitted, as its encoders remember, each with one of its texts."""
    found: dict[str, str] = {}
    for step in _steps(estimator):
        for _, part, columns in getattr(step, "transformers_", ()):
            names = [columns] if isinstance(columns, str) else list(columns)
            for inner in _steps(part):
                if hasattr(inner, "build_analyzer"):
                    found |= {str(name): "text" for name in names}
                categories = getattr(inner, "categories_", ())
                if len(categories) == len(names):
                    texts = ([each for each in of_one if isinstance(each, str)] for of_one in categories)
                    found |= {str(name): of[0] for name, of in zip(names, texts, strict=True) if of}
    return found


def _steps(estimator: Any) -> list[Any]:
    """Those of a pipeline; the estimator alone where it is none."""
    steps = getattr(estimator, "steps", None)
    return [step for _, step in steps] if isinstance(steps, list) else [estimator]


def _use_one_job(estimator: Any) -> None:
    """A forest that was trained on all cores would start a pool for each request; here workers are what uses them."""
    try:
        parameters = estimator.get_params(deep=True)
        several = {name: 1 for name, value in parameters.items() if name.endswith("n_jobs") and value not in (None, 1)}
        if several:
            estimator.set_params(**several)
    except Exception:
        return
