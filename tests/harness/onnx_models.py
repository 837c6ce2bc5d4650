"""Tiny ONNX models for tests: each function fills ``folder`` with the artifacts of one, and returns the folder.

Weights are random but the same on every run. ``run`` is the library called directly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
ML_DOMAIN = "ai.onnx.ml"
Sizes = Sequence[int | str | None] | None
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
LABELS = ("red fox", "badger", "hare")


def run(folder: Path, feed: Mapping[str, Any]) -> list[Any]:
    """The model's outputs from ONNX Runtime, as it is by default."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    (file,) = folder.glob("*.onnx")
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, dict(feed))


def write(
    folder: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, Sizes]],
    outputs: Mapping[str, tuple[int, Sizes]] | Sequence[Any],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = OPSET,
    ir_version: int = 8,
    name: str = "model.onnx",
    **saved: Any,
) -> Path:
    """Writes a graph; inputs and outputs are (type of element, shape) by name."""
    folder.mkdir(parents=True, exist_ok=True)
    values = (
        [helper.make_tensor_value_info(each, *about) for each, about in outputs.items()]
        if isinstance(outputs, Mapping)
        else list(outputs)
    )
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(each, *about) for each, about in inputs.items()],
        values,
        [numpy_helper.from_array(array, each) for each, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(ML_DOMAIN, 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    onnx.save(model, str(folder / name), **saved)
    return folder


def onnx_linear(folder: Path, *, labels: bool = False, head: str = "", batch: Any = "N", **saved: Any) -> Path:
    """``data`` (batch, 4) to ``scores`` (batch, 3): a product with random weights, and the operator ``head``."""
    weights = np.random.RandomState(0).normal(0, 1, (4, 3)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["data", "weights"], ["product" if head else "scores"])]
    if head:
        nodes.append(helper.make_node(head, ["product"], ["scores"]))
    if labels:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "synset.txt").write_text("\n".join(LABELS))
    return write(
        folder,
        nodes,
        {"data": (FLOAT, [batch, 4])},
        {"scores": (FLOAT, [batch, 3])},
        {"weights": weights},
        **saved,
    )


def onnx_double(folder: Path, *, element: int = FLOAT, shape: Sizes = ("N", 2), outputs: Sizes = None) -> Path:
    """``x`` plus itself (for what is no number: as it is)."""
    plain = element in (TensorProto.STRING, TensorProto.BOOL)
    node = helper.make_node("Identity", ["x"], ["y"]) if plain else helper.make_node("Add", ["x", "x"], ["y"])
    return write(folder, [node], {"x": (element, shape)}, {"y": (element, shape if outputs is None else outputs)})


def onnx_tokens(folder: Path) -> Path:
    """``ids`` and ``mask`` (N, L) to the mean of the rows of a table of 10 that they name: ``mean`` (N, 2)."""
    table = np.random.RandomState(1).normal(0, 1, (10, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["weighted"]),
        helper.make_node("ReduceMean", ["weighted"], ["mean"], axes=[1], keepdims=0),
    ]
    return write(
        folder,
        nodes,
        {"ids": (INT64, ["N", "L"]), "mask": (INT64, ["N", "L"])},
        {"mean": (FLOAT, ["N", 2])},
        {"table": table, "last": np.array([-1], np.int64)},
    )


def onnx_zipmap(folder: Path) -> Path:
    """A classifier as skl2onnx exports it: ``X`` (N, 4) to ``label`` (N), and maps of labels to probabilities."""
    weights = np.random.RandomState(2).normal(0, 1, (3, 4)).astype(np.float32)
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["X"],
            ["label", "scores"],
            domain=ML_DOMAIN,
            classlabels_strings=list(LABELS),
            coefficients=weights.ravel().tolist(),
            intercepts=[0.0] * 3,
            multi_class=1,
            post_transform="SOFTMAX",
        ),
        helper.make_node("ZipMap", ["scores"], ["probability"], domain=ML_DOMAIN, classlabels_strings=list(LABELS)),
    ]
    probability = helper.make_value_info(
        "probability",
        helper.make_sequence_type_proto(helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))),
    )
    label = helper.make_tensor_value_info("label", STRING, ["N"])
    return write(folder, nodes, {"X": (FLOAT, [None, 4])}, [label, probability])


def onnx_sequence(folder: Path) -> Path:
    """``x`` (N, 4) to the sequence ``rows`` of its rows, (1, 4) each."""
    row = helper.make_tensor_type_proto(FLOAT, [None, 4])
    rows = helper.make_value_info("rows", helper.make_sequence_type_proto(row))
    node = helper.make_node("SplitToSequence", ["x", "one"], ["rows"], axis=0)
    return write(folder, [node], {"x": (FLOAT, ["N", 4])}, [rows], {"one": np.array(1, np.int64)})


def onnx_means(folder: Path, *, element: int = FLOAT, shape: Sizes = ("N", 3, "H", "W"), axes: Any = (2, 3)) -> Path:
    """An image to the mean of each of its channels: ``image`` to ``means`` (N, 3)."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["means"], axes=list(axes), keepdims=0),
    ]
    return write(folder, nodes, {"image": (element, shape)}, {"means": (FLOAT, ["N", 3])})


def onnx_two_heads(folder: Path) -> Path:
    """``left`` (N, 2) and ``right`` (N, 3): ``sum`` (N, 1) of all, and ``twice`` (N, 3) the right one."""
    nodes = [
        helper.make_node("Concat", ["left", "right"], ["both"], axis=1),
        helper.make_node("ReduceSum", ["both", "one"], ["sum"], keepdims=1),
        helper.make_node("Add", ["right", "right"], ["twice"]),
    ]
    return write(
        folder,
        nodes,
        {"left": (FLOAT, ["N", 2]), "right": (FLOAT, ["N", 3])},
        {"sum": (FLOAT, ["N", 1]), "twice": (FLOAT, ["N", 3])},
        {"one": np.array([1], np.int64)},
    )


def onnx_hungry(folder: Path, *, megabytes_per_sample: int) -> Path:
    """``x`` (N, 1) to its square root, ``y`` (N, 1), by as many copies as take so much memory."""
    copies = megabytes_per_sample * 262144
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["many"]),
        helper.make_node("Sqrt", ["many"], ["roots"]),
        helper.make_node("ReduceMax", ["roots"], ["y"], axes=[1], keepdims=1),
    ]
    return write(
        folder,
        nodes,
        {"x": (FLOAT, ["N", 1])},
        {"y": (FLOAT, ["N", 1])},
        {"shape": np.array([1, copies], np.int64)},
    )


def change(folder: Path, how: Any) -> Path:
    """Rewrites the model after ``how`` has changed its message."""
    (file,) = folder.glob("*.onnx")
    model = onnx.load(str(file), load_external_data=False)
    how(model)
    file.write_bytes(model.SerializeToString())
    return folder
