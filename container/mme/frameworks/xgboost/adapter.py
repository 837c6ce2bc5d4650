"""XGBoost models: boosters in any format that XGBoost has ever written.

__init__.py   what is known of XGBoost without importing it
files.py      the file of a model: which it is, of what format, whether it is whole
binary.py     the format that XGBoost wrote until 1.7 and has not read since 3.1
loading.py    from the file to a booster
model.py      a loaded model
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mme.frameworks.base import Adapter, memory_errors
from mme.frameworks.xgboost import DESCRIPTION, JSON_SUFFIX, MODEL_FILE, UBJ_SUFFIX, files, loading
from mme.frameworks.xgboost.model import XGBoostModel
from mme.settings import Settings

_SAMPLE_FEATURES = 4


class XGBoostAdapter(Adapter):
    """Finds and loads the models of XGBoost."""

    name = "xgboost"
    description = DESCRIPTION
    artifacts = f"{MODEL_FILE} (in any format of XGBoost), *{UBJ_SUFFIX}, or a booster in *{JSON_SUFFIX}"
    sample_shape = (1, _SAMPLE_FEATURES)

    def import_framework(self, settings: Settings) -> Any:
        self.configure_process(settings)
        import xgboost

        return xgboost

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> XGBoostModel:
        path = files.find(model_dir)
        body = files.read(path)
        files.check(path, body, settings)
        with memory_errors(f"load {path.name} ({len(body) >> 20} MiB)"):
            xgb = self.import_framework(settings)
            booster, missing = loading.load(xgb, path, body)
            return XGBoostModel(xgb, booster, missing)

    def check_folder(self, model_dir: Path) -> None:
        files.find(model_dir)

    def warm_template(self, settings: Settings) -> None:
        self.import_framework(settings)

    def write_sample(self, folder: Path, settings: Settings) -> None:
        """A booster of a few small trees; training it runs one thread."""
        import numpy as np

        xgb = self.import_framework(settings)
        rows = np.random.default_rng(0).normal(size=(64, _SAMPLE_FEATURES)).astype(np.float32)
        data = xgb.DMatrix(rows, rows.sum(axis=1), nthread=1)
        booster = xgb.train({"max_depth": 3, "nthread": 1}, data, num_boost_round=4)
        (folder / MODEL_FILE).write_bytes(booster.save_raw("ubj"))


ADAPTER = XGBoostAdapter()
