"""The MXNet adapter: what it loads, what it answers, and that it holds weights once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model_handler
from mme.frameworks import registry
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.frameworks.mxnet.model import PASSES_BEFORE_FUSING, MXNetModel, _Bound, pass_size
from mme.settings import Settings
from tests.harness import models
from tests.harness import requests as golden
from tests.harness.programs import run_python, run_with_mxnet

SETTINGS = Settings()


def load(folder: Path, settings: Settings = SETTINGS) -> MXNetModel:
    model = registry.data_adapter_for(folder, settings).load(folder, settings)
    assert isinstance(model, MXNetModel)
    return model


def rows(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).rand(count, *shape).astype(np.float32)


def test_the_highest_epoch_is_loaded(tmp_path: Path) -> None:
    models.multiplier(tmp_path, factor=2)
    for epoch, factor in ((3, 5.0), (12, 7.0), (10, 9.0)):
        other = models.multiplier(tmp_path / f"of_epoch_{epoch}", factor=factor)
        (other / "model-0000.params").rename(tmp_path / f"model-{epoch:04d}.params")
    (answer,) = load(tmp_path).predict({"data": np.ones((1, 4), np.float32)})
    assert answer.tolist() == [[7.0] * 4]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples each real pass through a network has had, with those that only fill it up."""
    sizes: list[int] = []
    run = _Bound.run

    def counted(bound: _Bound, arrays: dict[str, np.ndarray]) -> Any:
        sizes.append(bound.executor.arg_dict["data"].shape[0])
        return run(bound, arrays)

    monkeypatch.setattr(_Bound, "run", counted)
    return sizes


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (1, [1]),
        (2, [2]),
        (3, [3]),
        (5, [6]),
        (7, [8]),
        (17, [24]),
        (31, [32]),
        (32, [32]),
        (33, [32, 1]),
        (70, [32, 32, 6]),
    ],
)
def test_samples_run_in_one_pass_up_to_the_setting(
    tmp_path: Path, passes: list[int], samples: int, expected: list[int]
) -> None:
    model = load(models.tiny_classifier(tmp_path))
    data = rows(samples, 1, 28, 28) * 255
    (together,) = model.predict({"data": data})
    assert passes == expected
    alone = np.concatenate([model.predict({"data": data[n : n + 1]})[0] for n in range(samples)])
    assert together.shape == alone.shape == (samples, 10)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_batch_of_mms_is_one_pass_of_the_network(tmp_path: Path, passes: list[int]) -> None:
    context = golden.context_for(models.multiplier(tmp_path), batch_size=4)
    model_handler.handle(None, context)
    passes.clear()
    requests = [({"Content-Type": "application/json"}, b"[[1, 2, 3, 4]]")] * 3
    answers = golden.call(model_handler.handle, context, *requests)
    assert [json.loads(body) for _, _, body in answers] == [{"predictions": [[2.0, 4.0, 6.0, 8.0]]}] * 3
    assert passes == [3]


