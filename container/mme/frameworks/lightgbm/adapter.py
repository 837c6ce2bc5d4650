"""LightGBM models: boosters in LightGBM's own text format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mme import threads
from mme.errors import ModelLoadError
from mme.frameworks.base import Adapter, Predictor, TensorSpec, means_no_memory, memory_errors
from mme.frameworks.description import paths_in
from mme.frameworks.lightgbm import BEGINNING, DESCRIPTION, SUFFIX, TEXT_FILE, holds
from mme.frameworks.table import DATA, Table
from mme.settings import Settings

_SAMPLE_FEATURES = 4
_END = b"end of trees"
_QUIET = {"verbosity": -1}
_NAME_LESS = "Column_"  # LightGBM's names of columns that have none


class LightGBMModel(Predictor):
    """A booster: rows of features in, scores out, as ``Booster.predict`` gives them."""

    output_names = ("scores",)

    def __init__(self, booster: Any) -> None:
        self._booster = self.native = booster
        self._threads = threads.count(os.environ)
        width = int(booster.num_feature())
        names = tuple(booster.feature_name())
        unnamed = all(name == f"{_NAME_LESS}{position}" for position, name in enumerate(names))
        self.table = Table(width, () if unnamed else names)
        self.inputs = (TensorSpec(DATA, (1, width), np.dtype(np.float64), allows_missing=True),)

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        rows = arrays[DATA]
        with memory_errors(f"run {len(rows)} samples through the trees"):
            return [np.asarray(self._booster.predict(rows, num_threads=self._threads))]


class LightGBMAdapter(Adapter):
    """Finds and loads the models of LightGBM."""

    name = "lightgbm"
    description = DESCRIPTION
    artifacts = f"{TEXT_FILE} that begins with {BEGINNING.decode()!r}, or *{SUFFIX}"
    sample_shape = (1, _SAMPLE_FEATURES)

    def import_framework(self, settings: Settings) -> Any:
        self.configure_process(settings)
        import lightgbm

        return lightgbm

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> LightGBMModel:
        path = find(model_dir)
        body = path.read_bytes()
        check(path, body)
        with memory_errors(f"load {path.name} ({len(body) >> 20} MiB)"):
            lgb = self.import_framework(settings)
            try:
                return LightGBMModel(lgb.Booster(model_str=body.decode()))
            except (lgb.basic.LightGBMError, ValueError, KeyError, IndexError) as error:
                if means_no_memory(error):
                    raise
                raise ModelLoadError(
                    f"{path} is not read by LightGBM {lgb.__version__}: {' '.join(str(error).split())[:200]}. It must "
                    "be what booster.save_model wrote."
                ) from None

    def check_folder(self, model_dir: Path) -> None:
        find(model_dir)

    def warm_template(self, settings: Settings) -> None:
        self.import_framework(settings)

    def write_sample(self, folder: Path, settings: Settings) -> None:
        """A booster of a few small trees; training it runs one thread."""
        lgb = self.import_framework(settings)
        rows = np.random.default_rng(0).normal(size=(64, _SAMPLE_FEATURES))
        data = lgb.Dataset(rows, rows.sum(axis=1), params=_QUIET)
        lgb.train({"num_threads": 1, "num_leaves": 4, **_QUIET}, data, 4).save_model(folder / TEXT_FILE)


def find(model_dir: Path) -> Path:
    """The one file of the model. Raises ``ModelLoadError`` where there are several."""
    candidates = (path for path in paths_in(model_dir) if path.name == TEXT_FILE or path.suffix == SUFFIX)
    found = [path for path in candidates if holds(path)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelLoadError(f"{model_dir} must hold one model of LightGBM ({TEXT_FILE}, *{SUFFIX}); found: {names}.")
    return found[0]


def check(path: Path, body: bytes) -> None:
    """Raises ``ModelLoadError`` for what is no whole model: LightGBM reads whatever trees it finds."""
    if not body.startswith(BEGINNING):
        begins = "nothing" if not body else repr(body[:16])
        raise ModelLoadError(f"{path} is no model of LightGBM: it begins with {begins}, not {BEGINNING.decode()!r}.")
    if _END not in body:
        raise ModelLoadError(f"{path} is not whole: the line {_END.decode()!r} is missing. Copy it again.")


ADAPTER = LightGBMAdapter()
