"""Tiny MXNet models for tests: each function fills ``folder`` with the artifacts of one model, and returns the folder.

Weights are random but the same on every run (``seed``), so two calls with the same arguments make the same model.
Models are a few KB unless a size is asked for. MXNet is imported on the first call, not with this module.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mme.frameworks.mxnet.adapter import import_mxnet
from mme.settings import Settings

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def tiny_classifier(
    folder: Path,
    *,
    labels: bool = True,
    input_shape: tuple[int, int, int, int] = (1, 1, 28, 28),
    classes: int = 10,
    logits: bool = False,
    seed: int = 0,
    prefix: str = "model",
    epoch: int = 0,
) -> Path:
    """A small convolutional network for images: input ``data``, one output of class probabilities (N, ``classes``).

    It ends in ``SoftmaxOutput``, with the ``softmax_label`` argument that this brings, or with ``logits`` in a plain
    fully connected layer.
    """
    mx = import_mxnet(Settings())

    data = mx.sym.Variable("data")
    net = mx.sym.Convolution(data / 255, kernel=(5, 5), stride=(2, 2), num_filter=4, name="conv")
    net = mx.sym.BatchNorm(net, fix_gamma=False, name="norm")
    net = mx.sym.Activation(net, act_type="relu", name="relu")
    net = mx.sym.Pooling(net, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool")
    net = mx.sym.FullyConnected(mx.sym.flatten(net), num_hidden=classes, name="scores")
    if not logits:
        net = mx.sym.SoftmaxOutput(net, name="softmax")
    return write_model(
        folder,
        net,
        {"data": input_shape},
        labels=_labels(classes) if labels else None,
        seed=seed,
        prefix=prefix,
        epoch=epoch,
    )


def tiny_mlp(
    folder: Path, *, features: int = 4, classes: int = 3, labels: bool = False, logits: bool = False, seed: int = 0
) -> Path:
    """A two-layer perceptron on rows of numbers: input ``data`` (1, ``features``), output (N, ``classes``)."""
    mx = import_mxnet(Settings())

    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=8, name="hidden")
    net = mx.sym.Activation(net, act_type="tanh", name="tanh")
    net = mx.sym.FullyConnected(net, num_hidden=classes, name="scores")
    if not logits:
        net = mx.sym.SoftmaxOutput(net, name="softmax")
    return write_model(folder, net, {"data": (1, features)}, labels=_labels(classes) if labels else None, seed=seed)


def multiplier(folder: Path, *, factor: float = 2.0, features: int = 4) -> Path:
    """Answers its input ``data`` (1, ``features``) times ``factor``: a model whose right answer a test can compute."""
    mx = import_mxnet(Settings())

    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=features, no_bias=True, name="times")
    weights = {"times_weight": np.eye(features, dtype=np.float32) * np.float32(factor)}
    return write_model(folder, net, {"data": (1, features)}, weights=weights)


def two_input_model(folder: Path) -> Path:
    """Inputs ``left`` (1, 3) and ``right`` (1, 2); answers the sum of both as one number: output (N, 1)."""
    mx = import_mxnet(Settings())

    left = mx.sym.FullyConnected(mx.sym.Variable("left"), num_hidden=1, no_bias=True, name="left_sum")
    right = mx.sym.FullyConnected(mx.sym.Variable("right"), num_hidden=1, no_bias=True, name="right_sum")
    weights = {"left_sum_weight": np.ones((1, 3), np.float32), "right_sum_weight": np.ones((1, 2), np.float32)}
    return write_model(folder, left + right, {"left": (1, 3), "right": (1, 2)}, weights=weights)


def two_output_model(folder: Path) -> Path:
    """Input ``data`` (1, 3); outputs twice (N, 3) and thrice (N, 3) the input."""
    mx = import_mxnet(Settings())

    data = mx.sym.Variable("data")
    return write_model(folder, mx.sym.Group([data * 2, data * 3]), {"data": (1, 3)})


def fixed_batch_model(folder: Path) -> Path:
    """Input ``data`` (1, 4), answers (1, 4) times three; the graph itself says that the batch is 1."""
    mx = import_mxnet(Settings())

    net = mx.sym.reshape(mx.sym.Variable("data") * 3, shape=(1, 4))
    return write_model(folder, net, {"data": (1, 4)})


def heavy_model(folder: Path, *, weights_mb: int) -> Path:
    """A model whose weights take ``weights_mb`` MiB on disk and in memory; input (1, 1024), output (N, 1)."""
    mx = import_mxnet(Settings())

    hidden = weights_mb * 256  # rows of 1024 float32 are 4 KiB
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=hidden, no_bias=True, name="heavy")
    net = mx.sym.sum(net, axis=1, keepdims=True)
    weights = {"heavy_weight": np.full((hidden, 1024), 1e-6, np.float32)}
    return write_model(folder, net, {"data": (1, 1024)}, weights=weights)


def hungry_model(folder: Path, *, megabytes_per_sample: int) -> Path:
    """A model of no weights that needs about ``megabytes_per_sample`` MiB of working memory for each sample.

    Input ``data`` (1, 4); output (N, 4), each number times the count of copies that were summed. It loads where one
    sample's memory is there, and runs out of memory on a request of enough samples.
    """
    mx = import_mxnet(Settings())

    copies = megabytes_per_sample * 65536  # one copy of 4 float32 is 16 bytes
    net = mx.sym.broadcast_axis(mx.sym.expand_dims(mx.sym.Variable("data"), axis=1), axis=1, size=copies)
    net = mx.sym.sum(mx.sym.sqrt(net + 1), axis=1)
    return write_model(folder, net, {"data": (1, 4)})


def link_files(model: Path, folder: Path) -> Path:
    """Puts the files of ``model`` into ``folder``, without a copy and with their times of change."""
    for file in model.iterdir():
        (folder / file.name).hardlink_to(file)
    return folder


def write_model(
    folder: Path,
    symbol: Any,
    input_shapes: dict[str, tuple[int, ...]],
    *,
    weights: dict[str, np.ndarray] | None = None,
    labels: list[str] | None = None,
    seed: int = 0,
    prefix: str = "model",
    epoch: int = 0,
) -> Path:
    """Writes the files of a model with MXNet ``symbol``; parameters that ``weights`` does not give are random."""
    mx = import_mxnet(Settings())

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    symbol.save(str(folder / f"{prefix}-symbol.json"))

    random = np.random.RandomState(seed)
    argument_shapes, _, auxiliary_shapes = symbol.infer_shape(**input_shapes)
    parameters = {}
    for name, shape in zip(symbol.list_arguments(), argument_shapes, strict=True):
        if name in input_shapes or name.endswith("_label"):
            continue
        given = (weights or {}).get(name)
        value = random.normal(0, 0.5, shape).astype(np.float32) if given is None else given
        parameters[f"arg:{name}"] = mx.nd.array(value, dtype=value.dtype)
    for name, shape in zip(symbol.list_auxiliary_states(), auxiliary_shapes, strict=True):
        start = np.ones if name.endswith("var") else np.zeros
        parameters[f"aux:{name}"] = mx.nd.array(start(shape, np.float32))
    mx.nd.save(str(folder / f"{prefix}-{epoch:04d}.params"), parameters)

    write_shapes(folder, input_shapes, prefix=prefix)
    if labels is not None:
        (folder / "synset.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder


def cifar_model(folder: Path, shared: Path, network: str) -> Path:
    """A trained network of the fixture ``shared``: photos of any size in, 10 logits out, labelled."""
    shutil.copytree(shared / "models" / network, folder, dirs_exist_ok=True)
    write_shapes(folder, {"data": (1, 3, 32, 32)}, prefix=network)
    (folder / "synset.txt").write_text("\n".join(CIFAR_10))
    preparation = {
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.4914, 0.4822, 0.4465],
        "image_std": [0.2023, 0.1994, 0.2010],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


def write_shapes(folder: Path, input_shapes: dict[str, tuple[int, ...]], *, prefix: str = "model") -> None:
    """Writes ``*-shapes.json``, the file that names a model's inputs."""
    inputs = [{"name": name, "shape": list(shape)} for name, shape in input_shapes.items()]
    (folder / f"{prefix}-shapes.json").write_text(json.dumps(inputs))


