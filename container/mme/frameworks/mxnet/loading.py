"""From the files of an MXNet model to a bound network, phase by phase. Everything wrong with a model is told here.

Each phase raises ``ModelLoadError`` with the file and the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mme.errors import ModelLoadError
from mme.frameworks.base import means_no_memory
from mme.frameworks.mxnet.artifacts import CTC_LOSSES, Artifacts, Graph
from mme.frameworks.mxnet.layout import Ambiguous, Input, Layout, Shapes, is_known, tell
from mme.frameworks.mxnet.model import MXNetModel
from mme.settings import Settings

Inputs = tuple[Input, ...]


@dataclass(frozen=True)
class Network:
    """A network as MXNet has parsed it, and the names in it."""

    symbol: Any
    arguments: list[str]  # inputs, weights and labels
    states: list[str]  # auxiliary states: what an operator has learnt beside its weights, as BatchNorm's mean


@dataclass
class Weights:
    """The parameters that a network uses, by name: NDArrays on the model's device."""

    arguments: dict[str, Any]
    states: dict[str, Any]


@dataclass(frozen=True)
class Inferred:
    """Shapes and types of a network's parts for one pass as declared. Types are empty where MXNet cannot tell them."""

    argument_shapes: list[tuple[int, ...]]
    output_shapes: list[tuple[int, ...]]
    argument_types: tuple[Any, ...]
    state_shapes: tuple[tuple[int, ...], ...]
    state_types: tuple[Any, ...]


def load(
    mx: Any,
    files: Artifacts,
    inputs: Inputs,
    graph: Graph,
    device: Any,
    settings: Settings,
    *,
    numpy_shapes: bool,
) -> MXNetModel:
    """The model of these files, which have been checked without MXNet (``artifacts.py``).

    ``numpy_shapes``: the parameters were saved under MXNet's NumPy semantics. Raises ``ModelLoadError``, and MXNet's
    own errors for a lack of memory.
    """
    network = parse_network(mx, graph, files)
    with mx.util.np_shape(numpy_shapes):
        weights = load_weights(mx, network, files, device)
    check_inputs(network, weights, inputs, files)
    check_no_weight_is_missing(network, weights, inputs, files)
    check_no_label_is_missing(network, inputs, graph, files)
    check_batches_agree(inputs, graph, files)
    inferred = infer(mx, network, weights, inputs, files)
    check_states(network, weights, inferred, files)
    convert_dtypes(network, weights, inferred)
    add_missing_states(mx, network, weights, inferred, device)
    layout = tell_layout(mx, network, weights, inputs, graph, inferred, files)
    return MXNetModel(
        *(mx, network.symbol, layout, weights.arguments, weights.states, graph.head_ops[0], device, settings),
        declared=(inferred.argument_shapes, inferred.output_shapes),
    )


def parse_network(mx: Any, graph: Graph, files: Artifacts) -> Network:
    """The network of *-symbol.json."""
    try:
        symbol = mx.sym.load_json(graph.text)  # also upgrades what older versions saved
    except (mx.base.MXNetError, UnicodeDecodeError) as error:
        raise ModelLoadError(
            f"{files.symbol}: MXNet {mx.__version__} does not take this network: {_reason(error)}. Save it again with "
            "this version, and with operators that it has."
        ) from None
    return Network(symbol, symbol.list_arguments(), symbol.list_auxiliary_states())


def load_weights(mx: Any, network: Network, files: Artifacts, device: Any) -> Weights:
    """What the network uses of *.params."""
    try:
        loaded = mx.nd.load(str(files.params))
    except (mx.base.MXNetError, UnicodeDecodeError) as error:
        if means_no_memory(error):
            raise
        raise ModelLoadError(f"{files.params}: MXNet cannot read it: {_reason(error)}.") from None
    if isinstance(loaded, list):  # without names; so does an empty file come back
        if loaded:
            raise ModelLoadError(f"{files.params}: its parameters have no names. Save them with HybridBlock.export.")
        loaded = {}
    values: dict[str, Any] = {}
    for name, value in loaded.items():
        values[name.split(":", 1)[1] if name.startswith(("arg:", "aux:")) else name] = value.as_in_context(device)
    return Weights(
        {name: values[name] for name in network.arguments if name in values and not is_label(name)},
        {name: values[name] for name in network.states if name in values},
    )


def check_inputs(network: Network, weights: Weights, inputs: Inputs, files: Artifacts) -> None:
    """Each input of *-shapes.json is one of the network."""
    for each in inputs:
        if each.name not in network.arguments or each.name in weights.arguments:
            free = [name for name in network.arguments if name not in weights.arguments and not is_label(name)]
            raise ModelLoadError(
                f"{files.shapes}: {each.name!r} is not an input of {files.symbol.name}; its inputs are "
                f"{', '.join(free) or 'none'}."
            )


def check_no_weight_is_missing(network: Network, weights: Weights, inputs: Inputs, files: Artifacts) -> None:
    """Each argument of the network is a weight, an input or a label."""
    known = {*weights.arguments, *(each.name for each in inputs)}
    missing = [name for name in network.arguments if name not in known and not is_label(name)]
    if missing:
        raise ModelLoadError(
            f"{files.params}: it lacks {_some(missing)}, which {files.symbol.name} needs. If one of these is an "
            f"input, add it to {files.shapes.name}; else save the parameters of this network again."
        )


