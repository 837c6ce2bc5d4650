"""Converts a model of MXNet to ONNX, and compares the answers of both before it is written."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import BadRequest, MmeError, ModelLoadError
from mme.frameworks.base import Predictor, TensorSpec
from mme.frameworks.mxnet import artifacts
from mme.frameworks.mxnet.adapter import ADAPTER as MXNET
from mme.frameworks.onnx import SUFFIX
from mme.frameworks.onnx.adapter import ADAPTER as ONNX
from mme.handler.images import CONFIG_FILE, ImageLayout, ImageReader
from mme.settings import Settings
from scripts.programs import mxnet_export
from scripts.programs.console import Failure, readable_size, run
from scripts.programs.model_check import kept_from_the_terminal
from scripts.programs.progress import steps_bar

INPUTS = 20
LARGEST_DIFFERENCE = 1e-3  # relative to the largest number of the output
KEPT_FILES = ("synset.txt", CONFIG_FILE, "serving.properties")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_MOST_MEGAPIXELS = 100


def main() -> int:
    """Returns 0 once the model is written."""
    arguments = parse()
    try:
        convert(arguments.folder, arguments.out, arguments.sample)
    except ModelLoadError as error:
        raise Failure(str(error)) from None
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/convert_to_onnx",
        description="Converts a model of MXNet to ONNX. Labels and preprocessor_config.json are kept. Both models are "
        f"run on {INPUTS} inputs, and the ONNX one is written only if no answer differs by more than "
        f"{LARGEST_DIFFERENCE:g} of the output's largest number.",
        epilog="Then: ./scripts/package_model OUT_FOLDER MODEL.tar.gz",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the model of MXNet")
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="a new or empty folder for the model of ONNX")
    parser.add_argument(
        "--sample",
        type=Path,
        metavar="FILE_OR_FOLDER",
        help="an image, or a folder of them, to compare the answers on; otherwise on random numbers",
    )
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder} is no folder")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        parser.error(f"{arguments.out} is there already and not an empty folder")
    if arguments.sample is not None and not arguments.sample.exists():
        parser.error(f"{arguments.sample} does not exist")
    return arguments


def convert(folder: Path, out: Path, sample: Path | None) -> float:
    """Writes the model of ``folder`` to ``out`` as ONNX, and returns the largest difference of their answers.

    Raises ``Failure``, or ``ModelLoadError`` of the model of MXNet; ``out`` is then as it was before.
    """
    files = artifacts.find(folder)
    inputs = artifacts.read_inputs(files.shapes)
    name = files.symbol.name.removesuffix("-symbol.json")
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=parent))
    try:
        unfinished.chmod(0o755)
        print(f"  exporting {name}", flush=True)
        with kept_from_the_terminal():
            original = MXNET.load(folder, Settings.from_environment())
            if not original.has_samples_first:
                raise Failure(
                    f"{name} counts samples by another dimension than the first: what converts it does not. Transpose "
                    "its inputs and outputs in the network."
                )
            model = mxnet_export.export(files, inputs)
            original.predict(original.sample())
        for kept in KEPT_FILES:
            if (folder / kept).is_file():
                shutil.copyfile(folder / kept, unfinished / kept)
        difference = _write_and_compare(model, unfinished / f"{name}{SUFFIX}", original, sample)
        if out.exists():
            out.rmdir()
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    size_bytes = sum(path.stat().st_size for path in out.iterdir())
    print(f"  {out / name}{SUFFIX}: {readable_size(size_bytes)}, opset {mxnet_export.OPSET}")
    return difference


def _write_and_compare(model: Any, path: Path, original: Predictor, sample: Path | None) -> float:
    """With a free batch where the network works so, otherwise with the batch that it was made for."""
    settings = Settings.from_environment()
    fixed = type(model)()
    fixed.CopyFrom(model)
    mxnet_export.free_batch(model)
    mxnet_export.save(model, path)
    with kept_from_the_terminal():
        takes_several = _takes_several(path.parent, original, settings)
        samples = [(arrays, original.predict(arrays)) for arrays in _samples(original, path.parent, sample)]
    if not takes_several:
        print(f"  the network works for a batch of {original.inputs[0].shape[0]} only: samples are run so")
        path.unlink()
        mxnet_export.save(fixed, path)
    converted = _load(path.parent, settings)
    difference = 0.0
    with steps_bar("comparing", len(samples), "inputs") as bar:
        for arrays, expected in samples:
            difference = max(difference, _difference(expected, converted.predict(arrays)))
            bar.update()
    shown = f"largest difference on {len(samples)} inputs: {difference:.2g} (relative; allowed: {LARGEST_DIFFERENCE:g})"
    if not difference <= LARGEST_DIFFERENCE:
        raise Failure(f"the converted model answers differently, and is not written: {shown}.")
    print(f"  {shown}")
    return difference


def _load(folder: Path, settings: Settings) -> Predictor:
    try:
        return ONNX.load(folder, settings)
    except ModelLoadError as error:
        raise Failure(f"what the exporter made is no model: {error}") from None


def _takes_several(folder: Path, original: Predictor, settings: Settings) -> bool:
    """Does the model with a free batch answer two samples as the original does?"""
    try:
        random = np.random.RandomState(1)
        arrays = {each.name: np.concatenate([_random(each, random) for _ in range(2)]) for each in original.inputs}
        outputs = ONNX.load(folder, settings).predict(arrays)
        return _difference(original.predict(arrays), outputs) <= LARGEST_DIFFERENCE
    except (BadRequest, ModelLoadError):
        return False


def _difference(outputs: list[np.ndarray], others: list[np.ndarray]) -> float:
    """The largest of all outputs, relative to the output's largest number; infinite where shapes differ, or NaN."""
    largest = 0.0
    if len(outputs) != len(others):
        return np.inf
    for mine, other in zip(outputs, others, strict=True):
        if mine.shape != other.shape or not np.isfinite(mine).all() or not np.isfinite(other).all():
            if mine.shape == other.shape and np.array_equal(mine, other, equal_nan=True):
                continue
            return np.inf
        scale = max(float(np.abs(mine).max(initial=0)), float(np.finfo(np.float32).tiny))
        difference = np.abs(mine.astype(np.float64) - other.astype(np.float64)).max(initial=0)
        largest = max(largest, float(difference) / scale)
    return largest


