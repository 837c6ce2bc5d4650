"""The quickstart's models as archives ready for upload, and pictures to show them: trained once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.programs import other_frameworks, sample_models
from scripts.programs.archives import entries, write_archive
from scripts.programs.console import Failure
from scripts.programs.progress import steps_bar
from scripts.programs.sample_models import SAMPLES, SMALL_SAMPLES, SUCCESSOR, Digits, Sample

LEAST_ACCURACY = 0.95
# A perceptron with 32 hidden units, trained for a moment, is not as good.
LEAST_ACCURACY_OF_SMALL = 0.85


class Model(NamedTuple):
    """A trained model: its archive, whose name is what a client targets, and its share of right answers."""

    archive: Path
    accuracy: float
    framework: str = "MXNet"

    @property
    def target(self) -> str:
        """The ``TargetModel`` of an invocation."""
        return self.archive.name


class Picture(NamedTuple):
    """A picture that no model was trained on, and which digit it shows."""

    file: Path
    truth: int


class Samples(NamedTuple):
    """What training left behind."""

    first: list[Model]
    """The four to begin with, of three frameworks."""
    more: list[Model]
    """Ten small ones."""
    successor: Model
    """What is to replace the first of all."""
    pictures: list[Picture]
    """All that were held out."""
    were_kept: bool
    """Whether they were there already."""

    def picture_of(self, digit: int) -> Path:
        """The first picture of ``digit``."""
        return next(picture.file for picture in self.pictures if picture.truth == digit)


def trained_samples(cache: Path) -> Samples:
    """The samples in ``cache``, trained where that has not been done by this version of the training code.

    Raises ``Failure`` where a model comes out worse than it must be.
    """
    code = b"".join(Path(each).read_bytes() for each in (__file__, sample_models.__file__, other_frameworks.__file__))
    folder = cache / hashlib.sha256(code).hexdigest()[:12]
    report = folder / "report.json"
    were_kept = report.exists()
    if not were_kept:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".training-", dir=cache) as temporary:
            unfinished = Path(temporary) / folder.name
            _train_all(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    accuracies = json.loads(report.read_text())

    def named(name: str, framework: str) -> Model:
        return Model(folder / "archives" / f"{name}.tar.gz", accuracies[name], framework)

    def model(sample: Sample) -> Model:
        return named(sample.name, "MXNet")

    others = [named(other_frameworks.ONNX, "ONNX"), named(other_frameworks.XGBOOST, "XGBoost")]

    pictures = [Picture(file, int(file.name[0])) for file in sorted((folder / "pictures").iterdir())]
    return Samples(
        [*(model(each) for each in SAMPLES), *others],
        [model(each) for each in SMALL_SAMPLES],
        model(SUCCESSOR),
        pictures,
        were_kept,
    )


def _train_all(folder: Path) -> None:
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # read by MXNet's library: no chatter between our lines
    learned, held_out = sample_models.load_digits()
    accuracies = {}
    for sample in [*SAMPLES, SUCCESSOR]:
        with steps_bar(f"training {sample.name}", sample.epochs, "epochs") as bar:
            accuracies[sample.name] = _train(sample, learned, held_out, folder, LEAST_ACCURACY, bar.update)
    with steps_bar("training ten small ones", len(SMALL_SAMPLES), "models") as bar:
        for sample in SMALL_SAMPLES:
            accuracies[sample.name] = _train(sample, learned, held_out, folder, LEAST_ACCURACY_OF_SMALL)
            bar.update()
    # last: once XGBoost's library is in a process, MXNet's crashes when it saves a network (both carry dmlc's streams)
    with steps_bar("converting one, training trees", 2, "models") as bar:
        for name, accuracy in _make_others(learned, held_out, folder / "models"):
            accuracies[name] = accuracy
            _judge_and_pack(name, accuracy, folder, LEAST_ACCURACY)
            bar.update()
    sample_models.save_pictures(held_out, folder / "pictures")
    (folder / "report.json").write_text(json.dumps(accuracies, indent=2) + "\n")


def _train(
    sample: Sample,
    learned: Digits,
    held_out: Digits,
    folder: Path,
    least_accuracy: float,
    on_epoch: sample_models.OnEpoch = lambda: None,
) -> float:
    """Trains, judges and packs one model; returns its accuracy."""
    model = folder / "models" / sample.name
    sample_models.train(sample, learned, model, on_epoch)
    accuracy = sample_models.accuracy(sample, held_out, model)
    _judge_and_pack(sample.name, accuracy, folder, least_accuracy)
    return accuracy


def _make_others(learned: Digits, held_out: Digits, models: Path) -> Iterator[tuple[str, float]]:
    """Name and accuracy of each model that is not MXNet's, once it is made."""
    onnx, trees = models / other_frameworks.ONNX, models / other_frameworks.XGBOOST
    other_frameworks.make_onnx(models / SAMPLES[1].name, onnx)
    yield other_frameworks.ONNX, other_frameworks.accuracy_of_onnx(held_out, onnx)
    other_frameworks.train_xgboost(learned, trees)
    yield other_frameworks.XGBOOST, other_frameworks.accuracy_of_xgboost(held_out, trees)


def _judge_and_pack(name: str, accuracy: float, folder: Path, least_accuracy: float) -> None:
    """Raises ``Failure`` where a model is worse than it must be."""
    if accuracy < least_accuracy:
        raise Failure(
            f"{name} gets only {accuracy:.1%} of the held-out pictures right, and must get "
            f"{least_accuracy:.0%}: something computes wrongly on this machine."
        )
    write_archive(entries(folder / "models" / name)[0], folder / "archives" / f"{name}.tar.gz")
