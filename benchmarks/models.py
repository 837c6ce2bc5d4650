"""The models that are measured, made on the spot and kept in .cache/benchmarks, and the photo that they are shown.

    tiny            a convolution and a fully connected layer, 3 KB, 32×32 pixels in
    squeezenet      SqueezeNet 1.0 (5 MB), resnet_18 (47 MB), resnet_152 (241 MB): the architectures of
                    mxnet.gluon.model_zoo with random weights, exported as users export theirs; they end in logits
    NAME_onnx       tiny or a network of the zoo, converted to ONNX by scripts/convert_to_onnx
    multiplier-N    four numbers times N: right answers can be computed
    house_xgboost   house prices by six features, 100 trees, as SageMaker's container saves them
    house_sklearn   the same by a linear model, as joblib saves it
    house_script    the same file beside code/inference.py, which loads it with joblib
    script_plain    code/inference.py of a few lines
    script_packaged the same, with a package of its own that it imports (code/requirements.txt, code/wheels)

Weights come from a fixed seed. MXNet is imported only where models are made, in a process of its own:
``python -m benchmarks.models NAME…``.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.failure import BenchmarkError
from benchmarks.report import ROOT, progress

# Raise the number when what is made changes: a folder with another number is not looked at.
CACHE_DIR = ROOT / ".cache" / "benchmarks" / "models-2"
IMAGE_SHAPE = (1, 3, 224, 224)
TINY_SHAPE = (1, 3, 32, 32)
FEATURES = 4
CLASSES = 1000
SEED = 12
PHOTO_SIZE = (640, 480)
PHOTO_TYPE = "image/jpeg"

_ZOO = {"squeezenet": "squeezenet1.0", "resnet_18": "resnet18_v1", "resnet_152": "resnet152_v1"}
TITLES = {"tiny": "tiny", "squeezenet": "SqueezeNet 1.0", "resnet_18": "ResNet-18", "resnet_152": "ResNet-152"}
ONNX = "_onnx"  # the end of a converted model's name
TITLES |= {name + ONNX: f"{title} (ONNX)" for name, title in TITLES.items()}
TITLES |= {"house_xgboost": "house prices (XGBoost)", "house_sklearn": "house prices (scikit-learn)"}
TITLES |= {"house_script": "house prices (script)"}
TITLES |= {"script_plain": "a script", "script_packaged": "a script with packages"}
HOUSE = b"1999.0,1850.0,3.0,2.5,0.25,2.0"  # the toolkit makes no array of whole numbers among others
HOUSE_TYPE = "text/csv"
# What users of the toolkit write; its defaults read and write. One row of CSV is a flat array to them.
SCRIPT = """\
import os

import joblib


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))


def predict_fn(data, model):
    return model.predict(data.reshape(1, -1))
"""
PACKAGE = "package_of_a_benchmark"
TINY_SCRIPT = """\
def model_fn(model_dir):
    return 2


def predict_fn(data, model):
    return data * model
"""


def ensure(names: Sequence[str]) -> dict[str, Path]:
    """The folders of these models; makes those that are missing."""
    missing = [name for name in names if not (CACHE_DIR / name).is_dir()]
    if missing:
        progress(f"making {len(missing)} models in {os.path.relpath(CACHE_DIR)}")
        done = subprocess.run(
            [sys.executable, "-P", "-m", "benchmarks.models"],
            input="\n".join(missing),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"the models could not be made:\n{done.stderr}")
    return {name: CACHE_DIR / name for name in names}


def weights_bytes(folder: Path) -> int:
    """Size of a model's parameter files."""
    return sum(path.stat().st_size for path in folder.glob("*.params"))


def request_for(name: str) -> tuple[bytes, str]:
    """What a model is sent, and its type: a photo, or a house."""
    return (HOUSE, HOUSE_TYPE) if name.startswith(("house_", "script_")) else (photo(), PHOTO_TYPE)


def multiplier(factor: int) -> str:
    """Name of the model that multiplies by ``factor``."""
    return f"multiplier-{factor}"


@cache
def photo() -> bytes:
    """A JPEG of 640×480 pixels, as large as a photo of that size: gradients, edges and grain, the same on every run."""
    width, height = PHOTO_SIZE
    random = np.random.RandomState(SEED)
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.stack([across / width * 255, down / height * 255, (across + down) / (width + height) * 255], axis=-1)
    for _ in range(40):  # discs of one colour each
        x, y, radius = random.randint(0, width), random.randint(0, height), random.randint(10, 90)
        picture[(across - x) ** 2 + (down - y) ** 2 < radius**2] = random.randint(0, 256, 3)
    picture += random.normal(0, 6, picture.shape)
    body = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(body, "JPEG", quality=90)
    return body.getvalue()


# ---- making them, in a process of its own ----