@pytest.mark.parametrize("most", [1, 2, 7, 16, 20])
def test_a_pass_is_no_larger_than_the_setting_and_at_most_half_filled_up(most: int) -> None:
    for samples in range(1, most + 1):
        size = pass_size(samples, most)
        assert samples <= size <= min(most, samples * 3 // 2)


def test_an_executor_is_bound_once_for_each_size_of_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(models.tiny_mlp(tmp_path), Settings(max_samples_per_pass=20))
    for samples in (*range(1, 70), *range(1, 70)):
        model.predict({"data": rows(samples, 4)})
    assert sorted(model._bound) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    monkeypatch.setattr(model, "_bind", None)  # would fail
    for samples in range(1, 70):
        model.predict({"data": rows(samples, 4)})


def test_executors_of_all_batch_sizes_share_the_loaded_weights(tmp_path: Path) -> None:
    model = load(models.tiny_mlp(tmp_path))
    model.predict({"data": rows(7, 4)})
    handles = {
        name: {bound.executor.arg_dict[name].handle.value for bound in model._bound.values()}
        for name in ("hidden_weight", "scores_bias")
    }
    assert handles == {name: {model._arguments[name].handle.value} for name in handles}


def test_answers_are_the_callers_own(tmp_path: Path) -> None:
    model = load(models.multiplier(tmp_path))
    (first,) = model.predict({"data": np.full((1, 4), 1, np.float32)})
    model.predict({"data": np.full((1, 4), 9, np.float32)})
    assert first.tolist() == [[2.0] * 4]


def test_a_graph_of_a_fixed_batch_is_run_in_passes_of_that_size(tmp_path: Path) -> None:
    model = load(models.fixed_batch_model(tmp_path))
    data = rows(5, 4)
    np.testing.assert_allclose(model.predict({"data": data})[0], data * 3, rtol=1e-6)
    assert sorted(model._bound) == [1]


def test_a_declared_batch_greater_than_one_does_not_bind_the_caller(tmp_path: Path) -> None:
    models.multiplier(tmp_path)
    models.write_shapes(tmp_path, {"data": (8, 4)})
    assert load(tmp_path).predict({"data": np.ones((3, 4), np.float32)})[0].tolist() == [[2.0] * 4] * 3


def test_a_graph_of_a_fixed_batch_greater_than_one_is_filled_up(tmp_path: Path) -> None:
    mx = import_mxnet(SETTINGS)
    models.write_model(tmp_path, mx.sym.reshape(mx.sym.Variable("data") * 3, shape=(4, 2)), {"data": (4, 2)})
    model = load(tmp_path)
    for samples in (1, 4, 6):
        data = rows(samples, 2)
        np.testing.assert_allclose(model.predict({"data": data})[0], data * 3, rtol=1e-6)
    assert sorted(model._bound) == [4]


def test_inputs_of_whole_numbers_are_whole_numbers(tmp_path: Path) -> None:
    model = load(models.embedding_model(tmp_path))
    assert model.inputs[0].dtype == np.int32
    (answer,) = model.predict({"data": np.array([[1, 4]], np.int32)})
    assert answer.tolist() == [[[1.0, 10.0], [4.0, 40.0]]]


def test_several_inputs_and_outputs_keep_their_order(tmp_path: Path) -> None:
    two_inputs = load(models.two_input_model(tmp_path / "inputs"))
    (answer,) = two_inputs.predict({"right": np.ones((2, 2), np.float32), "left": np.zeros((2, 3), np.float32)})
    assert answer.tolist() == [[2.0], [2.0]]
    twice, thrice = load(models.two_output_model(tmp_path / "outputs")).predict({"data": np.ones((2, 3), np.float32)})
    assert (twice == 2).all() and (thrice == 3).all()


def test_logits_become_probabilities_and_a_softmax_is_left_alone(tmp_path: Path) -> None:
    ends_in_logits = load(models.tiny_mlp(tmp_path / "logits", logits=True))
    ends_in_softmax = load(models.tiny_mlp(tmp_path / "softmax"))
    data = {"data": rows(3, 4)}
    logits, softmax = ends_in_logits.predict(data)[0], ends_in_softmax.predict(data)[0]
    assert np.min(np.abs(np.sum(logits, axis=1) - 1)) > 1e-3
    np.testing.assert_allclose(ends_in_logits.probabilities(logits), softmax, atol=1e-6)
    assert ends_in_softmax.probabilities(softmax) is softmax


@pytest.mark.parametrize("head", ["softmax", "softmin", "SoftmaxActivation", "log_softmax", "behind_a_reshape"])
def test_every_head_that_holds_probabilities_is_recognised(tmp_path: Path, head: str) -> None:
    mx = import_mxnet(SETTINGS)
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="scores")
    if head == "behind_a_reshape":
        net = mx.sym.reshape(mx.sym.BlockGrad(mx.sym.softmax(net)), shape=(-1, 3))
    else:
        net = getattr(mx.sym, head)(net)
    model = load(models.write_model(tmp_path, net, {"data": (1, 4)}))
    (scores,) = model.predict({"data": rows(1, 4)})
    expected = np.exp(scores) if head == "log_softmax" else scores
    np.testing.assert_allclose(model.probabilities(scores), expected, atol=1e-7)
    np.testing.assert_allclose(model.probabilities(scores).sum(axis=1), 1, atol=1e-5)


