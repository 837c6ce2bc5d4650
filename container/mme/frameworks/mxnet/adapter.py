"""MXNet (1.9) models: symbol, parameters, shapes. Weights are held in memory once.

``Module`` copies parameters when it sets them, and the default subgraph back end (oneDNN fusion) keeps a second copy of
every convolution's weights. So the graph is bound to the loaded arrays themselves, without that back end
(``MME_MXNET_FUSE=on`` brings it back), and run by the naive engine, which has no threads: a process that ran a model
may still fork.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import ModelLoadError
from mme.frameworks.base import Adapter, TensorSpec, means_no_memory, memory_errors
from mme.frameworks.mxnet import WELL_KNOWN_FILES, artifacts, numpy_names
from mme.frameworks.mxnet.model import MXNetModel, is_known
from mme.settings import Settings

_SAMPLE_SHAPE = (1, 3, 32, 32)
_SAMPLE_CLASSES = 8


class MXNetAdapter(Adapter):
    """Finds and loads the models of MXNet."""

    name = "mxnet"
    artifacts = "PREFIX-symbol.json, PREFIX-NNNN.params and PREFIX-shapes.json"

    def recognises(self, model_dir: Path) -> bool:
        return any(any(model_dir.glob(pattern)) for pattern in WELL_KNOWN_FILES)

    def import_framework(self, settings: Settings) -> Any:
        return import_mxnet(settings)

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> MXNetModel:
        files = artifacts.find(model_dir)
        inputs = artifacts.read_inputs(files.shapes)
        graph = artifacts.read_graph(files.symbol)
        numpy_shapes = artifacts.check_params(files.params)
        with memory_errors(f"load {files.params.name} ({files.params.stat().st_size >> 20} MiB)"):
            mx = import_mxnet(settings)
            device = mx.cpu() if gpu_id is None else mx.gpu(gpu_id)
            symbol = _parse(mx, graph, files)
            with mx.util.np_shape(numpy_shapes):
                arguments, auxiliary = _parameters(mx, symbol, files, device)
            _complete(mx, symbol, inputs, arguments, auxiliary, files, device)
            return MXNetModel(mx, symbol, inputs, arguments, auxiliary, graph.head_ops[0], device, settings)

    def warm_template(self, settings: Settings) -> None:
        """Runs what happens once per process, so that forked workers share the pages that it fills."""
        mx = import_mxnet(settings)
        net, arguments, auxiliary = _sample_network(mx)
        inputs = (TensorSpec("data", _SAMPLE_SHAPE),)
        model = MXNetModel(mx, net, inputs, arguments, auxiliary, "SoftmaxOutput", mx.cpu(), settings)
        for samples in (1, 2):
            model.predict({"data": np.zeros((samples, *_SAMPLE_SHAPE[1:]), np.float32)})

    def write_sample(self, folder: Path) -> bool:
        import mxnet as mx

        net, arguments, auxiliary = _sample_network(mx)
        net.save(str(folder / "sample-symbol.json"))
        saved = {f"arg:{name}": value for name, value in arguments.items()}
        saved |= {f"aux:{name}": value for name, value in auxiliary.items()}
        mx.nd.save(str(folder / "sample-0000.params"), saved)
        (folder / "sample-shapes.json").write_text(json.dumps([{"name": "data", "shape": _SAMPLE_SHAPE}]))
        (folder / "synset.txt").write_text("".join(f"class {number}\n" for number in range(_SAMPLE_CLASSES)))
        return True


def _sample_network(mx: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A tiny network of the operators that most image models have: symbol, arguments, auxiliary states."""
    # channels that are no multiple of 8 take another way through oneDNN
    net = mx.sym.Convolution(mx.sym.Variable("data") / 255, kernel=(5, 5), stride=(2, 2), num_filter=4, name="odd")
    net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=8, name="conv")
    net = mx.sym.Activation(mx.sym.BatchNorm(net, name="norm"), act_type="relu")
    net = mx.sym.concat(net + net, mx.sym.Pooling(net, kernel=(3, 3), pad=(1, 1), pool_type="max"), dim=1)
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg"))
    net = mx.sym.FullyConnected(mx.sym.Dropout(net), num_hidden=_SAMPLE_CLASSES, name="scores")
    net = mx.sym.load_json(mx.sym.SoftmaxOutput(net, name="softmax").tojson())
    shapes, _, auxiliary_shapes = net.infer_shape(data=_SAMPLE_SHAPE)
    arguments = {
        name: mx.nd.ones(shape)
        for name, shape in zip(net.list_arguments(), shapes, strict=True)
        if name != "data" and not _is_label(name)
    }
    return net, arguments, dict(zip(net.list_auxiliary_states(), map(mx.nd.ones, auxiliary_shapes), strict=True))