def make(name: str) -> None:
    """Makes one model. It appears under its name when it is complete."""
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".making-", dir=CACHE_DIR))
    try:
        if name.endswith(ONNX):
            _make_onnx(name.removesuffix(ONNX), unfinished)
        elif name in _ZOO:
            _make_from_zoo(_ZOO[name], unfinished)
        elif name == "tiny":
            _make_tiny(unfinished)
        elif name.startswith("house_"):
            _make_houses(name, unfinished)
        elif name.startswith("script_"):
            _make_script(name, unfinished)
        else:
            _make_multiplier(unfinished, int(name.removeprefix(multiplier(0)[:-1])))
        unfinished.chmod(0o755)
        try:
            unfinished.rename(CACHE_DIR / name)
        except OSError:
            pass  # another run made it meanwhile
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _make_from_zoo(architecture: str, folder: Path) -> None:
    import mxnet as mx

    mx.random.seed(SEED)
    np.random.seed(SEED)
    net = mx.gluon.model_zoo.vision.get_model(architecture, pretrained=False)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net.hybridize()
    net(mx.nd.array(np.random.uniform(0, 255, IMAGE_SHAPE))).wait_to_read()
    net.export(str(folder / "model"), epoch=0)
    _write_shapes(folder, IMAGE_SHAPE)
    _write_labels(folder)


def _make_onnx(name: str, folder: Path) -> None:
    from scripts.programs.convert_to_onnx import convert

    with tempfile.TemporaryDirectory() as made:
        (_make_tiny if name == "tiny" else partial(_make_from_zoo, _ZOO[name]))(Path(made))
        convert(Path(made), folder, None)


def _make_tiny(folder: Path) -> None:
    import mxnet as mx

    net = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(7, 7), stride=(4, 4), num_filter=4, name="conv")
    net = mx.sym.Pooling(mx.sym.Activation(net, act_type="relu"), global_pool=True, kernel=(1, 1), pool_type="avg")
    net = mx.sym.FullyConnected(mx.sym.flatten(net), num_hidden=10, name="scores")
    random = np.random.RandomState(SEED)
    shapes, _, _ = net.infer_shape(data=TINY_SHAPE)
    weights = dict(zip(net.list_arguments(), shapes, strict=True))
    del weights["data"]
    values = {f"arg:{name}": mx.nd.array(random.normal(0, 0.01, shape)) for name, shape in weights.items()}
    _write(folder, net, values, TINY_SHAPE)
    _write_labels(folder, 10)


def _make_houses(name: str, folder: Path) -> None:
    random = np.random.RandomState(SEED)
    rows = random.uniform([1900, 600, 1, 1, 0.05, 0], [2024, 4000, 7, 4, 2, 4], (2000, 6)).round(2)
    prices = rows @ np.array([300, 150, 20_000, 15_000, 40_000, 9000])
    if name == "house_xgboost":
        import xgboost as xgb

        booster = xgb.train({"max_depth": 4, "nthread": 1}, xgb.DMatrix(rows, prices, nthread=1), 100)
        (folder / "xgboost-model").write_bytes(booster.save_raw("ubj"))
        return
    import joblib
    from sklearn.linear_model import LinearRegression

    joblib.dump(LinearRegression().fit(rows, prices), folder / "model.joblib")
    if name == "house_script":
        (folder / "code").mkdir()
        (folder / "code" / "inference.py").write_text(SCRIPT)


def _make_script(name: str, folder: Path) -> None:
    from tests.harness.wheels import write_wheel

    code = folder / "code"
    code.mkdir()
    (code / "inference.py").write_text(TINY_SCRIPT)
    if name == "script_packaged":
        write_wheel(code / "wheels", PACKAGE, "")
        (code / "requirements.txt").write_text(f"{PACKAGE}==1.0\n")
        (code / "inference.py").write_text(f"import {PACKAGE}\n\n\n{TINY_SCRIPT}")


def _make_multiplier(folder: Path, factor: int) -> None:
    import mxnet as mx

    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=FEATURES, no_bias=True, name="times")
    _write(folder, net, {"arg:times_weight": mx.nd.array(np.eye(FEATURES) * factor)}, (1, FEATURES))


def _write(folder: Path, symbol: Any, values: dict[str, Any], shape: tuple[int, ...]) -> None:
    import mxnet as mx

    symbol.save(str(folder / "model-symbol.json"))
    mx.nd.save(str(folder / "model-0000.params"), values)
    _write_shapes(folder, shape)


def _write_shapes(folder: Path, shape: tuple[int, ...]) -> None:
    (folder / "model-shapes.json").write_text(json.dumps([{"name": "data", "shape": list(shape)}]))


def _write_labels(folder: Path, count: int = CLASSES) -> None:
    (folder / "synset.txt").write_text("".join(f"n{number:08d} class {number}\n" for number in range(count)))


if __name__ == "__main__":
    for line in sys.stdin.read().splitlines():
        make(line)