BEHIND_A_SOFTMAX = {
    "transpose": lambda mx, net: mx.sym.transpose(mx.sym.transpose(net)),
    "swapaxes": lambda mx, net: mx.sym.squeeze(
        mx.sym.swapaxes(mx.sym.expand_dims(net, axis=0), dim1=0, dim2=1), axis=1
    ),
    "slice_axis of classes": lambda mx, net: mx.sym.slice_axis(net, axis=1, begin=0, end=3),
    "slice_axis of a dimension": lambda mx, net: mx.sym.reshape(
        mx.sym.slice_axis(mx.sym.expand_dims(net, axis=1), axis=1, begin=0, end=1), shape=(-1, 3)
    ),
    "MakeLoss": lambda mx, net: mx.sym.MakeLoss(net),
    "make_loss": lambda mx, net: mx.sym.make_loss(net),
    "identity": lambda mx, net: mx.sym.identity(net),
    "Cast": lambda mx, net: mx.sym.Cast(mx.sym.Cast(net, dtype="float64"), dtype="float32"),
    "squeeze": lambda mx, net: mx.sym.squeeze(mx.sym.expand_dims(net, axis=1), axis=1),
    "reverse": lambda mx, net: mx.sym.reverse(net, axis=1),
    "mean of crops": lambda mx, net: mx.sym.mean(mx.sym.expand_dims(net, axis=1), axis=1),
    "times one": lambda mx, net: net * 1 / 1 + 0 - 0,
}


@pytest.mark.parametrize("behind", BEHIND_A_SOFTMAX)
def test_a_softmax_is_left_alone_whatever_keeps_its_numbers_follows(tmp_path: Path, behind: str) -> None:
    mx = import_mxnet(SETTINGS)
    net = mx.sym.softmax(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="scores"))
    model = load(models.write_model(tmp_path, BEHIND_A_SOFTMAX[behind](mx, net), {"data": (1, 4)}))
    (scores,) = model.predict({"data": rows(1, 4)})
    assert scores.shape == (1, 3)
    assert model.probabilities(scores) is scores
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 0.5, 100])
def test_numbers_behind_a_softmax_that_are_no_probabilities_any_more_are_not_taken_for_such(
    tmp_path: Path, factor: float
) -> None:
    mx = import_mxnet(SETTINGS)
    net = mx.sym.softmax(mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=3, name="scores")) * factor
    model = load(models.write_model(tmp_path, net, {"data": (1, 4)}))
    (scores,) = model.predict({"data": rows(1, 4)})
    np.testing.assert_allclose(model.probabilities(scores).sum(axis=1), 1, atol=1e-5)


def test_parameters_saved_under_numpy_semantics_load(tmp_path: Path) -> None:
    mx = import_mxnet(SETTINGS)
    folder = models.tiny_classifier(tmp_path)
    data = {"data": rows(2, 1, 28, 28)}
    (before,) = load(folder).predict(data)
    path = str(folder / "model-0000.params")
    arrays = mx.nd.load(path)
    with mx.util.np_shape(True):
        mx.nd.save(path, arrays)
    with pytest.raises(mx.base.MXNetError, match="np shape semantics"):
        mx.nd.load(path)
    np.testing.assert_array_equal(load(folder).predict(data)[0], before)
    assert not mx.util.is_np_shape()


