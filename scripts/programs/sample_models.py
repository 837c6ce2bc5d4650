"""Small image classifiers of two architectures, trained here on the handwritten digits that scikit-learn carries, and
saved as anybody's MXNet models are: symbol, params, shapes, labels and how images were prepared.

    digits_mlp           multilayer perceptron, Module API, 8×8 pixels; ends in SoftmaxOutput
    digits_mlp_v2        what is to replace it: the same network, trained for longer from another random start
    digits_lenet         LeNet-type convolutional network, Gluon, 28×28 pixels; ends in logits
    digits_small_01 …    perceptrons with one small hidden layer, each from a random start of its own
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

LABELS = ["0 zero", "1 one", "2 two", "3 three", "4 four", "5 five", "6 six", "7 seven", "8 eight", "9 nine"]
PICTURE_PIXELS = 64  # side of the pictures, for eyes; each model resizes them to its own input
HELD_OUT = 450  # of 1,797 pictures, the same share of each digit
BATCH = 32
SEED = 20
OnEpoch = Callable[[], object]


class Digits(NamedTuple):
    """Handwritten digits as pictures: (N, 64, 64) uint8 grey, and (N,) int64 which digit each is."""

    pictures: np.ndarray
    truths: np.ndarray


class Sample(NamedTuple):
    """A model to train: its name, how it sees a picture, how many rounds over the training set it takes, and where its
    random numbers start."""

    name: str
    side_pixels: int
    mean: float
    std: float
    epochs: int
    train: Callable[..., None]
    seed: int = SEED


def load_digits() -> tuple[Digits, Digits]:
    """The pictures for training and those held out, always split alike."""
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    digits = sklearn_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # the data set counts ink from 0 to 16
    size = (PICTURE_PIXELS, PICTURE_PIXELS)
    pictures = np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BICUBIC)) for each in small])
    parts = train_test_split(pictures, digits.target, test_size=HELD_OUT, stratify=digits.target, random_state=SEED)
    return Digits(parts[0], parts[2]), Digits(parts[1], parts[3])


def inputs_of(pictures: np.ndarray, sample: Sample) -> np.ndarray:
    """(N, 64, 64) uint8 pictures as ``sample`` sees them: (N, 1, side, side) float32. The server does the same steps,
    told by preprocessor_config.json."""
    size = (sample.side_pixels, sample.side_pixels)
    resized = [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) for each in pictures]
    return ((np.stack(resized)[:, None] / 255 - sample.mean) / sample.std).astype(np.float32)


def train(sample: Sample, digits: Digits, folder: Path, on_epoch: OnEpoch) -> None:
    """Trains ``sample`` and writes its artifacts to ``folder``; ``on_epoch`` is called after each epoch."""
    import mxnet as mx

    random.seed(sample.seed)
    np.random.seed(sample.seed)
    mx.random.seed(sample.seed)
    folder.mkdir(parents=True)
    prefix = folder / sample.name
    sample.train(inputs_of(digits.pictures, sample), digits.truths, prefix, sample.epochs, on_epoch)
    shape = [1, 1, sample.side_pixels, sample.side_pixels]
    (folder / f"{sample.name}-shapes.json").write_text(json.dumps([{"name": "data", "shape": shape}]) + "\n")
    (folder / "synset.txt").write_text("\n".join(LABELS) + "\n")
    preparation = {
        "do_resize": True,
        "size": {"height": sample.side_pixels, "width": sample.side_pixels},
        "resample": int(Image.Resampling.BILINEAR),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [sample.mean],
        "image_std": [sample.std],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation, indent=2) + "\n")


def save_pictures(digits: Digits, folder: Path) -> None:
    """Writes all of them, numbered for each digit: 7-000.png is the first picture of a seven."""
    folder.mkdir(parents=True)
    for digit in range(10):
        for number, picture in enumerate(digits.pictures[digits.truths == digit]):
            Image.fromarray(picture).save(folder / f"{digit}-{number:03}.png")


def accuracy(sample: Sample, digits: Digits, folder: Path) -> float:
    """The share of ``digits`` that the model saved in ``folder`` gets right."""
    import mxnet as mx

    inputs = mx.nd.array(inputs_of(digits.pictures, sample))
    symbol = mx.sym.load(str(folder / f"{sample.name}-symbol.json"))
    arrays = mx.nd.load(str(next(folder.glob("*.params"))))
    arguments = {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith("arg:")}
    states = {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith("aux:")}
    arguments |= {"data": inputs, "softmax_label": mx.nd.zeros(len(digits.truths))}
    known = {name: arguments[name] for name in symbol.list_arguments()}
    executor = symbol.bind(mx.cpu(), known, aux_states=states, grad_req="null")
    scores = executor.forward(is_train=False)[0].asnumpy()
    return float((scores.argmax(axis=1) == digits.truths).mean())


def _train_mlp(
    inputs: np.ndarray,
    truths: np.ndarray,
    prefix: Path,
    epochs: int,
    on_epoch: OnEpoch,
    hidden_units: tuple[int, ...] = (128, 64),
) -> None:
    import mxnet as mx

    net: Any = mx.sym.Variable("data")
    for layer, units in enumerate(hidden_units, start=1):
        net = mx.sym.FullyConnected(net, num_hidden=units, name=f"hidden{layer}")
        net = mx.sym.Activation(net, act_type="relu", name=f"relu{layer}")
    net = mx.sym.FullyConnected(net, num_hidden=len(LABELS), name="scores")
    net = mx.sym.SoftmaxOutput(net, name="softmax")

    batches = mx.io.NDArrayIter(inputs, truths.astype(np.float32), BATCH, shuffle=True, label_name="softmax_label")
    module = mx.mod.Module(net, context=mx.cpu())
    with warnings.catch_warnings():  # Module warns about its own optimizer's rescale_grad
        warnings.simplefilter("ignore", UserWarning)
        module.fit(
            batches,
            num_epoch=epochs,
            optimizer="adam",
            optimizer_params={"learning_rate": 0.001},
            initializer=mx.init.Xavier(),
            epoch_end_callback=lambda *_state: on_epoch(),
        )
    module.save_checkpoint(str(prefix), 0)


def _train_lenet(inputs: np.ndarray, truths: np.ndarray, prefix: Path, epochs: int, on_epoch: OnEpoch) -> None:
    import mxnet as mx
    from mxnet import gluon

    net = gluon.nn.HybridSequential()
    net.add(
        gluon.nn.Conv2D(channels=20, kernel_size=5, activation="tanh"),
        gluon.nn.MaxPool2D(),
        gluon.nn.Conv2D(channels=50, kernel_size=5, activation="tanh"),
        gluon.nn.MaxPool2D(),
        gluon.nn.Flatten(),
        gluon.nn.Dense(128, activation="tanh"),
        gluon.nn.Dense(len(LABELS)),
    )
    net.initialize(mx.init.Xavier())
    net.hybridize()
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 0.001})
    dataset = gluon.data.ArrayDataset(inputs, truths.astype(np.float32))
    for _epoch in range(epochs):
        for batch, answers in gluon.data.DataLoader(dataset, BATCH, shuffle=True):
            with mx.autograd.record():
                loss = loss_of(net(batch), answers)
            loss.backward()
            trainer.step(len(batch))
        mx.nd.waitall()
        on_epoch()
    net.export(str(prefix), epoch=0)


_MLP = Sample("digits_mlp", side_pixels=8, mean=0.0, std=1.0, epochs=40, train=_train_mlp)
SAMPLES = [
    _MLP,
    Sample("digits_lenet", side_pixels=28, mean=0.5, std=0.5, epochs=12, train=_train_lenet),
]
SMALL_SAMPLES = [
    _MLP._replace(
        name=f"digits_small_{number:02}", epochs=10, train=partial(_train_mlp, hidden_units=(32,)), seed=number
    )
    for number in range(1, 11)
]
SUCCESSOR = _MLP._replace(name="digits_mlp_v2", epochs=60, seed=SEED + 1)