def embedding_model(folder: Path) -> Path:
    """Input ``data`` (1, 2) of int32 numbers below 5; answers row n of a table, [n, 10 n], for each: (N, 2, 2)."""
    mx = import_mxnet(Settings())

    net = mx.sym.Embedding(mx.sym.Variable("data"), input_dim=5, output_dim=2, name="table")
    table = np.array([[n, 10 * n] for n in range(5)], np.float32)
    write_model(folder, net, {"data": (1, 2)}, weights={"table_weight": table})
    (Path(folder) / "model-shapes.json").write_text('[{"name": "data", "shape": [1, 2], "dtype": "int32"}]')
    return Path(folder)


def make_old(folder: Path) -> Path:
    """Rewrites a model as MXNet 0.8 saved it, which knew neither "attrs" nor auxiliary states in the graph.

    The symbol has "param" and "backward_source_id"; parameters have 32-bit shapes and no magic number of their own
    (NDArray::LegacyLoad in ndarray.cc, LoadLegacyJSONPass in legacy_json_util.cc).
    """
    mx = import_mxnet(Settings())

    (symbol_path,) = Path(folder).glob("*-symbol.json")
    graph = json.loads(symbol_path.read_text())
    auxiliary = set(mx.sym.load(str(symbol_path)).list_auxiliary_states())
    kept = [position for position, node in enumerate(graph["nodes"]) if node["name"] not in auxiliary]
    numbers = {old: new for new, old in enumerate(kept)}
    nodes = [
        {
            "op": node["op"],
            "param": node.get("attrs", {}),
            "name": node["name"],
            "inputs": [[numbers[entry[0]], entry[1]] for entry in node["inputs"] if entry[0] in numbers],
            "backward_source_id": -1,
        }
        for node in (graph["nodes"][position] for position in kept)
    ]
    old = {
        "nodes": nodes,
        "arg_nodes": [number for number, node in enumerate(nodes) if node["op"] == "null"],
        "heads": [[numbers[head[0]], head[1]] for head in graph["heads"]],
    }
    symbol_path.write_text(json.dumps(old, indent=2))

    for path in Path(folder).glob("*.params"):
        arrays = {name: value.asnumpy() for name, value in mx.nd.load(str(path)).items()}
        data = struct.pack("<QQQ", 0x112, 0, len(arrays))
        for array in arrays.values():
            data += struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape) + struct.pack("<iii", 1, 0, 0)
            data += array.astype("<f4").tobytes()
        data += struct.pack("<Q", len(arrays))
        for name in arrays:
            data += struct.pack("<Q", len(name)) + name.encode()
        path.write_bytes(data)
    return Path(folder)


def change_params(path: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Rewrites a file of parameters; ``change`` gets and returns them by name, as NumPy arrays."""
    mx = import_mxnet(Settings())

    changed = change({name: value.asnumpy() for name, value in mx.nd.load(str(path)).items()})
    mx.nd.save(str(path), {name: mx.nd.array(value, dtype=value.dtype) for name, value in changed.items()})


def _labels(count: int) -> list[str]:
    return [DIGITS[number] if number < len(DIGITS) else f"class {number}" for number in range(count)]