def test_a_model_saved_by_mxnet_0_8_answers_as_it_does_today(tmp_path: Path) -> None:
    data = {"data": rows(2, 1, 28, 28) * 255}
    folder = models.tiny_classifier(tmp_path)
    (today,) = load(folder).predict(data)
    models.make_old(folder)
    text = (folder / "model-symbol.json").read_text()
    assert '"backward_source_id"' in text and '"attrs"' not in text and "moving_mean" not in text
    (old,) = load(folder).predict(data)
    np.testing.assert_array_equal(old, today)


def test_missing_auxiliary_states_start_as_training_starts_them(tmp_path: Path) -> None:
    data = {"data": rows(2, 1, 28, 28) * 255}
    folder = models.tiny_classifier(tmp_path)  # its means are 0, its variances 1
    (complete,) = load(folder).predict(data)
    models.change_params(
        folder / "model-0000.params",
        lambda params: {name: value for name, value in params.items() if not name.startswith("aux:")},
    )
    (filled,) = load(folder).predict(data)
    np.testing.assert_array_equal(filled, complete)


def test_parameters_without_prefix_and_ones_that_are_not_used_are_fine(tmp_path: Path) -> None:
    folder = models.multiplier(tmp_path)
    models.change_params(
        folder / "model-0000.params",
        lambda params: {"times_weight": params["arg:times_weight"], "arg:unused": np.ones(3, np.float32)},
    )
    assert load(folder).predict({"data": np.ones((1, 4), np.float32)})[0].tolist() == [[2.0] * 4]


def test_half_precision_parameters_of_a_single_precision_network_are_converted(tmp_path: Path) -> None:
    data = {"data": rows(2, 1, 28, 28) * 255}
    folder = models.tiny_classifier(tmp_path)
    (single,) = load(folder).predict(data)
    models.change_params(
        folder / "model-0000.params",
        lambda params: {name: value.astype(np.float16) for name, value in params.items()},
    )
    (half,) = load(folder).predict(data)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, single, atol=2e-3)


def test_two_models_in_one_process_do_not_mix(tmp_path: Path) -> None:
    doubles, triples = (load(models.multiplier(tmp_path / str(factor), factor=factor)) for factor in (2, 3))
    data = {"data": np.ones((2, 4), np.float32)}
    for _ in range(2):
        assert (doubles.predict(data)[0] == 2).all()
        assert (triples.predict(data)[0] == 3).all()
    doubles.unload()
    assert (triples.predict(data)[0] == 3).all()


