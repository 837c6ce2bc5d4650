"""A tiny network for small RGB images: what a template runs once, so that its workers need not (``Adapter``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mme.frameworks.mxnet import PARAMS_SUFFIX, SHAPES_SUFFIX, SYMBOL_SUFFIX
from mme.frameworks.mxnet.loading import is_label

SHAPE = (1, 3, 32, 32)
_CLASSES = 8


def network(mx: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A network of the operators that most image models have: symbol, arguments, auxiliary states."""
    # channels that are no multiple of 8 take another way through oneDNN
    net = mx.sym.Convolution(mx.sym.Variable("data") / 255, kernel=(5, 5), stride=(2, 2), num_filter=4, name="odd")
    net = mx.sym.Convolution(net, kernel=(3, 3), pad=(1, 1), num_filter=8, name="conv")
    net = mx.sym.Activation(mx.sym.BatchNorm(net, name="norm"), act_type="relu")
    net = mx.sym.concat(net + net, mx.sym.Pooling(net, kernel=(3, 3), pad=(1, 1), pool_type="max"), dim=1)
    net = mx.sym.flatten(mx.sym.Pooling(net, global_pool=True, kernel=(1, 1), pool_type="avg"))
    net = mx.sym.FullyConnected(mx.sym.Dropout(net), num_hidden=_CLASSES, name="scores")
    net = mx.sym.load_json(mx.sym.SoftmaxOutput(net, name="softmax").tojson())
    shapes, _, state_shapes = net.infer_shape(data=SHAPE)
    arguments = {
        name: mx.nd.ones(shape)
        for name, shape in zip(net.list_arguments(), shapes, strict=True)
        if name != "data" and not is_label(name)
    }
    return net, arguments, dict(zip(net.list_auxiliary_states(), map(mx.nd.ones, state_shapes), strict=True))


def write(mx: Any, folder: Path) -> None:
    """Writes the network as a model with labels."""
    net, arguments, states = network(mx)
    net.save(str(folder / f"sample{SYMBOL_SUFFIX}"))
    saved = {f"arg:{name}": value for name, value in arguments.items()}
    saved |= {f"aux:{name}": value for name, value in states.items()}
    mx.nd.save(str(folder / f"sample-0000{PARAMS_SUFFIX}"), saved)
    (folder / f"sample{SHAPES_SUFFIX}").write_text(json.dumps([{"name": "data", "shape": SHAPE}]))
    (folder / "synset.txt").write_text("".join(f"class {number}\n" for number in range(_CLASSES)))