def import_mxnet(settings: Settings) -> Any:
    """Imports MXNet as we use it; what the environment already says about MXNet stays as it is.

    MXNet is configured by environment variables alone, which it reads when it is imported or first used.
    """
    os.environ.setdefault("MXNET_ENGINE_TYPE", "NaiveEngine")
    # one worker, one thread, as MMS sets it (mms/model_service_worker.py): workers are what uses the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MXNET_USE_OPERATOR_TUNING", "0")
    if not settings.mxnet_fuse:
        os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")
    numpy_names.restore()
    import mxnet

    return mxnet


def _parse(mx: Any, graph: artifacts.Graph, files: artifacts.Artifacts) -> Any:
    try:
        return mx.sym.load_json(graph.text)  # also upgrades what older versions saved
    except (mx.base.MXNetError, UnicodeDecodeError) as error:
        raise ModelLoadError(
            f"{files.symbol}: MXNet {mx.__version__} does not take this network: {_reason(error)}. Save it again with "
            "this version, and with operators that it has."
        ) from None


def _parameters(mx: Any, symbol: Any, files: artifacts.Artifacts, device: Any) -> tuple[dict, dict]:
    """The loaded parameters that the network uses, by name: arguments and auxiliary states."""
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
    return (
        {name: values[name] for name in symbol.list_arguments() if name in values and not _is_label(name)},
        {name: values[name] for name in symbol.list_auxiliary_states() if name in values},
    )


def _complete(
    mx: Any,
    symbol: Any,
    inputs: tuple[TensorSpec, ...],
    arguments: dict[str, Any],
    auxiliary: dict[str, Any],
    files: artifacts.Artifacts,
    device: Any,
) -> None:
    """Checks the parameters against the network, converts their types, and fills in auxiliary states that are missing.

    Raises ``ModelLoadError``.
    """
    names = symbol.list_arguments()
    for each in inputs:
        if each.name not in names or each.name in arguments:
            free = [name for name in names if name not in arguments and not _is_label(name)]
            raise ModelLoadError(
                f"{files.shapes}: {each.name!r} is not an input of {files.symbol.name}; its inputs are "
                f"{', '.join(free) or 'none'}."
            )
    given = {each.name for each in inputs}
    missing = [name for name in names if name not in arguments and name not in given and not _is_label(name)]
    if missing:
        raise ModelLoadError(
            f"{files.params}: it lacks {_some(missing)}, which {files.symbol.name} needs. If one of these is an "
            f"input, add it to {files.shapes.name}; else save the parameters of this network again."
        )
    batches = {each.shape[0] for each in inputs}
    if len(batches) > 1:
        raise ModelLoadError(
            f"{files.shapes}: the inputs disagree on the batch, the first dimension ({', '.join(map(str, inputs))})."
        )
    known = {name: value.shape for name, value in arguments.items()}
    try:
        shapes, outputs, auxiliary_shapes = symbol.infer_shape_partial(
            **known, **{each.name: each.shape for each in inputs}
        )
        types, _, auxiliary_types = symbol.infer_type(**{each.name: each.dtype for each in inputs})
    except mx.base.MXNetError as error:
        raise ModelLoadError(
            f"{files.symbol.name}, {files.params.name} and {files.shapes.name} in {files.symbol.parent} do not fit "
            f"together: {_reason(error)}."
        ) from None
    if not all(is_known(shape) for shape in [*shapes, *outputs]):
        raise ModelLoadError(f"{files.shapes}: it leaves shapes in {files.symbol.name} open; does it name all inputs?")
    for name, dtype in zip(names, types or (), strict=False):
        if name in arguments and dtype is not None and arguments[name].dtype != dtype:
            arguments[name] = arguments[name].astype(dtype)
    states = zip(symbol.list_auxiliary_states(), auxiliary_shapes, auxiliary_types or (), strict=False)
    for name, shape, dtype in states:
        if name not in auxiliary:
            # what a network starts its training with (BatchNorm: mean 0, variance 1)
            fill = mx.nd.ones if name.endswith("_var") else mx.nd.zeros
            auxiliary[name] = fill(shape, ctx=device, dtype=dtype or np.float32)
        elif auxiliary[name].shape != shape:
            raise ModelLoadError(
                f"{files.params}: {name} has the shape {auxiliary[name].shape}; {files.symbol.name} needs {shape}."
            )
        elif dtype is not None and auxiliary[name].dtype != dtype:
            auxiliary[name] = auxiliary[name].astype(dtype)


def _is_label(name: str) -> bool:
    """Is this argument what a loss layer compares with, as ``softmax_label`` is? It plays no part in a prediction."""
    return name == "label" or name.endswith("_label")


def _reason(error: Exception) -> str:
    """The line of MXNet's message that says what is wrong, without its stack trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Traceback")]
    return lines[-1].removeprefix("MXNetError: ")[:300] if lines else type(error).__name__


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


ADAPTER = MXNetAdapter()