# A real architecture with convolutions, concatenations and pooling; Module in MXNet's default configuration.
ANSWER_OF_MODULE = """
import sys
from collections import namedtuple
from pathlib import Path
import mxnet as mx
import numpy as np

folder, network, edge = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
mx.random.seed(7)
net = mx.gluon.model_zoo.vision.get_model(network, classes=20)
net.initialize(mx.init.MSRAPrelu(slope=0))
net.hybridize()
net(mx.nd.ones((1, 3, edge, edge)))
net.export(str(folder / "net"))
(folder / "net-shapes.json").write_text('[{"name": "data", "shape": [1, 3, %d, %d]}]' % (edge, edge))
data = np.random.RandomState(0).rand(3, 3, edge, edge).astype(np.float32)
np.save(folder / "data.npy", data)
symbol, arguments, auxiliary = mx.model.load_checkpoint(str(folder / "net"), 0)
module = mx.mod.Module(symbol, label_names=None)
module.bind(for_training=False, data_shapes=[("data", data.shape)])
module.set_params(arguments, auxiliary)
module.forward(namedtuple("Batch", ["data"])([mx.nd.array(data)]), is_train=False)
np.save(folder / "module.npy", module.get_outputs()[0].asnumpy())
"""
OUR_ANSWER = """
import sys
from pathlib import Path
import numpy as np
from mme.frameworks.registry import data_adapter_for
from mme.settings import Settings

folder = Path(sys.argv[1])
model = data_adapter_for(folder, Settings()).load(folder, Settings.from_environment())
np.save(folder / "ours.npy", model.predict({"data": np.load(folder / "data.npy")})[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "edge"),
    [pytest.param(*each, marks=pytest.mark.ci) for each in (("squeezenet1.0", 224), ("resnet18_v2", 64))],
)
def test_answers_are_those_of_module(tmp_path: Path, network: str, edge: int) -> None:
    run_with_mxnet(ANSWER_OF_MODULE, tmp_path, network, edge)
    expected = np.load(tmp_path / "module.npy")
    assert np.abs(expected).max() > 1e-2
    for fuse, run in (("off", run_with_mxnet), ("on", run_python)):  # the latter is decided before the import
        run(OUR_ANSWER, tmp_path, MME_MXNET_FUSE=fuse)
        np.testing.assert_allclose(np.load(tmp_path / "ours.npy"), expected, atol=1e-5, rtol=1e-5)


PRIVATE_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from mme.frameworks.registry import adapter, data_adapter_for
from mme.settings import Settings

def private_mb():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean"))) / 1024

folder, settings = Path(sys.argv[1]), Settings.from_environment()
adapter("mxnet").warm_template(settings)
before = private_mb()
model = data_adapter_for(folder, settings).load(folder, settings)
for samples in (1, 3):
    model.predict({"data": np.ones((samples, 1024), np.float32)})
print(private_mb() - before)
"""


GROWING_BATCHES = """
import sys
from pathlib import Path
import numpy as np
from mme.frameworks.registry import adapter, data_adapter_for
from mme.settings import Settings

def private_mb():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean"))) / 1024

folder, settings = Path(sys.argv[1]), Settings()
model = data_adapter_for(folder, settings).load(folder, settings)
model.predict({"data": np.ones((1, 4), np.float32)})
before = private_mb()
for samples in map(int, sys.argv[2:]):
    model.predict({"data": np.ones((samples, 4), np.float32)})
print(private_mb() - before)
"""


def test_batches_that_grow_take_no_more_memory_than_the_largest(tmp_path: Path) -> None:
    models.hungry_model(tmp_path, megabytes_per_sample=8)
    largest_mb = float(run_with_mxnet(GROWING_BATCHES, tmp_path, 16))
    assert largest_mb > 100
    sizes = (1, 2, 3, 4, 6, 8, 12, 16)  # of passes: others are filled up to the next of them
    growing_mb = float(run_with_mxnet(GROWING_BATCHES, tmp_path, *sizes, 3, 1, 8))
    assert growing_mb < largest_mb * 1.2


def test_weights_are_held_once(tmp_path: Path) -> None:
    weights_mb = 200
    models.heavy_model(tmp_path, weights_mb=weights_mb)
    grown_mb = float(run_with_mxnet(PRIVATE_MEMORY, tmp_path))
    assert weights_mb * 0.9 < grown_mb < weights_mb * 1.15


def fused_sizes(model: MXNetModel) -> list[int]:
    """The sizes of a pass that the network is bound for with its operators fused."""
    names = {batch: bound.executor._symbol.get_internals().list_outputs() for batch, bound in model._bound.items()}
    return [batch for batch, of_symbol in names.items() if any("sg_mkldnn" in name for name in of_symbol)]