def _samples(model: Predictor, folder: Path, sample: Path | None) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of one sample each: the images of ``sample``, over and over, or random numbers."""
    random = np.random.RandomState(0)
    if sample is None:
        for _ in range(INPUTS):
            yield {each.name: _random(each, random) for each in model.inputs}
        return
    spec = model.inputs[0]
    reader = (
        ImageReader.for_model(folder, spec, model.image_codec, _MOST_MEGAPIXELS) if len(model.inputs) == 1 else None
    )
    if reader is None:
        raise Failure(f"--sample: the model takes no images but {', '.join(map(str, model.inputs))}. Leave it out.")
    images = sorted(sample.iterdir()) if sample.is_dir() else [sample]
    images = [path for path in images if path.suffix.lower() in _IMAGES]
    if not images:
        raise Failure(f"--sample: {sample} is or holds no image ({', '.join(_IMAGES)}).")
    for number in range(INPUTS):
        path = images[number % len(images)]
        try:
            image = reader.read(path.read_bytes())
        except MmeError as error:
            raise Failure(f"--sample: {path}: {error}") from None
        if number >= len(images):  # the same image again would show nothing new
            image = np.roll(image, number, axis=-1)
        yield {spec.name: image.astype(spec.dtype)}


def _random(spec: TensorSpec, random: np.random.RandomState) -> np.ndarray:
    """One sample: what pixels, other numbers and small whole numbers look like."""
    shape = (1, *spec.sample_shape)
    if spec.dtype.kind in "iu":
        return random.randint(0, 2, shape).astype(spec.dtype)
    if ImageLayout.of(spec) is not None:
        return random.uniform(0, 255, shape).astype(spec.dtype)
    return random.normal(0, 1, shape).astype(spec.dtype)


if __name__ == "__main__":
    run(main)
