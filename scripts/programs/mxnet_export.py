"""A model of MXNet as a message of ONNX, made by MXNet's own exporter, which was written for onnx of 2021.

It looks up ``onnx.mapping``, which has been dropped: it is put back. It takes attributes that are not set for false
also where MXNet's default is true: they are set. It lists the weights among the graph's inputs, as the first versions
of ONNX asked for: they are taken out, so that clients need not send them. It hands weights over as lists of Python's
numbers: as bytes they take a hundredth of the time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mme.frameworks.base import TensorSpec
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.frameworks.mxnet.artifacts import Artifacts
from mme.settings import Settings
from scripts.programs.console import Failure

OPSET = 13  # the newest that the exporter writes
IR_VERSION = 8
BATCH = "N"
_LABEL = "_label"
# operator → attributes that are true unless they are set
_TRUE_BY_DEFAULT = {"FullyConnected": ("flatten",), "Deconvolution": ("no_bias",)}


def export(files: Artifacts, inputs: tuple[TensorSpec, ...]) -> Any:
    """The ``onnx.ModelProto`` of the model, with a free batch. Raises ``Failure`` that names operators."""
    import onnx

    _put_mapping_back(onnx)
    mx = import_mxnet(Settings.from_environment())
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    symbol = mx.sym.load_json(_with_defaults(files.symbol.read_text()))
    loaded = mx.nd.load(str(files.params))
    given = loaded.items() if isinstance(loaded, dict) else ()  # a list where there are none
    weights = {name.partition(":")[2] or name: value for name, value in given}
    named = {each.name for each in inputs}
    wanted = set(symbol.list_inputs()) - named
    weights = {name: value for name, value in weights.items() if name in wanted}
    unfilled = sorted(name for name in wanted - weights.keys() if not name.endswith(_LABEL))
    if unfilled:
        raise Failure(f"{files.params.name} has no {', '.join(unfilled[:5])}, which {files.symbol.name} needs.")
    weights |= _labels(mx, symbol, inputs, weights)
    MXNetGraph.registry_.setdefault(OPSET, {})["null"] = _value
    check_operators(symbol, MXNetGraph.registry_)
    order = [name for name in symbol.list_inputs() if name in named]
    by_name = {each.name: each for each in inputs}
    try:
        graph = MXNetGraph().create_onnx_graph_proto(
            symbol,
            weights,
            [by_name[name].shape for name in order],
            [onnx.helper.np_dtype_to_tensor_dtype(by_name[name].dtype) for name in order],
            opset_version=OPSET,
            dynamic=False,
        )
    except Exception as error:
        raise Failure(f"{files.symbol.name} cannot be exported: {_first_line(error)}") from error
    _keep_inputs(graph, named)
    _drop_unused_weights(graph)
    _order_outputs(graph, [name.removesuffix("_output") for name in symbol.list_outputs()])
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="mxnet"
    )


def _with_defaults(graph: str) -> str:
    """The network's JSON with what the exporter does not know of its operators."""
    described = json.loads(graph)
    for node in described["nodes"]:
        for name in _TRUE_BY_DEFAULT.get(node["op"], ()):
            attributes = node.get("attrs") or node.get("attr") or node.get("param") or {}
            if name not in attributes:
                node["attrs"] = {**attributes, name: "True"}
                node.pop("attr", None)
                node.pop("param", None)
    return json.dumps(described)


def free_batch(model: Any) -> None:
    """Lets the first axis of inputs and outputs have any length."""
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        if sizes:
            sizes[0].dim_param = BATCH


def save(model: Any, path: Path) -> None:
    """Writes the file; what is too large for one message of Protocol Buffers has its weights beside it."""
    import onnx

    if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=f"{path.stem}.weights")


def check_operators(symbol: Any, registry: dict[int, dict[str, Any]]) -> None:
    """Raises ``Failure`` with all operators of the network that the exporter has no conversion for."""
    known = {name for version, names in registry.items() if version <= OPSET for name in names}
    nodes: dict[str, list[str]] = {}
    for node in json.loads(symbol.tojson())["nodes"]:
        if node["op"] not in known:
            nodes.setdefault(node["op"], []).append(node["name"])
    if nodes:
        shown = "; ".join(f"{operator} ({', '.join(names[:3])})" for operator, names in sorted(nodes.items()))
        raise Failure(
            f"these operators cannot be converted to ONNX: {shown}. Replace them in the network by others, or keep "
            "the model as one of MXNet."
        )


def _value(node: dict[str, Any], **given: Any) -> tuple[list[Any], tuple[np.dtype]]:
    """An input of the graph or one of its weights: what the exporter asks a converter for."""
    import onnx

    name = node["name"]
    if given["is_input"]:
        element = given["in_type"]
        value = onnx.helper.make_tensor_value_info(name, element, given["in_shape"])
        return [value], (onnx.helper.tensor_dtype_to_np_dtype(element),)
    array = np.ascontiguousarray(given["weights"][name])
    given["initializer"].append(onnx.numpy_helper.from_array(array, name))
    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return [onnx.helper.make_tensor_value_info(name, element, array.shape)], (array.dtype,)


def _put_mapping_back(onnx: Any) -> None:
    if hasattr(onnx, "mapping"):
        return
    types = (
        "FLOAT",
        "DOUBLE",
        "FLOAT16",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "BOOL",
    )
    elements = {
        element: onnx.helper.tensor_dtype_to_np_dtype(element)
        for element in (getattr(onnx.TensorProto, name) for name in types)
    }
    mapping = ModuleType("onnx.mapping")
    mapping.TENSOR_TYPE_TO_NP_TYPE = elements  # type: ignore[attr-defined]
    numbers = {dtype: element for element, dtype in elements.items()}
    mapping.NP_TYPE_TO_TENSOR_TYPE = numbers  # type: ignore[attr-defined]
    onnx.mapping = mapping
    sys.modules["onnx.mapping"] = mapping


def _keep_inputs(graph: Any, named: set[str]) -> None:
    kept = [value for value in graph.input if value.name in named]
    del graph.input[:]
    graph.input.extend(kept)


def _labels(mx: Any, symbol: Any, inputs: tuple[TensorSpec, ...], weights: dict[str, Any]) -> dict[str, Any]:
    """What training compares with, as weights that nothing reads: as inputs, the exporter counts them wrongly."""
    missing = set(symbol.list_arguments()) - weights.keys() - {each.name for each in inputs}
    known = {each.name: each.shape for each in inputs} | {name: value.shape for name, value in weights.items()}
    shapes, _, _ = symbol.infer_shape(**known)
    by_name = dict(zip(symbol.list_arguments(), shapes, strict=True))
    return {name: mx.nd.zeros(by_name[name]) for name in missing}


def _drop_unused_weights(graph: Any) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _order_outputs(graph: Any, names: list[str]) -> None:
    """In the order of the network, which the exporter loses."""
    place = {name: position for position, name in enumerate(names)}
    outputs = sorted(graph.output, key=lambda value: place.get(value.name, len(names)))
    del graph.output[:]
    graph.output.extend(outputs)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
