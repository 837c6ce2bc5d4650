"""Generates in a template what the first pass of a network generates, for all workers that load one of the same shapes.

oneDNN writes machine code for each convolution, pooling and product of matrices of new shapes: 15 ms and 4 MB of each
worker of a SqueezeNet. It keeps that by shape, and a forked worker inherits it. So the template runs the network once,
with weights of nothing but zeros, which it then drops.

Only of operators that take as long for whatever numbers, and only where that takes little memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import InsufficientMemory
from mme.frameworks.mxnet import artifacts
from mme.frameworks.mxnet.layout import Shapes, is_known, tell
from mme.frameworks.mxnet.loading import parse_network
from mme.frameworks.mxnet.model import MXNetModel
from mme.settings import Settings

MOST_WEIGHTS_BYTES = 64 << 20
# All values between operators, which MXNet holds a part of at a time.
MOST_VALUES_BYTES = 256 << 20
_MOST_SYMBOL_BYTES = 4 << 20
_FLOAT_BYTES = 4
_OPERATORS = {"Activation", "BatchNorm", "Concat", "Convolution", "Dropout", "Flatten", "FullyConnected"}
_OPERATORS |= {"LRN", "LeakyReLU", "Pooling", "Reshape", "SoftmaxActivation", "SoftmaxOutput"}
_OPERATORS |= {"_copy", "_div_scalar", "_minus_scalar", "_mul_scalar", "_plus_scalar", "broadcast_add", "broadcast_mul"}
_OPERATORS |= {"clip", "elemwise_add", "elemwise_mul", "expand_dims", "flatten", "identity", "mean", "null", "relu"}
_OPERATORS |= {"sigmoid", "slice_axis", "softmax", "squeeze", "transpose"}


def key_of(model_dir: Path) -> Hashable | None:
    """The same for networks of the same operators and inputs; None where there is none that could be run here."""
    files = artifacts.find(model_dir)
    if not all(path.is_file() for path in (files.symbol, files.shapes)):
        return None
    if files.symbol.stat().st_size > _MOST_SYMBOL_BYTES:
        return None
    return hashlib.blake2b(files.symbol.read_bytes() + files.shapes.read_bytes(), digest_size=16).digest()


def generate(mx: Any, model_dir: Path, settings: Settings, room_bytes: int) -> bool:
    """Runs the network in ``model_dir``, which a worker has loaded already; False where it is not to be run here.

    Takes 50 ms of processor time for SqueezeNet. Raises ``InsufficientMemory`` where that may take more than
    ``room_bytes``, ``ModelLoadError`` and MXNet's errors.
    """
    files = artifacts.find(model_dir)
    inputs = artifacts.read_inputs(files.shapes)
    graph = artifacts.read_graph(files.symbol)
    if not graph.operators <= _OPERATORS or any(each.dtype != np.float32 or each.axis for each in inputs):
        return False
    network = parse_network(mx, graph, files)
    known = {each.name: each.pass_shape for each in inputs}
    arguments, outputs, states = network.symbol.infer_shape_partial(**known)
    _, values, _ = network.symbol.get_internals().infer_shape_partial(**known)
    if not all(is_known(shape) for shape in [*arguments, *outputs, *values]):
        return False
    weights_bytes, values_bytes = _bytes_of(arguments), _bytes_of(values)
    if weights_bytes > MOST_WEIGHTS_BYTES or values_bytes > MOST_VALUES_BYTES:
        return False
    if weights_bytes + values_bytes > room_bytes:
        raise InsufficientMemory(f"no room to run {files.symbol.name} once for all workers")
    weights = {name: mx.nd.zeros(shape) for name, shape in zip(network.arguments, arguments, strict=True)}
    for name in known:
        del weights[name]
    auxiliary = {name: mx.nd.zeros(shape) for name, shape in zip(network.states, states, strict=True)}
    shapes = Shapes(mx, network.symbol, {name: value.shape for name, value in weights.items()})
    layout = tell(shapes, inputs, graph.operators, outputs)
    model = MXNetModel(mx, network.symbol, layout, weights, auxiliary, graph.head_ops[0], mx.cpu(), settings)
    model.predict(model.sample())
    model.unload()
    return True


def _bytes_of(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes) * _FLOAT_BYTES
