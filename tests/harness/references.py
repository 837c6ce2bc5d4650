"""Reference answers of MXNet: files of arrays by name, made once by ``make_references.py`` on NumPy 1.23."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mme.frameworks import registry
from mme.settings import Settings
from tests.harness import models

FOLDER = Path(__file__).resolve().parents[1] / "references"
TOLERANCE = 1e-5
_MADE_WITH = "made_with"


def write(name: str, arrays: dict[str, np.ndarray], made_with: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    named: dict[str, Any] = {_MADE_WITH: np.array(made_with), **arrays}
    np.savez_compressed(FOLDER / f"{name}.npz", **named)


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files if key != _MADE_WITH}


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """The same type, shape and numbers, to 1e-5."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def answer_of_trained_model(shared: Path, name: str) -> np.ndarray:
    """What the trained network of this name answers, through our adapter, for five fixed images: logits (5, 10)."""
    images = np.random.RandomState(11).uniform(-2, 2, (5, 3, 32, 32)).astype(np.float32)
    with TemporaryDirectory() as folder:
        model_dir = models.cifar_model(Path(folder), shared, name)
        model = registry.data_adapter_for(model_dir, Settings()).load(model_dir, Settings())
        return model.predict({"data": images})[0]
