"""The MXNet adapter: what it loads, what it answers, and that it holds weights once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mme.frameworks import registry
from mme.frameworks.mxnet import import_mxnet
from mme.frameworks.mxnet_model import MXNetModel
from mme.settings import Settings
from tests.harness import models
from tests.harness.programs import run_python

SETTINGS = Settings()


def load(folder: Path, settings: Settings = SETTINGS) -> MXNetModel:
    model = registry.adapter_for(folder).load(folder, settings)
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


@pytest.mark.parametrize("samples", [1, 2, 3, 7, 8, 13, 40])
def test_any_number_of_samples_is_answered_as_each_alone(tmp_path: Path, samples: int) -> None:
    model = load(models.tiny_classifier(tmp_path))
    data = rows(samples, 1, 28, 28) * 255
    (together,) = model.predict({"data": data})
    alone = np.concatenate([model.predict({"data": data[n : n + 1]})[0] for n in range(samples)])
    assert together.shape == (samples, 10)
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_executors_are_bound_once_for_each_power_of_two(tmp_path: Path) -> None:
    model = load(models.tiny_mlp(tmp_path), Settings(max_samples_per_pass=16))
    for samples in (*range(1, 70), *range(1, 70)):
        model.predict({"data": rows(samples, 4)})
    assert sorted(model._bound) == [1, 2, 4, 8, 16]


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
    assert abs(logits.sum(axis=1) - 1).min() > 1e-3
    np.testing.assert_allclose(ends_in_logits.probabilities(logits), softmax, atol=1e-6)
    assert ends_in_softmax.probabilities(softmax) is softmax


@pytest.mark.parametrize("head", ["softmax", "SoftmaxActivation", "log_softmax", "behind_a_reshape"])
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
from mme.frameworks.registry import adapter_for
from mme.settings import Settings

folder = Path(sys.argv[1])
model = adapter_for(folder).load(folder, Settings.from_environment())
np.save(folder / "ours.npy", model.predict({"data": np.load(folder / "data.npy")})[0])
"""


@pytest.mark.parametrize(("network", "edge"), [("squeezenet1.0", 224), ("resnet18_v2", 64)])
def test_answers_are_those_of_module(tmp_path: Path, network: str, edge: int) -> None:
    run_python(ANSWER_OF_MODULE, tmp_path, network, edge)
    expected = np.load(tmp_path / "module.npy")
    assert np.abs(expected).max() > 1e-2
    for fuse in ("off", "on"):
        run_python(OUR_ANSWER, tmp_path, MME_MXNET_FUSE=fuse)
        np.testing.assert_allclose(np.load(tmp_path / "ours.npy"), expected, atol=1e-5, rtol=1e-5)


PRIVATE_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from mme.frameworks.registry import adapter, adapter_for
from mme.settings import Settings

def private_mb():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean"))) / 1024

folder, settings = Path(sys.argv[1]), Settings.from_environment()
adapter("mxnet").warm_template(settings)
before = private_mb()
model = adapter_for(folder).load(folder, settings)
for samples in (1, 3):
    model.predict({"data": np.ones((samples, 1024), np.float32)})
print(private_mb() - before)
"""


def test_weights_are_held_once(tmp_path: Path) -> None:
    weights_mb = 200
    models.heavy_model(tmp_path, weights_mb=weights_mb)
    grown_mb = float(run_python(PRIVATE_MEMORY, tmp_path))
    assert weights_mb * 0.9 < grown_mb < weights_mb * 1.15


FORKED = """
import os
import sys
from pathlib import Path
import numpy as np
from mme.frameworks.registry import adapter, adapter_for
from mme.settings import Settings

settings = Settings()
adapter("mxnet").warm_template(settings)
print(len(os.listdir("/proc/self/task")), flush=True)
child = os.fork()
if child == 0:
    folder = Path(sys.argv[1])
    model = adapter_for(folder).load(folder, settings)
    right = (model.predict({"data": np.ones((3, 4), np.float32)})[0] == 2).all()
    os._exit(0 if right else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_warmed_template_has_one_thread_and_its_forks_serve(tmp_path: Path) -> None:
    models.multiplier(tmp_path)
    assert run_python(FORKED, tmp_path).split() == ["1", "0"]


def test_recognising_a_model_does_not_import_the_framework(tmp_path: Path) -> None:
    models.multiplier(tmp_path)
    code = (
        "import sys, pathlib, model_handler; from mme.frameworks.registry import adapter_for;"
        "print(adapter_for(pathlib.Path(sys.argv[1])).name, 'mxnet' in sys.modules)"
    )
    assert run_python(code, tmp_path).split() == ["mxnet", "False"]
