"""Small networks of MXNet, one for each operator family, with weights and inputs that are the same on every run.

``tests/references/mxnet_operators.npz`` holds what they answered on NumPy 1.23, where MXNet 1.9.1 needs no help; the
tests compare what they answer now. Make the file with ``make_references.py`` beside this module.

A network is a symbol and the arrays of its inputs; every other argument is a parameter that ``run`` fills.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

Inputs = dict[str, np.ndarray]
Network = tuple[Any, Inputs]  # an mx.sym.Symbol and its inputs by name
_BUILDERS: dict[str, Callable[[Any], Network]] = {}


def network(build: Callable[[Any], Network]) -> Callable[[Any], Network]:
    _BUILDERS[build.__name__] = build
    return build


def names() -> list[str]:
    return list(_BUILDERS)


def answers(mx: Any, name: str) -> list[np.ndarray]:
    """What the network of this name answers: one array for each output."""
    symbol, inputs = _BUILDERS[name](mx)
    return run(mx, symbol, inputs)


def run(mx: Any, symbol: Any, inputs: Inputs) -> list[np.ndarray]:
    """Saves the network with its parameters, loads both again, binds and runs it, as a model that is served."""
    random = np.random.RandomState(7)
    shapes, _, auxiliary_shapes = symbol.infer_shape(**{name: value.shape for name, value in inputs.items()})
    parameters = {}
    for name, shape in zip(symbol.list_arguments(), shapes, strict=True):
        if name not in inputs and not name.endswith("_label"):
            parameters[f"arg:{name}"] = mx.nd.array(random.normal(0, 0.4, shape), dtype="float32")
    for name, shape in zip(symbol.list_auxiliary_states(), auxiliary_shapes, strict=True):
        parameters[f"aux:{name}"] = mx.nd.array(random.uniform(0.5, 1.5, shape), dtype="float32")
    with TemporaryDirectory() as folder:
        path = Path(folder)
        symbol.save(str(path / "model-symbol.json"))
        mx.nd.save(str(path / "model-0000.params"), parameters)
        loaded = mx.sym.load(str(path / "model-symbol.json"))
        values = mx.nd.load(str(path / "model-0000.params")) if parameters else {}
    arguments = {name: mx.nd.array(value, dtype=value.dtype) for name, value in inputs.items()}
    arguments |= {name[4:]: value for name, value in values.items() if name.startswith("arg:")}
    for name, shape in zip(symbol.list_arguments(), shapes, strict=True):
        arguments.setdefault(name, mx.nd.zeros(shape))
    auxiliary = {name[4:]: value for name, value in values.items() if name.startswith("aux:")}
    executor = loaded.bind(mx.cpu(), arguments, aux_states=auxiliary, grad_req="null")
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def _numbers(*shape: int, low: float = -1, high: float = 1, seed: int = 3) -> np.ndarray:
    return np.random.RandomState(seed).uniform(low, high, shape).astype(np.float32)


def _image() -> Inputs:
    return {"data": _numbers(2, 4, 12, 12)}


@network
def convolution(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    plain = mx.sym.Convolution(data, kernel=(3, 3), num_filter=8, pad=(1, 1), name="plain")
    grouped = mx.sym.Convolution(plain, kernel=(3, 3), stride=(2, 2), num_filter=8, num_group=4, no_bias=True, name="g")
    dilated = mx.sym.Convolution(plain, kernel=(3, 3), dilate=(2, 2), num_filter=5, name="dilated")
    return mx.sym.Group([plain, grouped, dilated]), _image()


@network
def convolution_of_sequences_and_volumes(mx: Any) -> Network:
    line = mx.sym.Convolution(mx.sym.Variable("line"), kernel=(3,), num_filter=4, name="one")
    volume = mx.sym.Convolution(mx.sym.Variable("volume"), kernel=(2, 2, 2), num_filter=3, name="three")
    return mx.sym.Group([line, volume]), {"line": _numbers(2, 3, 9), "volume": _numbers(1, 2, 4, 5, 6)}


@network
def deconvolution(mx: Any) -> Network:
    net = mx.sym.Deconvolution(
        mx.sym.Variable("data"), kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=3, name="d"
    )
    return net, _image()


@network
def pooling(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    kinds: list[dict[str, Any]] = [
        {"kernel": (2, 2), "stride": (2, 2), "pool_type": "max"},
        {"kernel": (3, 3), "pad": (1, 1), "pool_type": "avg"},
        {"kernel": (3, 3), "pad": (1, 1), "pool_type": "avg", "count_include_pad": False},
        {"kernel": (5, 5), "stride": (3, 3), "pool_type": "max", "pooling_convention": "full"},
        {"kernel": (2, 2), "pool_type": "sum"},
        {"kernel": (2, 2), "pool_type": "lp", "p_value": 2},
        {"kernel": (1, 1), "pool_type": "max", "global_pool": True},
    ]
    pooled = [mx.sym.Pooling(data, **kind) for kind in kinds]
    return mx.sym.Group([*pooled, mx.sym.contrib.AdaptiveAvgPooling2D(data, output_size=(3, 5))]), _image()


@network
def normalisation(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    return mx.sym.Group(
        [
            mx.sym.BatchNorm(data, fix_gamma=False, name="batch"),
            mx.sym.BatchNorm(data, fix_gamma=True, eps=1e-5, name="batch_fixed"),
            mx.sym.LayerNorm(data, axis=-1, name="layer"),
            mx.sym.InstanceNorm(data, name="instance"),
            mx.sym.GroupNorm(data, mx.sym.Variable("gg"), mx.sym.Variable("gb"), num_groups=2, name="group"),
            mx.sym.L2Normalization(data, mode="channel"),
            mx.sym.LRN(data, nsize=3),
        ]
    ), {**_image(), "gg": _numbers(2, seed=8), "gb": _numbers(2, seed=9)}


@network
def dense(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    hidden = mx.sym.FullyConnected(data, num_hidden=7, name="hidden")
    last = mx.sym.FullyConnected(mx.sym.Variable("rows"), num_hidden=3, flatten=False, no_bias=True, name="last")
    return mx.sym.Group([hidden, last]), {**_image(), "rows": _numbers(2, 3, 5)}


@network
def activation(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    plain = [mx.sym.Activation(data, act_type=kind) for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")]
    leaky = [
        mx.sym.LeakyReLU(data, act_type=kind, name=f"a_{kind}") for kind in ("leaky", "elu", "selu", "gelu", "prelu")
    ]
    return mx.sym.Group([*plain, *leaky, mx.sym.hard_sigmoid(data), mx.sym.clip(data, -0.3, 0.6)]), _image()


@network
def softmax(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    return mx.sym.Group(
        [
            mx.sym.SoftmaxOutput(data, name="softmax"),
            mx.sym.SoftmaxActivation(data),
            mx.sym.softmax(data, axis=1, temperature=2.0),
            mx.sym.log_softmax(data),
            mx.sym.softmin(data),
            mx.sym.LogisticRegressionOutput(data, name="logistic"),
            mx.sym.LinearRegressionOutput(data, name="linear"),
        ]
    ), {"data": _numbers(3, 6, low=-3, high=3)}


@network
def recurrent(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    outputs = []
    modes = ("rnn_relu", "rnn_tanh", "lstm", "gru")
    for mode in modes:
        states: dict[str, Any] = {"state": mx.sym.Variable(f"{mode}_state")}
        if mode == "lstm":
            states["state_cell"] = mx.sym.Variable("lstm_cell")
        outputs.append(
            mx.sym.RNN(
                data, mx.sym.Variable(f"{mode}_weights"), **states, mode=mode, state_size=6, num_layers=2,
                bidirectional=True, state_outputs=True, name=mode,
            )
        )  # fmt: skip
    starts = {f"{mode}_state": _numbers(4, 2, 6, seed=5) for mode in modes}
    return mx.sym.Group(outputs), {"data": _numbers(5, 2, 3), **starts, "lstm_cell": _numbers(4, 2, 6, seed=6)}


@network
def recurrent_cells(mx: Any) -> Network:
    cells = mx.rnn.SequentialRNNCell()
    cells.add(mx.rnn.LSTMCell(num_hidden=5, prefix="lstm_"))
    cells.add(mx.rnn.GRUCell(num_hidden=4, prefix="gru_"))
    starts = cells.begin_state(func=mx.sym.Variable)
    net, _ = cells.unroll(3, inputs=mx.sym.Variable("data"), begin_state=starts, merge_outputs=True, layout="NTC")
    shapes = {"lstm_begin_state_0": 5, "lstm_begin_state_1": 5, "gru_begin_state_0": 4}
    given = set(net.list_arguments())
    states = {state.name: _numbers(2, shapes.get(state.name, 4), seed=4) for state in starts if state.name in given}
    return net, {"data": _numbers(2, 3, 6), **states}


@network
def embedding(mx: Any) -> Network:
    words = mx.sym.Variable("words")
    table = mx.sym.Embedding(words, input_dim=9, output_dim=4, name="table")
    return mx.sym.Group([table, mx.sym.one_hot(words, depth=9)]), {"words": np.array([[1, 8, 0], [3, 3, 5]], np.int32)}


@network
def elementwise(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    unary = "abs ceil cos cosh erf exp expm1 floor log1p negative rint round sign sin sinh sqrt square tan tanh trunc"
    outputs = [getattr(mx.sym, name)(mx.sym.abs(data) if name in ("log1p", "sqrt") else data) for name in unary.split()]
    binary = "broadcast_add broadcast_sub broadcast_mul broadcast_maximum broadcast_minimum broadcast_hypot "
    binary += "broadcast_greater broadcast_lesser_equal broadcast_equal broadcast_logical_and"
    outputs += [getattr(mx.sym, name)(data, mx.sym.Variable("row")) for name in binary.split()]
    outputs += [data + 2, 3 - data, data * 0.5, 1 / (data + 5), (data + 5) ** 1.5, mx.sym.smooth_l1(data, scalar=1.0)]
    return mx.sym.Group(outputs), {"data": _numbers(3, 4), "row": _numbers(1, 4, seed=5)}


@network
def reduction(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    outputs = [getattr(mx.sym, name)(data, axis=1) for name in ("sum", "mean", "max", "min", "prod", "nansum")]
    outputs += [mx.sym.norm(data, axis=2, keepdims=True), mx.sym.argmax(data, axis=1), mx.sym.argmin(data, axis=2)]
    outputs += [mx.sym.sum(data), mx.sym.mean(data, axis=(0, 2), exclude=True), mx.sym.moments(data, axes=(1,))]
    return mx.sym.Group(outputs), {"data": _numbers(3, 4, 5)}


@network
def ordering(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    best = mx.sym.topk(data, k=2, axis=1, ret_typ="both")
    outputs = [mx.sym.sort(data, axis=1, is_ascend=False), mx.sym.argsort(data, axis=1)]
    return mx.sym.Group([*outputs, best[0], best[1], mx.sym.cumsum(data, axis=1)]), {"data": _numbers(3, 6)}


@network
def shape_changes(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    parts = mx.sym.split(data, num_outputs=2, axis=1)
    outputs = [
        mx.sym.transpose(data, axes=(0, 2, 3, 1)),
        mx.sym.reshape(data, shape=(0, -1, 3)),
        mx.sym.flatten(data),
        mx.sym.expand_dims(mx.sym.squeeze(mx.sym.slice_axis(data, axis=1, begin=0, end=1), axis=1), axis=3),
        mx.sym.swapaxes(data, 1, 3),
        mx.sym.concat(parts[1], parts[0], dim=1),
        mx.sym.stack(parts[0], parts[1], axis=2),
        mx.sym.slice(data, begin=(0, 1, 2, 0), end=(2, 3, 12, 9), step=(1, 1, 3, 2)),
        mx.sym.reverse(data, axis=3),
        mx.sym.tile(data, reps=(1, 2, 1, 1)),
        mx.sym.repeat(data, repeats=2, axis=3),
        mx.sym.pad(data, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 2, 1)),
        mx.sym.pad(data, mode="constant", pad_width=(0, 0, 0, 0, 1, 0, 0, 1), constant_value=4),
        mx.sym.depth_to_space(data, 2),
        mx.sym.space_to_depth(data, 3),
        mx.sym.shape_array(data),
        mx.sym.zeros_like(data) + mx.sym.ones_like(data),
    ]
    return mx.sym.Group(outputs), {"data": _numbers(2, 4, 6, 6)}


@network
def parameters_of_numpy(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    three, half = np.int64(3), np.float64(0.5)
    net = mx.sym.Convolution(data, kernel=(three, np.int32(3)), pad=(np.prod((1, 1)), 1), num_filter=three, name="conv")
    net = mx.sym.LeakyReLU(net, slope=np.float32(0.25))
    return mx.sym.Group([net * half, mx.sym.reshape(net, shape=(0, np.prod((3, 12, 12))))]), _image()


@network
def indexing(mx: Any) -> Network:
    data, where = mx.sym.Variable("data"), mx.sym.Variable("where")
    outputs = [
        mx.sym.take(data, where),
        mx.sym.pick(mx.sym.slice_axis(data, axis=0, begin=0, end=3), where, axis=1),
        mx.sym.batch_take(mx.sym.slice_axis(data, axis=0, begin=0, end=3), mx.sym.cast(where, "int32")),
        mx.sym.gather_nd(data, mx.sym.stack(where, where)),
        mx.sym.where(data > 0, data, data * 10),
        mx.sym.contrib.index_copy(data, mx.sym.Variable("rows"), mx.sym.slice_axis(data, axis=0, begin=0, end=2)),
    ]
    return mx.sym.Group(outputs), {
        "data": _numbers(4, 5),
        "where": np.array([0, 2, 3], np.float32),
        "rows": np.array([3, 1], np.float32),
    }


@network
def sequences(mx: Any) -> Network:
    data, length = mx.sym.Variable("data"), mx.sym.Variable("length")
    outputs = [
        mx.sym.SequenceMask(data, length, use_sequence_length=True, value=-1),
        mx.sym.SequenceLast(data, length, use_sequence_length=True),
        mx.sym.SequenceReverse(data, length, use_sequence_length=True),
    ]
    return mx.sym.Group(outputs), {"data": _numbers(5, 3, 2), "length": np.array([1, 5, 3], np.float32)}


@network
def matrices(mx: Any) -> Network:
    left, right = mx.sym.Variable("left"), mx.sym.Variable("right")
    square = mx.sym.broadcast_add(
        mx.sym.linalg.gemm2(left, left, transpose_b=True), mx.sym.expand_dims(mx.sym.eye(4), 0)
    )
    outputs = [
        mx.sym.batch_dot(left, right),
        mx.sym.dot(mx.sym.slice_axis(left, axis=0, begin=0, end=1), mx.sym.Variable("matrix")),
        mx.sym.linalg.gemm2(left, right, alpha=0.5),
        mx.sym.linalg.potrf(square),
        mx.sym.linalg.syrk(left),
        mx.sym.khatri_rao(mx.sym.Variable("matrix"), mx.sym.Variable("matrix")),
    ]
    return mx.sym.Group(outputs), {"left": _numbers(2, 4, 3), "right": _numbers(2, 3, 5), "matrix": _numbers(3, 2)}


@network
def attention(mx: Any) -> Network:
    data = mx.sym.Variable("data")  # (length, batch, 3 * heads * features)
    scores = mx.sym.contrib.interleaved_matmul_selfatt_qk(data, heads=2)
    mixed = mx.sym.contrib.interleaved_matmul_selfatt_valatt(data, mx.sym.softmax(scores), heads=2)
    positions = mx.sym.contrib.arange_like(data, axis=0)
    return mx.sym.Group([mx.sym.contrib.div_sqrt_dim(scores), mixed, positions]), {"data": _numbers(6, 2, 24)}


@network
def detection(mx: Any) -> Network:
    data, classes, places = (mx.sym.Variable(name) for name in ("data", "classes", "places"))
    anchors = mx.sym.contrib.MultiBoxPrior(data, sizes=(0.3, 0.5), ratios=(1, 2), clip=True)
    found = mx.sym.contrib.MultiBoxDetection(mx.sym.softmax(classes, axis=1), places, anchors, nms_threshold=0.4)
    boxes = mx.sym.Variable("boxes")
    outputs = [
        found,
        mx.sym.contrib.box_nms(boxes, overlap_thresh=0.3, coord_start=2, score_index=1, id_index=0),
        mx.sym.contrib.box_iou(mx.sym.slice_axis(boxes, axis=1, begin=2, end=6), mx.sym.Variable("truth")),
        mx.sym.ROIPooling(data, mx.sym.Variable("rois"), pooled_size=(2, 2), spatial_scale=0.5),
        mx.sym.contrib.ROIAlign(data, mx.sym.Variable("rois"), pooled_size=(2, 2), spatial_scale=0.5, sample_ratio=2),
    ]
    corners = np.sort(_numbers(8, 2, 2, low=0, high=1, seed=11), axis=1).reshape(8, 4)
    rows = np.concatenate([np.array([[n % 2, 0.9 - n / 10] for n in range(8)], np.float32), corners], axis=1)
    inputs = {
        "data": _numbers(1, 3, 4, 4),
        "classes": _numbers(1, 3, 48, low=-3, high=3),
        "places": _numbers(1, 192, low=-0.5, high=0.5),
        "boxes": rows,
        "truth": np.array([[0.1, 0.1, 0.6, 0.7]], np.float32),
        "rois": np.array([[0, 0, 0, 6, 6], [0, 2, 1, 5, 7]], np.float32),
    }
    return mx.sym.Group(outputs), inputs


@network
def resizing(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    turn = mx.sym.Variable("turn")
    grid = mx.sym.GridGenerator(turn, transform_type="affine", target_shape=(6, 6))
    outputs = [
        mx.sym.UpSampling(data, scale=2, sample_type="nearest"),
        mx.sym.contrib.BilinearResize2D(data, height=9, width=17),
        mx.sym.BilinearSampler(data, grid),
        mx.sym.SpatialTransformer(
            data, turn, target_shape=(5, 5), transform_type="affine", sampler_type="bilinear", name="spatial"
        ),
        mx.sym.Crop(data, h_w=(5, 6), offset=(1, 2), num_args=1),
    ]
    return mx.sym.Group(outputs), {**_image(), "turn": np.array([[0.9, 0.1, 0, -0.1, 0.8, 0.2]] * 2, np.float32)}


@network
def types(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    half = mx.sym.cast(data, dtype="float16")
    whole = mx.sym.cast(data * 50, dtype="int8")
    outputs = [half + half, whole, mx.sym.cast(whole, "float64") / 3, mx.sym.cast(data * 50, "int32") * 2]
    return mx.sym.Group(outputs), {"data": _numbers(3, 4)}


@network
def quantised(mx: Any) -> Network:
    data = mx.sym.Variable("data")
    whole, low, high = mx.sym.contrib.quantize_v2(data, min_calib_range=-1.0, max_calib_range=1.0, out_type="int8")
    return mx.sym.Group([whole, mx.sym.contrib.dequantize(whole, low, high)]), {"data": _numbers(3, 4)}


@network
def control_flow(mx: Any) -> Network:
    def step(data: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        added = data + states[0] * 0.5
        return mx.sym.tanh(added), [added]

    outputs, states = mx.sym.contrib.foreach(step, mx.sym.Variable("data"), [mx.sym.Variable("start")])
    return mx.sym.Group([outputs, *states]), {"data": _numbers(4, 2, 3), "start": _numbers(2, 3, seed=4)}


def _traced(mx: Any, block: Any, inputs: Inputs) -> Network:
    """The symbol of a Gluon block, as ``HybridBlock.export`` writes it."""
    block.initialize(mx.init.Zero())
    block(*(mx.nd.array(value, dtype=value.dtype) for value in inputs.values()))
    outputs = block(*(mx.sym.Variable(name) for name in inputs))
    return (outputs if isinstance(outputs, mx.sym.Symbol) else mx.sym.Group(outputs)), inputs


@network
def gluon_convolutional(mx: Any) -> Network:
    nn = mx.gluon.nn
    block = nn.HybridSequential(prefix="net_")
    with block.name_scope():
        block.add(nn.Conv2D(6, 3, padding=1), nn.BatchNorm(), nn.PReLU(), nn.MaxPool2D(), nn.Conv2DTranspose(3, 2))
        block.add(nn.InstanceNorm(), nn.Swish(), nn.GlobalAvgPool2D(), nn.Flatten(), nn.Dropout(0.5), nn.Dense(4))
    return _traced(mx, block, _image())


@network
def gluon_recurrent(mx: Any) -> Network:
    block = mx.gluon.nn.HybridSequential(prefix="net_")
    with block.name_scope():
        block.add(mx.gluon.nn.Embedding(12, 5), mx.gluon.nn.LayerNorm(), mx.gluon.nn.Dense(6, flatten=False))
        block.add(mx.gluon.rnn.LSTM(4, num_layers=1, layout="NTC", bidirectional=True, input_size=6))
    return _traced(mx, block, {"words": np.array([[1, 2, 11], [4, 0, 3]], np.float32)})


@network
def gluon_zoo(mx: Any) -> Network:
    block = mx.gluon.model_zoo.vision.MobileNetV2(multiplier=0.25, classes=5, prefix="mobile_")
    return _traced(mx, block, {"data": _numbers(1, 3, 32, 32)})


@network
def numpy_operators(mx: Any) -> Network:
    """A block that is written with MXNet's own NumPy interface."""

    class Block(mx.gluon.HybridBlock):
        def __init__(self) -> None:
            super().__init__(prefix="numpy_")
            self.dense = mx.gluon.nn.Dense(4, in_units=6)

        def hybrid_forward(self, F: Any, data: Any) -> Any:
            hidden = F.npx.relu(self.dense(data))
            mixed = F.np.concatenate([hidden, F.np.exp(hidden), F.np.sum(data, axis=1, keepdims=True)], axis=1)
            return F.np.einsum("ij,kj->ik", mixed, mixed) + F.np.mean(data)

    with mx.util.np_shape(True), mx.util.np_array(True):
        block = Block()
        block.initialize(mx.init.Zero())
        block(mx.np.array(_numbers(3, 6)))
        symbol = block(mx.sym.var("data").as_np_ndarray())
    return mx.sym.load_json(symbol.tojson()), {"data": _numbers(3, 6)}