def test_a_small_network_that_is_asked_a_lot_is_fused_for_one_size_and_answers_the_same(tmp_path: Path) -> None:
    model = load(models.tiny_classifier(tmp_path, input_shape=(1, 3, 16, 16)))
    data, two = rows(1, 3, 16, 16), rows(2, 3, 16, 16)
    (expected,), (expected_of_two,) = model.predict({"data": data}), model.predict({"data": two})
    for _ in range(PASSES_BEFORE_FUSING - 1):
        model.predict({"data": data})
    assert fused_sizes(model) == []  # the larger size has made room for itself: the smaller one counts anew
    model.predict({"data": data})
    assert fused_sizes(model) == [1]
    for _ in range(PASSES_BEFORE_FUSING):
        np.testing.assert_allclose(model.predict({"data": data})[0], expected, rtol=1e-5)
        np.testing.assert_allclose(model.predict({"data": two})[0], expected_of_two, rtol=1e-5)
    assert fused_sizes(model) == [1]
    model.predict({"data": rows(4, 3, 16, 16)})  # all smaller ones go
    for _ in range(PASSES_BEFORE_FUSING):
        model.predict({"data": two})
    assert fused_sizes(model) == [2]


@pytest.mark.parametrize("why", ["off", "large", "other numbers", "no memory"])
def test_a_network_is_not_fused_where_that_is_not_to_be(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "large":
        monkeypatch.setattr("mme.frameworks.mxnet.model.MOST_BYTES_TO_FUSE", 100)
    if why == "other numbers":
        monkeypatch.setattr("mme.frameworks.mxnet.model._agree", lambda found, wanted: False)
    model = load(
        models.tiny_classifier(tmp_path, input_shape=(1, 3, 16, 16)),
        Settings(mxnet_fuse="off") if why == "off" else SETTINGS,
    )
    if why == "no memory":
        monkeypatch.setattr(model, "_symbol", _Unfusable(model._symbol))
    data = rows(1, 3, 16, 16)
    (expected,) = model.predict({"data": data})
    for _ in range(2 * PASSES_BEFORE_FUSING):
        np.testing.assert_array_equal(model.predict({"data": data})[0], expected)
    assert fused_sizes(model) == []


class _Unfusable:
    """A symbol that there is no memory to fuse."""

    def __init__(self, symbol: Any) -> None:
        self._symbol = symbol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._symbol, name)

    def optimize_for(self, _: str) -> None:
        raise MemoryError


FORKED = """
import os
import sys
from pathlib import Path
import numpy as np
from mme.frameworks.registry import adapter, data_adapter_for
from mme.settings import Settings

settings = Settings()
adapter("mxnet").warm_template(settings)
print(len(os.listdir("/proc/self/task")), flush=True)
child = os.fork()
if child == 0:
    folder = Path(sys.argv[1])
    model = data_adapter_for(folder, settings).load(folder, settings)
    right = (model.predict({"data": np.ones((3, 4), np.float32)})[0] == 2).all()
    os._exit(0 if right else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_warmed_template_has_one_thread_and_its_forks_serve(tmp_path: Path) -> None:
    models.multiplier(tmp_path)
    assert run_with_mxnet(FORKED, tmp_path).split() == ["1", "0"]


def test_recognising_a_model_does_not_import_the_framework(tmp_path: Path) -> None:
    models.multiplier(tmp_path)
    code = (
        "import sys, pathlib, model_handler; from mme.frameworks.registry import data_adapter_for;"
        "from mme.settings import Settings;"
        "print(data_adapter_for(pathlib.Path(sys.argv[1]), Settings()).name, 'mxnet' in sys.modules)"
    )
    assert run_python(code, tmp_path).split() == ["mxnet", "False"]


def test_what_no_model_needs_is_not_imported_with_mxnet_and_is_there_when_it_is_asked_for() -> None:
    code = (
        "import sys; from mme.frameworks.registry import adapter; from mme.settings import Settings;"
        "mx = adapter('mxnet').import_framework(Settings());"
        "print({'sklearn', 'scipy.stats', 'pandas'} & set(sys.modules));"
        "print(mx.contrib.quantization.stats.entropy([1, 1], [1, 1]), mx.test_utils.ss.norm.cdf(0.0));"
        "import scipy.stats; print(scipy.stats.entropy([1, 1], [1, 1]))"
    )
    assert run_with_mxnet(code).splitlines() == ["set()", "0.0 0.5", "0.0"]
