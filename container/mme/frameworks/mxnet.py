"""MXNet (1.9) models: symbol, parameters, shapes. Weights are held in memory once.

``Module`` copies parameters when it sets them, and the default subgraph back end (oneDNN fusion) keeps a second copy of
every convolution's weights. So the graph is bound to the loaded arrays themselves, without that back end
(``MME_MXNET_FUSE=on`` brings it back), and run by the naive engine, which has no threads: a process that ran a model
may still fork.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import InsufficientMemory, ModelLoadError
from mme.frameworks import mxnet_artifacts as artifacts
from mme.frameworks.base import Adapter, Model, TensorSpec, means_no_memory, memory_errors
from mme.settings import Settings

# operators whose output already is a probability for each class
_PROBABILITIES = {"SoftmaxOutput", "Softmax", "SoftmaxActivation", "softmax", "sigmoid", "LogisticRegressionOutput"}

_SAMPLE_SHAPE = (1, 3, 32, 32)


class MXNetAdapter(Adapter):
    """Finds and loads the models of MXNet."""

    name = "mxnet"
    artifacts = "PREFIX-symbol.json, PREFIX-NNNN.params and PREFIX-shapes.json"

    def recognises(self, model_dir: Path) -> bool:
        return any(model_dir.glob("*-symbol.json"))

    def import_framework(self, settings: Settings) -> Any:
        return import_mxnet(settings)

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> MXNetModel:
        files = artifacts.find(model_dir)
        inputs = artifacts.read_inputs(files.shapes)
        graph = artifacts.read_graph(files.symbol)
        artifacts.check_params(files.params)
        with memory_errors(f"load {files.params.name} ({files.params.stat().st_size >> 20} MiB)"):
            mx = import_mxnet(settings)
            device = mx.cpu() if gpu_id is None else mx.gpu(gpu_id)
            symbol = _parse(mx, graph, files)
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
        return True


def _sample_network(mx: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A tiny network of the operators that most image models have: symbol, arguments, auxiliary states."""
    # channels that are no multiple of 8 take another way through oneDNN
    net = mx.sym.Convolution(mx.sym.Variable("data") / 255, kernel=(5, 5), stride=(2, 2), num_filter=4, name="odd")
    net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=8, name="conv")
    net = mx.sym.Activation(mx.sym.BatchNorm(net, name="norm"), act_type="relu")
    net = mx.sym.concat(net + net, mx.sym.Pooling(net, kernel=(3, 3), pad=(1, 1), pool_type="max"), dim=1)
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg"))
    net = mx.sym.FullyConnected(mx.sym.Dropout(net), num_hidden=8, name="scores")
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
    if not all(_is_known(shape) for shape in [*shapes, *outputs]):
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


def _is_known(shape: tuple[int, ...]) -> bool:
    return len(shape) > 0 and 0 not in shape


def _is_label(name: str) -> bool:
    """Is this argument what a loss layer compares with, as ``softmax_label`` is? It plays no part in a prediction."""
    return name == "label" or name.endswith("_label")


@dataclass
class _Bound:
    """The network bound for one batch size: weights are shared with all others."""

    executor: Any
    inputs: dict[str, Any]  # input -> its NDArray


