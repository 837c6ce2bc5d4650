"""The quickstart's models of other frameworks than MXNet, of the same handwritten digits.

digits_onnx      digits_lenet, converted to ONNX: the same pictures, labels and answers
digits_xgboost   gradient boosted trees on 8×8 pixels, sent as a row of CSV; answered with a score for each digit
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.programs.convert_to_onnx import convert
from scripts.programs.sample_models import LABELS, SAMPLES, SEED, Digits, Sample, inputs_of

ONNX, XGBOOST = "digits_onnx", "digits_xgboost"
ROUNDS = 60  # of boosting
CSV = "text/csv"
_PERCEPTRON, _LENET = SAMPLES


def make_onnx(lenet: Path, folder: Path) -> None:
    """Converts the trained network in ``lenet``. Raises ``Failure`` where the answers of both differ."""
    before = dict(os.environ)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the story is told elsewhere
            convert(lenet, folder, None)
    finally:
        os.environ.clear()  # of what it sets for MXNet, which would chatter about it
        os.environ.update(before)


def accuracy_of_onnx(digits: Digits, folder: Path) -> float:
    """The share of ``digits`` that the model in ``folder`` gets right."""
    import onnxruntime

    session = onnxruntime.InferenceSession(next(folder.glob("*.onnx")), providers=["CPUExecutionProvider"])
    (scores, *_) = session.run(None, {session.get_inputs()[0].name: inputs_of(digits.pictures, _LENET)})
    return float((np.asarray(scores).argmax(axis=1) == digits.truths).mean())


def train_xgboost(digits: Digits, folder: Path) -> None:
    """Trains the trees and writes them to ``folder``."""
    import xgboost

    parameters = {"objective": "multi:softprob", "num_class": len(LABELS), "max_depth": 4, "eta": 0.3, "nthread": 2}
    data = xgboost.DMatrix(_rows(digits.pictures), digits.truths)
    booster = xgboost.train({**parameters, "seed": SEED}, data, ROUNDS)
    folder.mkdir(parents=True)
    (folder / "model.ubj").write_bytes(booster.save_raw("ubj"))


def accuracy_of_xgboost(digits: Digits, folder: Path) -> float:
    """The share of ``digits`` that the trees in ``folder`` get right."""
    import xgboost

    # (not by its name: MXNet and XGBoost cannot both read files in one process, see docs/frameworks.md)
    booster = xgboost.Booster(model_file=bytearray((folder / "model.ubj").read_bytes()))
    scores = booster.predict(xgboost.DMatrix(_rows(digits.pictures)))
    return float((scores.argmax(axis=1) == digits.truths).mean())


def as_csv(picture: Path) -> bytes:
    """The row that the trees take for a picture."""
    with Image.open(picture) as opened:
        (row,) = _rows(np.asarray(opened)[None])
    return ",".join(f"{pixel:.3f}" for pixel in row.tolist()).encode()


def five_best(scores: list[float]) -> list[str]:
    """Scores in the words in which a model with labels answers: best first."""
    order = np.argsort(scores)[::-1][:5]
    return [f"probability={scores[index]:.6f}, class={LABELS[index]}" for index in order]


def _rows(pictures: np.ndarray, sample: Sample = _PERCEPTRON) -> np.ndarray:
    """(N, 64, 64) pictures as rows of 8×8 pixels from 0 to 1: (N, 64) float32."""
    return inputs_of(pictures, sample).reshape(len(pictures), -1)
