"""Networks of MXNet whose first axis is not the batch, and outputs that a graph has beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model_handler
from mme.errors import ModelLoadError
from mme.frameworks import registry
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.frameworks.mxnet.model import PASSES_BEFORE_FUSING, MXNetModel
from mme.settings import Settings
from tests.harness import models
from tests.harness import requests as golden

STEPS, FEATURES, UNITS = 5, 3, 4


def load(folder: Path) -> MXNetModel:
    model = registry.data_adapter_for(folder, Settings()).load(folder, Settings())
    assert isinstance(model, MXNetModel)
    return model


def declare(folder: Path, *entries: dict[str, Any]) -> None:
    (folder / "model-shapes.json").write_text(json.dumps(entries))


def reason(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder)
    return str(caught.value)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def run_directly(folder: Path, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What MXNet itself makes of whole inputs, as the network has them."""
    mx = import_mxnet(Settings())
    symbol, arguments, states = mx.model.load_checkpoint(str(folder / "model"), 0)
    given = {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
    executor = symbol.bind(mx.cpu(), {**arguments, **given}, aux_states=states, grad_req="null")
    return [output.asnumpy() for output in executor.forward()]


def recurrent(data: Any, *, states: bool = False) -> Any:
    mx = import_mxnet(Settings())
    parameters = {"mode": "gru", "state_size": UNITS, "num_layers": 1, "state_outputs": states}
    return mx.sym.RNN(data, mx.sym.Variable("rnn_weights"), mx.sym.Variable("state"), **parameters, name="rnn")


def reverse_in_time(data: Any) -> Any:
    """(time, batch, features) in both directions, without an operator of a known layout."""
    mx = import_mxnet(Settings())
    return mx.sym.concat(data, mx.sym.cumsum(mx.sym.reverse(data, axis=0), axis=0), dim=2)


def recurrent_model(folder: Path, steps: int = STEPS) -> Path:
    """data (steps, 1, 3) and state (1, 1, 4), the batch second; gives all hidden states, and the last."""
    mx = import_mxnet(Settings())
    net = recurrent(mx.sym.Variable("data"), states=True)
    return models.write_model(folder, net, {"data": (steps, 1, FEATURES), "state": (1, 1, UNITS)})


def test_states_are_inputs_that_are_served_with_their_batch_axis(tmp_path: Path) -> None:
    folder = recurrent_model(tmp_path)
    data_entry, state_entry = {"name": "data", "shape": [5, 1, 3]}, {"name": "state", "shape": [1, 1, 4]}
    declare(folder, {**data_entry, "batch_axis": 1}, {**state_entry, "batch_axis": 1})
    model = load(folder)
    assert [str(each) for each in model.inputs] == ["data (N, 5, 3) float32", "state (N, 1, 4) float32"]
    data, state = numbers(3, STEPS, FEATURES), numbers(3, 1, UNITS, seed=1)
    outputs, states = model.predict({"data": data, "state": state})
    expected = run_directly(folder, {"data": data.swapaxes(0, 1), "state": state.swapaxes(0, 1)})
    np.testing.assert_allclose(outputs, expected[0].swapaxes(0, 1), rtol=1e-5)
    np.testing.assert_allclose(states, expected[1].swapaxes(0, 1), rtol=1e-5)
    for sample in range(3):
        alone = model.predict({"data": data[sample : sample + 1], "state": state[sample : sample + 1]})
        np.testing.assert_allclose(alone[0][0], outputs[sample], rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_recurrent_operator_tells_that_the_time_is_first(tmp_path: Path, steps: int) -> None:
    folder = recurrent_model(tmp_path, steps)
    model = load(folder)
    assert [str(each) for each in model.inputs] == [f"data (N, {steps}, 3) float32", "state (N, 1, 4) float32"]
    arrays = {"data": numbers(3, steps, FEATURES), "state": numbers(3, 1, UNITS, seed=1)}
    expected = run_directly(folder, {name: array.swapaxes(0, 1) for name, array in arrays.items()})
    for found, wanted in zip(model.predict(arrays), expected, strict=True):
        np.testing.assert_allclose(found, wanted.swapaxes(0, 1), rtol=1e-5)


def test_a_recurrent_operator_that_does_not_tell_is_refused_with_the_remedy(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    net = recurrent(mx.sym.reshape(mx.sym.Variable("data"), shape=(5, 1, 3)))
    net = net(state=mx.sym.zeros((1, 1, UNITS)))
    folder = models.write_model(tmp_path, net, {"data": (5, 1, 3)})
    words = reason(folder)
    assert "RNN" in words and 'add "batch_axis": 1' in words
    declare(folder, {"name": "data", "shape": [5, 1, 3], "batch_axis": 1})
    rows = numbers(2, STEPS, FEATURES)
    (found,) = load(folder).predict({"data": rows})
    expected = [run_directly(folder, {"data": row[:, np.newaxis]})[0] for row in rows]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5)


def test_inputs_that_disagree_on_the_batch_are_refused_with_the_remedy(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    net = recurrent(mx.sym.swapaxes(mx.sym.Variable("data"), 0, 1))
    folder = models.write_model(tmp_path, net, {"data": (1, 5, 3), "state": (1, 1, 4)})
    declare(folder, {"name": "data", "shape": [2, 5, 3]}, {"name": "state", "shape": [1, 2, 4]})
    words = reason(folder)
    assert "disagree on the batch (2 by dimension 0 of data, 1 by dimension 0 of state)" in words
    assert '"batch_axis": 1' in words and "model-shapes.json" in words
    declare(
        folder, {"name": "data", "shape": [1, 5, 3]}, {"name": "state", "shape": [1, 1, 4], "batch_axis": 1}
    )  # one input of each kind
    data, state = numbers(2, STEPS, FEATURES), numbers(2, 1, UNITS, seed=1)
    (found,) = load(folder).predict({"data": data, "state": state})  # which is time first: the graph does not swap back
    (expected,) = run_directly(folder, {"data": data, "state": state.swapaxes(0, 1)})
    np.testing.assert_allclose(found, expected.swapaxes(0, 1), rtol=1e-5)


def anonymous_time_major(folder: Path) -> Path:
    mx = import_mxnet(Settings())
    return models.write_model(folder, reverse_in_time(mx.sym.Variable("data")), {"data": (STEPS, 1, FEATURES)})


def test_a_graph_that_leaves_open_which_axis_is_the_time_is_refused_with_the_remedy(tmp_path: Path) -> None:
    words = reason(anonymous_time_major(tmp_path))
    assert "model-shapes.json" in words and '"batch_axis": 1' in words and '"batch_axis": 0' in words


def test_requests_of_one_batch_get_their_own_answers_where_the_time_is_first(tmp_path: Path) -> None:
    folder = anonymous_time_major(tmp_path)
    declare(folder, {"name": "data", "shape": [5, 1, 3], "batch_axis": 1})
    context = golden.context_for(folder, batch_size=4)
    model_handler.handle(None, context)
    data = numbers(7, STEPS, FEATURES)
    (expected,) = run_directly(folder, {"data": data.swapaxes(0, 1)})
    parts = (data[:1], data[1:4], data[4:6], data[6:])
    requests = [({"Content-Type": "application/json"}, json.dumps(part.tolist()).encode()) for part in parts]
    for batch in (requests, requests[:1], requests[1:2]):
        answers = golden.call(model_handler.handle, context, *batch)
        found = [json.loads(body)["predictions"] for _, _, body in answers]
        start = 1 if batch == requests[1:2] else 0
        for rows in found:
            wanted = expected[:, start : start + len(rows)].swapaxes(0, 1)
            np.testing.assert_allclose(rows, wanted, rtol=1e-5)
            start += len(rows)


def test_batch_axis_zero_means_what_it_says(tmp_path: Path) -> None:
    folder = anonymous_time_major(tmp_path)
    declare(folder, {"name": "data", "shape": [5, 1, 3], "batch_axis": 0})
    assert str(load(folder).inputs[0]) == "data (N, 1, 3) float32"


@pytest.mark.parametrize("layout", ["NTC", "TNC"])
def test_recurrent_networks_of_either_layout_are_told_apart(tmp_path: Path, layout: str) -> None:
    mx = import_mxnet(Settings())
    data = mx.sym.Variable("data")
    net = recurrent(mx.sym.swapaxes(data, 0, 1) if layout == "NTC" else data)
    net = mx.sym.swapaxes(net, 0, 1) if layout == "NTC" else net
    zeros = mx.sym.zeros_like(mx.sym.slice_axis(recurrent_start(mx, data, layout), axis=2, begin=0, end=UNITS))
    net = net(state=zeros)
    shape = (1, STEPS, FEATURES) if layout == "NTC" else (STEPS, 1, FEATURES)
    folder = models.write_model(tmp_path, net, {"data": shape})
    model = load(folder)
    assert str(model.inputs[0]) == "data (N, 5, 3) float32"
    rows = numbers(3, STEPS, FEATURES)
    (expected,) = run_directly(folder, {"data": rows if layout == "NTC" else rows.swapaxes(0, 1)})
    for _ in range(PASSES_BEFORE_FUSING + 2):
        (found,) = model.predict({"data": rows})
        np.testing.assert_allclose(found, expected if layout == "NTC" else expected.swapaxes(0, 1), rtol=1e-5)
    assert model._fixed_batch is None


def recurrent_start(mx: Any, data: Any, layout: str) -> Any:
    """(1, batch, 6): as wide as a state needs to be, from the first step of the data."""
    first = mx.sym.slice_axis(data, axis=1 if layout == "NTC" else 0, begin=0, end=1)
    first = mx.sym.swapaxes(first, 0, 1) if layout == "NTC" else first
    return mx.sym.concat(first, first, dim=2)


def test_a_ctc_loss_tells_that_the_time_is_first_and_needs_its_labels(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    data = mx.sym.Variable("data")
    net = mx.sym.Group([mx.sym.softmax(data), mx.sym.CTCLoss(data, mx.sym.Variable("label"))])
    folder = models.write_model(tmp_path, net, {"data": (5, 1, 6), "label": (1, 2)})
    entry = {"name": "data", "shape": [5, 1, 6]}
    declare(folder, entry)
    words = reason(folder)
    assert "CTC loss, which compares with label" in words and "scores alone" in words
    declare(folder, {**entry, "batch_axis": 1}, {"name": "label", "shape": [1, 2]})
    arrays = {"data": numbers(3, 5, 6), "label": np.array([[1, 2], [3, 0], [5, 5]], np.float32)}
    scores, losses = load(folder).predict(arrays)
    expected = run_directly(folder, {**arrays, "data": arrays["data"].swapaxes(0, 1)})
    np.testing.assert_allclose(scores, expected[0].swapaxes(0, 1), rtol=1e-5)
    np.testing.assert_allclose(losses, expected[1], rtol=1e-5)


@pytest.mark.parametrize("swaps", [False, True])
def test_rows_of_several_samples_that_lie_between_each_other_are_run_one_by_one(tmp_path: Path, swaps: bool) -> None:
    """(time * batch, scores), as a language model ends: the rows of a sample are not next to each other."""
    mx = import_mxnet(Settings())
    data = mx.sym.Variable("data")
    net = mx.sym.reshape(mx.sym.swapaxes(data, 0, 1) if swaps else data, shape=(-1, FEATURES))
    folder = models.write_model(tmp_path, mx.sym.FullyConnected(net, num_hidden=2, name="out"), {"data": (1, 5, 3)})
    rows = numbers(3, STEPS, FEATURES)
    model = load(folder)
    (found,) = model.predict({"data": rows})
    expected = np.concatenate([run_directly(folder, {"data": row[np.newaxis]})[0] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert model._fixed_batch == (1 if swaps else None)


def test_an_output_that_has_the_batch_elsewhere_is_turned(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    data = mx.sym.Variable("data")
    net = mx.sym.Group([mx.sym.transpose(data * 2, axes=(1, 2, 0)), data * 3])
    model = load(models.write_model(tmp_path, net, {"data": (1, 2, 3)}))
    rows = numbers(3, 2, 3)
    for count in (1, 3):
        twice, thrice = model.predict({"data": rows[:count]})
        np.testing.assert_allclose(twice, rows[:count] * 2, rtol=1e-6)
        np.testing.assert_allclose(thrice, rows[:count] * 3, rtol=1e-6)
        assert twice.flags.c_contiguous


def test_an_output_of_the_whole_batch_is_each_samples_own(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    model = load(models.write_model(tmp_path, mx.sym.sum(mx.sym.Variable("data")), {"data": (1, 3)}))
    rows = numbers(3, 3)
    np.testing.assert_allclose(model.predict({"data": rows})[0], rows.sum(axis=1), rtol=1e-5)


def test_a_fixed_batch_whose_outputs_do_not_tell_the_samples_is_refused(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    net = mx.sym.sum(mx.sym.reshape(mx.sym.Variable("data"), shape=(4, 2)), axis=0)
    words = reason(models.write_model(tmp_path, net, {"data": (4, 2)}))
    assert "takes 4 samples at a time" in words and "batch_axis" in words


@pytest.mark.parametrize("value", [3, -1, 1.0, True, "1", None])
def test_a_batch_axis_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    folder = anonymous_time_major(tmp_path)
    declare(folder, {"name": "data", "shape": [5, 1, 3], "batch_axis": value})
    words = reason(folder)
    assert "the batch_axis of input 'data'" in words and "none of 0 to 2" in words


def test_outputs_of_one_name_all_come_back(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    data = mx.sym.Variable("data")
    net = mx.sym.Group([mx.sym.identity(data * factor, name="out") for factor in (2, 3, 4)])
    folder = models.write_model(tmp_path, net, {"data": (1, 2)})
    assert load(folder).output_names == ("out", "out_2", "out_3")
    context = golden.context_for(folder)
    model_handler.handle(None, context)
    ((_, _, body),) = golden.call(model_handler.handle, context, ({"Content-Type": "application/json"}, b"[1, 1]"))
    assert json.loads(body)["predictions"] == {"out": [[2.0, 2.0]], "out_2": [[3.0, 3.0]], "out_3": [[4.0, 4.0]]}


def test_no_output_takes_the_name_of_another(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    data = mx.sym.Variable("data")
    net = mx.sym.Group([mx.sym.identity(data, name=name) for name in ("out", "out", "out_2")])
    assert load(models.write_model(tmp_path, net, {"data": (1, 2)})).output_names == ("out", "out_3", "out_2")


def detector(*, training: bool, detects: bool = True) -> Any:
    """An SSD as MXNet's example has it: for training, or as its deploy.py makes of that."""
    mx = import_mxnet(Settings())
    data = mx.sym.Variable("data")
    maps = mx.sym.Convolution(data, kernel=(3, 3), pad=(1, 1), num_filter=6, name="maps")
    anchors = mx.sym.contrib.MultiBoxPrior(maps, sizes=(0.3,), ratios=(1,), clip=True)
    classes = mx.sym.Convolution(maps, kernel=(1, 1), num_filter=3, name="classes")
    classes = mx.sym.reshape(classes, shape=(0, 3, -1))
    places = mx.sym.flatten(mx.sym.Convolution(maps, kernel=(1, 1), num_filter=4, name="places"))
    if training:
        target = mx.sym.contrib.MultiBoxTarget(anchors, mx.sym.Variable("label"), classes, name="target")
        scores = mx.sym.SoftmaxOutput(classes, target[2], multi_output=True, use_ignore=True, name="cls_prob")
        loss = mx.sym.MakeLoss(mx.sym.smooth_l1(target[1] * (places - target[0]), scalar=1.0), name="loc_loss")
    else:
        scores = mx.sym.SoftmaxActivation(classes, mode="channel", name="cls_prob")
    found = mx.sym.contrib.MultiBoxDetection(scores, places, anchors, name="detection", nms_threshold=0.4)
    if not training:
        return found
    heads = [scores, loss, mx.sym.MakeLoss(target[2], grad_scale=0, name="cls_label")]
    return mx.sym.Group([*heads, mx.sym.MakeLoss(found, grad_scale=0, name="det_out")] if detects else heads)


def detector_model(folder: Path, **arguments: Any) -> Path:
    shapes = {"data": (1, 3, 4, 4), **({"label": (1, 2, 5)} if arguments["training"] else {})}
    models.write_model(folder, detector(**arguments), shapes)
    models.write_shapes(folder, {"data": (1, 3, 4, 4)})
    return folder


def test_a_training_network_of_a_detector_answers_what_the_deployed_one_does(tmp_path: Path) -> None:
    folder = detector_model(tmp_path / "training", training=True)
    deployed = detector_model(tmp_path / "deployed", training=False)
    model = load(folder)
    assert model.output_names == ("det_out",)
    data = numbers(3, 3, 4, 4)
    (found,), (expected,) = model.predict({"data": data}), load(deployed).predict({"data": data})
    assert found.shape == (3, 16, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(run_directly(deployed, {"data": data})[0], expected, rtol=1e-5)


def test_a_training_network_that_does_not_detect_is_refused_with_the_remedy(tmp_path: Path) -> None:
    words = reason(detector_model(tmp_path, training=True, detects=False))
    assert "model-symbol.json" in words and "MultiBoxTarget" in words and "deploy.py" in words


def test_parameters_of_bfloat16_are_said_to_be_such(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    folder = models.multiplier(tmp_path)
    path = str(folder / "model-0000.params")
    (bfloat16,) = [kind for kind in mx.nd.ndarray._DTYPE_MX_TO_NP.values() if getattr(kind, "names", None)]
    mx.nd.save(path, {name: mx.nd.amp_cast(value, dtype=bfloat16) for name, value in mx.nd.load(path).items()})
    words = reason(folder)
    assert "bfloat16" in words and "Cast them to float32 or float16" in words
    assert "truncated" not in words