def check_no_label_is_missing(network: Network, inputs: Inputs, graph: Graph, files: Artifacts) -> None:
    """Labels of a loss that does not pass scores on are inputs; of others MXNet tells the shape."""
    if not graph.operators & CTC_LOSSES:
        return
    declared = {each.name for each in inputs}
    missing = [name for name in network.arguments if is_label(name) and name not in declared]
    if missing:
        raise ModelLoadError(
            f"{files.symbol}: it ends in a CTC loss, which compares with {_some(missing)}. Save the network with its "
            f"scores alone, in front of the loss; or add {_some(missing)} to {files.shapes.name} if requests have it."
        )


def check_batches_agree(inputs: Inputs, graph: Graph, files: Artifacts) -> None:
    """All inputs declare the same batch, unless the graph may tell that another dimension counts samples."""
    if len({each.shape[0] for each in inputs}) == 1:
        return
    if graph.time_major is None or any(each.batch_axis is not None for each in inputs):
        raise _ambiguous(files, _disagreement(inputs))


def _disagreement(inputs: Inputs) -> str:
    sizes = ", ".join(f"{each.shape[0]} by dimension {each.axis} of {each.name}" for each in inputs)
    return f"the inputs disagree on the batch ({sizes})"


def _ambiguous(files: Artifacts, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"{files.shapes}: {why}. Say which dimension of an input counts samples, and declare 1 there: "
        f'add "batch_axis": 1 to the entry of each input that is (time, batch, …) or (layers, batch, …), '
        f'"batch_axis": 0 where it is the first.'
    )


def infer(mx: Any, network: Network, weights: Weights, inputs: Inputs, files: Artifacts) -> Inferred:
    """What MXNet makes of the shapes and types of inputs and weights; every shape must be known then."""
    shapes = {name: value.shape for name, value in weights.arguments.items()}
    shapes |= {each.name: each.pass_shape for each in inputs}
    try:
        # (infer_shape would print all parameters where it fails)
        arguments, outputs, states = network.symbol.infer_shape_partial(**shapes)
        types, _, state_types = network.symbol.infer_type(**{each.name: each.dtype for each in inputs})
    except mx.base.MXNetError as error:
        raise ModelLoadError(
            f"{files.symbol.name}, {files.params.name} and {files.shapes.name} in {files.symbol.parent} do not fit "
            f"together: {_reason(error)}."
        ) from None
    if not all(is_known(shape) for shape in [*arguments, *outputs]):
        raise ModelLoadError(f"{files.shapes}: it leaves shapes in {files.symbol.name} open; does it name all inputs?")
    return Inferred(arguments, outputs, tuple(types or ()), tuple(states), tuple(state_types or ()))


def tell_layout(
    mx: Any, network: Network, weights: Weights, inputs: Inputs, graph: Graph, inferred: Inferred, files: Artifacts
) -> Layout:
    """Which dimensions count the samples: from *-shapes.json, the network's shapes and its operators."""
    shapes = {name: value.shape for name, value in weights.arguments.items()}
    time_major = None
    if graph.time_major is not None:
        part = mx.sym.load_json(graph.time_major)
        time_major = Shapes(mx, part, {name: shapes[name] for name in part.list_arguments() if name in shapes})
    try:
        return tell(Shapes(mx, network.symbol, shapes), inputs, graph.operators, inferred.output_shapes, time_major)
    except Ambiguous as error:
        agree = len({each.shape[0] for each in inputs}) == 1
        raise _ambiguous(files, str(error) if agree else _disagreement(inputs)) from None


def check_states(network: Network, weights: Weights, inferred: Inferred, files: Artifacts) -> None:
    """Auxiliary states have the shapes that the network needs, which MXNet does not check when it infers."""
    for name, shape in zip(network.states, inferred.state_shapes, strict=True):
        if name in weights.states and weights.states[name].shape != shape:
            raise ModelLoadError(
                f"{files.params}: {name} has the shape {weights.states[name].shape}; {files.symbol.name} needs {shape}."
            )


def convert_dtypes(network: Network, weights: Weights, inferred: Inferred) -> None:
    """Gives weights and states the types that the network computes with."""
    for names, values, types in (
        (network.arguments, weights.arguments, inferred.argument_types),
        (network.states, weights.states, inferred.state_types),
    ):
        for name, dtype in zip(names, types, strict=False):
            if name in values and dtype is not None and values[name].dtype != dtype:
                values[name] = values[name].astype(dtype)


def add_missing_states(mx: Any, network: Network, weights: Weights, inferred: Inferred, device: Any) -> None:
    """Fills in what a network starts its training with (BatchNorm: mean 0, variance 1)."""
    for position, (name, shape) in enumerate(zip(network.states, inferred.state_shapes, strict=True)):
        if name not in weights.states:
            dtype = inferred.state_types[position] if inferred.state_types else None
            fill = mx.nd.ones if name.endswith("_var") else mx.nd.zeros
            weights.states[name] = fill(shape, ctx=device, dtype=dtype or np.float32)


def is_label(name: str) -> bool:
    """Is this argument what a loss layer compares with, as ``softmax_label`` is? It plays no part in a prediction."""
    return name == "label" or name.endswith("_label")


def _reason(error: Exception) -> str:
    """The line of MXNet's message that says what is wrong, without its stack trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Traceback")]
    return lines[-1].removeprefix("MXNetError: ")[:300] if lines else type(error).__name__


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
