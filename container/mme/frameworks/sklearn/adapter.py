"""scikit-learn models: an estimator or a pipeline, saved by joblib, pickle or skops.

__init__.py   what is known of scikit-learn without importing it
loading.py    from the file to an estimator
model.py      a loaded model
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

from mme.errors import ModelLoadError
from mme.frameworks.base import Adapter, memory_errors
from mme.frameworks.description import paths_in
from mme.frameworks.sklearn import DESCRIPTION, JOBLIB_SUFFIX, PICKLE_FILE, SKOPS_SUFFIX, loading
from mme.frameworks.sklearn.model import SklearnModel
from mme.settings import Settings

_SAMPLE_FEATURES = 4
_SAMPLE_COLUMNS = ("rooms", "garage")
# What most pipelines are made of; importing it in each worker anew would cost time and memory.
_COMMON_MODULES = (
    "compose",
    "ensemble",
    "feature_extraction.text",
    "impute",
    "linear_model",
    "pipeline",
    "preprocessing",
)


class SklearnAdapter(Adapter):
    """Finds and loads the models of scikit-learn."""

    name = "sklearn"
    description = DESCRIPTION
    artifacts = f"*{SKOPS_SUFFIX}, *{JOBLIB_SUFFIX} or {PICKLE_FILE}"
    sample_shape = (1, _SAMPLE_FEATURES)

    def import_framework(self, settings: Settings) -> Any:
        self.configure_process(settings)
        import sklearn

        return sklearn

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> SklearnModel:
        path = find(model_dir)
        loading.check(path, settings)
        with memory_errors(f"load {path.name} ({path.stat().st_size >> 20} MiB)"):
            self.import_framework(settings)
            return SklearnModel(loading.load(path, settings), model_dir)

    def check_folder(self, model_dir: Path) -> None:
        find(model_dir)

    def warm_template(self, settings: Settings) -> None:
        """Imports what pipelines are made of, and runs one that takes its columns by name, read by skops."""
        self.import_framework(settings)
        for module in _COMMON_MODULES:
            importlib.import_module(f"sklearn.{module}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"sample{SKOPS_SUFFIX}"
            if _dump_by_skops(_sample_pipeline(), path):
                for _ in range(2):
                    model = self.load(Path(folder), settings)
                    model.predict(model.sample())

    def write_sample(self, folder: Path, settings: Settings) -> None:
        import joblib
        import numpy as np
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        rows = np.random.default_rng(0).normal(size=(16, _SAMPLE_FEATURES))
        model = make_pipeline(StandardScaler(), LinearRegression()).fit(rows, rows.sum(axis=1))
        joblib.dump(model, folder / f"sample{JOBLIB_SUFFIX}")


def _dump_by_skops(model: Any, path: Path) -> bool:
    """False where skops is not installed."""
    try:
        import skops.io
    except ImportError:
        return False
    skops.io.dump(model, path)
    return True


def _sample_pipeline() -> Any:
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rooms, garage = _SAMPLE_COLUMNS
    rows = pd.DataFrame({rooms: [1.0, 2.0, 3.0], garage: [0, 1, 0]})
    encode = make_column_transformer((StandardScaler(), [rooms]), (OneHotEncoder(handle_unknown="ignore"), [garage]))
    return make_pipeline(encode, LinearRegression()).fit(rows, [1.0, 2.0, 3.0])


def find(model_dir: Path) -> Path:
    """The one file of the model. Raises ``ModelLoadError`` where there are several."""
    found = [
        path for path in paths_in(model_dir) if path.suffix in (SKOPS_SUFFIX, JOBLIB_SUFFIX) or path.name == PICKLE_FILE
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelLoadError(
            f"{model_dir} must hold one model of scikit-learn (*{SKOPS_SUFFIX}, *{JOBLIB_SUFFIX}, {PICKLE_FILE}); "
            f"found: {names}. Put the steps into one pipeline, or add code/inference.py, which says how they are used."
        )
    return found[0]


ADAPTER = SklearnAdapter()