class MXNetModel(Model):
    """A bound network. Executors are kept per batch size; N samples run in passes of powers of two.

    So any N is served without a new executor (at most log2(``max_samples_per_pass``) + 1 of them exist) and without
    a padded sample. A network whose graph fixes the batch is run in passes of just that size.
    """

    def __init__(
        self,
        mx: Any,
        symbol: Any,
        inputs: tuple[TensorSpec, ...],
        arguments: dict[str, Any],
        auxiliary: dict[str, Any],
        head_op: str,
        device: Any,
        settings: Settings,
    ) -> None:
        self._mx = mx
        self._symbol = symbol
        self._arguments = arguments
        self._auxiliary = auxiliary
        self._head_op = head_op
        self._device = device
        self._most_samples = settings.max_samples_per_pass
        self._bound: dict[int, _Bound] = {}
        self.inputs = inputs
        self.output_names = tuple(name.removesuffix("_output") for name in symbol.list_outputs())
        self.image_codec = MXNetImageCodec(mx)
        self._fixed_batch: int | None = None
        declared = inputs[0].shape[0]
        if not self._takes_batch(1 if declared > 1 else 2, declared):
            self._fixed_batch = declared

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        samples = len(arrays[self.inputs[0].name])
        try:
            with memory_errors(f"run {samples} samples through the network"):
                if self._fixed_batch:
                    return self._predict_fixed(arrays, samples, self._fixed_batch)
                passes = []
                start = 0
                for batch in self._pass_sizes(samples):
                    chunk = arrays if batch == samples else _rows(arrays, start, start + batch)
                    passes.append(self._run(batch, chunk))
                    start += batch
                return _join(passes)
        except InsufficientMemory:
            # All executors own one pool of working memory, and each takes from it the smallest piece that is large
            # enough, be that one that could not be allocated just now. So all go; the next request binds anew.
            self._bound.clear()
            raise

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self._head_op in _PROBABILITIES:
            return scores
        if self._head_op == "log_softmax":
            return np.exp(scores)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def unload(self) -> None:
        self._bound.clear()
        self._arguments.clear()
        self._auxiliary.clear()

    def _pass_sizes(self, samples: int) -> list[int]:
        """Powers of two whose sum is ``samples``, the largest first."""
        largest = 1 << (self._most_samples.bit_length() - 1)
        sizes = [largest] * (samples // largest)
        rest = samples % largest
        return sizes + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]

    def _predict_fixed(self, arrays: Mapping[str, np.ndarray], samples: int, batch: int) -> list[np.ndarray]:
        passes = []
        for start in range(0, samples, batch):
            chunk = _rows(arrays, start, start + batch)
            short = batch - min(batch, samples - start)
            if short:
                chunk = {
                    name: np.concatenate([rows, np.zeros((short, *rows.shape[1:]), rows.dtype)])
                    for name, rows in chunk.items()
                }
            outputs = self._run(batch, chunk)
            passes.append([rows[: len(rows) // batch * (batch - short)] for rows in outputs] if short else outputs)
        return _join(passes)

    def _run(self, batch: int, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        bound = self._bound.get(batch) or self._bind(batch)
        for name, target in bound.inputs.items():
            target._sync_copyfrom(np.ascontiguousarray(arrays[name]))
        outputs = [output.asnumpy() for output in bound.executor.forward(is_train=False)]
        return [rows.astype(np.float32) if rows.dtype == np.float16 else rows for rows in outputs]

    def _bind(self, batch: int) -> _Bound:
        """Binds the network for ``batch`` samples to the weights that are loaded; working memory is shared as well."""
        mx, symbol = self._mx, self._symbol
        dtypes = {each.name: each.dtype for each in self.inputs}
        shapes, _, _ = symbol.infer_shape_partial(**self._known_shapes(batch))
        arguments, inputs = {}, {}
        for name, shape in zip(symbol.list_arguments(), shapes, strict=True):
            if name in self._arguments:
                arguments[name] = self._arguments[name]
            else:  # an input, or a label, which must be there though nothing reads it
                arguments[name] = mx.nd.zeros(shape, ctx=self._device, dtype=dtypes.get(name, np.float32))
                if name in dtypes:
                    inputs[name] = arguments[name]
        largest = self._bound[max(self._bound)].executor if self._bound else None
        executor = symbol.bind(
            self._device, arguments, grad_req="null", aux_states=self._auxiliary, shared_exec=largest
        )
        self._bound[batch] = _Bound(executor, inputs)
        return self._bound[batch]

    def _takes_batch(self, batch: int, declared: int) -> bool:
        """Does the graph work for ``batch`` samples too, with outputs that grow and shrink with it?

        ``infer_shape_partial`` raises as ``infer_shape`` does, but does not print all parameters.
        """
        try:
            _, outputs, _ = self._symbol.infer_shape_partial(**self._known_shapes(batch))
            _, declared_outputs, _ = self._symbol.infer_shape_partial(**self._known_shapes(declared))
        except self._mx.base.MXNetError:
            return False
        return all(
            _is_known(shape) and shape[0] * declared == declared_shape[0] * batch and shape[1:] == declared_shape[1:]
            for shape, declared_shape in zip(outputs, declared_outputs, strict=True)
        )

    def _known_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = {name: value.shape for name, value in self._arguments.items()}
        return shapes | {each.name: (batch, *each.sample_shape) for each in self.inputs}


def _rows(arrays: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: rows[start:stop] for name, rows in arrays.items()}


def _join(passes: list[list[np.ndarray]]) -> list[np.ndarray]:
    if len(passes) == 1:
        return passes[0]
    return [np.concatenate(parts) for parts in zip(*passes, strict=True)]


class MXNetImageCodec:
    """Reads images as ``mx.image.imdecode`` and ``imresize`` do, which is how the public sample feeds its models.

    OpenCV underneath: bilinear without antialiasing, and the EXIF orientation is not applied.
    """

    def __init__(self, mx: Any) -> None:
        self._mx = mx

    def read(self, body: bytes | bytearray, channels: int, height: int, width: int) -> np.ndarray | None:
        if channels not in (1, 3):
            return None
        try:
            image = self._mx.image.imdecode(body, flag=0 if channels == 1 else 1)
        except self._mx.base.MXNetError as error:
            if means_no_memory(error):
                raise
            return None
        return self._mx.image.imresize(image, width, height).asnumpy()

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        return self._mx.image.imresize(self._mx.nd.array(image, dtype=np.uint8), width, height).asnumpy()


def _reason(error: Exception) -> str:
    """The line of MXNet's message that says what is wrong, without its stack trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Traceback")]
    return lines[-1].removeprefix("MXNetError: ")[:300] if lines else type(error).__name__


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


ADAPTER = MXNetAdapter()
