"""Models of MXNet become models of ONNX that answer the same; what cannot is said by operator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mme.errors import ModelLoadError
from mme.frameworks.mxnet.adapter import ADAPTER as MXNET
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.frameworks.onnx.adapter import ADAPTER as ONNX
from mme.settings import Settings
from scripts.programs import convert_to_onnx
from scripts.programs.console import Failure
from tests.harness import models

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "make",
    [
        models.tiny_classifier,
        models.tiny_mlp,
        models.two_input_model,
        models.two_output_model,
        models.fixed_batch_model,
        models.embedding_model,
    ],
)
def test_a_converted_model_answers_as_before(tmp_path: Path, make: Callable[..., Path]) -> None:
    folder, out = make(tmp_path / "mxnet"), tmp_path / "onnx"
    assert convert_to_onnx.convert(folder, out, None) <= convert_to_onnx.LARGEST_DIFFERENCE
    before, after = MXNET.load(folder, Settings()), ONNX.load(out, Settings())
    assert {each.name for each in before.inputs} == {each.name for each in after.inputs}
    assert before.output_names == after.output_names
    random = np.random.RandomState(7)
    arrays = {each.name: (random.uniform(0, 4, (3, *each.sample_shape))).astype(each.dtype) for each in before.inputs}
    for mine, other in zip(before.predict(arrays), after.predict(arrays), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_attributes_that_are_true_unless_set_are_not_taken_for_false(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    net = mx.sym.Deconvolution(mx.sym.Variable("data"), kernel=(2, 2), num_filter=2, name="up")  # without a bias
    net = mx.sym.FullyConnected(net, num_hidden=3, name="scores")  # of all but the batch
    assert "flatten" not in net.tojson() and "no_bias" not in net.tojson()
    models.write_model(tmp_path / "mxnet", net, {"data": (1, 1, 4, 4)})
    assert convert_to_onnx.convert(tmp_path / "mxnet", tmp_path / "onnx", None) <= convert_to_onnx.LARGEST_DIFFERENCE
    images = np.random.RandomState(3).uniform(size=(2, 1, 4, 4)).astype(np.float32)
    (before,), (after,) = (
        adapter.load(tmp_path / folder, Settings()).predict({"data": images})
        for adapter, folder in ((MXNET, "mxnet"), (ONNX, "onnx"))
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6)


def test_labels_and_the_preprocessor_are_kept_and_images_are_what_is_compared(tmp_path: Path, shared: Path) -> None:
    folder = models.cifar_model(tmp_path / "mxnet", shared, "cifar_resnet20_v1")
    photos = next(path for path in (shared / "images", shared / "photos", shared) if list(path.glob("*.[jp][pn]*g")))
    difference = convert_to_onnx.convert(folder, tmp_path / "onnx", photos)
    assert difference < 1e-4
    for name in ("synset.txt", "preprocessor_config.json"):
        assert (tmp_path / "onnx" / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.suffix for path in (tmp_path / "onnx").iterdir()) == [".json", ".onnx", ".txt"]


def test_operators_that_cannot_be_converted_are_named_with_their_nodes(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    net = mx.sym.erfinv(mx.sym.gamma(mx.sym.Variable("data"), name="first"), name="second")
    models.write_model(tmp_path / "mxnet", net, {"data": (1, 3)})
    with pytest.raises(Failure, match=r"erfinv \(second\); gamma \(first\)"):
        convert_to_onnx.convert(tmp_path / "mxnet", tmp_path / "onnx", None)
    assert not (tmp_path / "onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mxnet"]


def test_a_model_that_has_the_batch_elsewhere_than_first_is_refused(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    models.write_model(tmp_path / "mxnet", mx.sym.transpose(mx.sym.Variable("data")), {"data": (1, 3)})
    with pytest.raises(Failure, match="another dimension than the first"):
        convert_to_onnx.convert(tmp_path / "mxnet", tmp_path / "onnx", None)
    assert not (tmp_path / "onnx").exists()


def test_a_model_that_would_answer_differently_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = convert_to_onnx.mxnet_export.export

    def export_wrongly(*arguments: Any) -> Any:
        from onnx import numpy_helper

        model = export(*arguments)
        weights = model.graph.initializer[0]
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
        return model

    monkeypatch.setattr(convert_to_onnx.mxnet_export, "export", export_wrongly)
    models.multiplier(tmp_path / "mxnet")
    with pytest.raises(Failure, match=r"answers differently.*0\.01"):
        convert_to_onnx.convert(tmp_path / "mxnet", tmp_path / "onnx", None)
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("*", r"0 files \*-symbol\.json"),
        ("*.params", r"no model-NNNN\.params"),
        ("a weight", r"model-0000\.params: it lacks times_weight"),
    ],
)
def test_a_folder_without_a_whole_model_of_mxnet_is_refused(tmp_path: Path, missing: str, reason: str) -> None:
    folder = models.multiplier(tmp_path / "mxnet")
    for path in list(folder.glob(missing)):
        path.unlink()
    if missing == "a weight":
        import_mxnet(Settings()).nd.save(str(folder / "model-0000.params"), {})
    with pytest.raises(ModelLoadError, match=reason):
        convert_to_onnx.convert(folder, tmp_path / "onnx", None)
    assert [path.name for path in tmp_path.iterdir()] == ["mxnet"]


def test_an_exporter_that_fails_is_a_failure_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_mxnet(Settings())
    from mxnet.onnx.mx2onnx import _export_onnx

    def fail(*_: Any, **__: Any) -> Any:
        raise AttributeError("no such attribute")

    monkeypatch.setattr(_export_onnx.MXNetGraph, "create_onnx_graph_proto", fail)
    models.multiplier(tmp_path / "mxnet")
    with pytest.raises(Failure, match=r"model-symbol\.json cannot be exported: no such attribute"):
        convert_to_onnx.convert(tmp_path / "mxnet", tmp_path / "onnx", None)
    assert [path.name for path in tmp_path.iterdir()] == ["mxnet"]


@pytest.mark.slow
def test_the_program_says_what_it_did_and_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    models.multiplier(tmp_path / "mxnet")
    command = [sys.executable, "-P", "-m", "scripts.programs.convert_to_onnx", "mxnet", "onnx"]

    def call() -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'container'}"}
        return subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)

    done = call()
    assert done.returncode == 0, done.stderr
    assert "largest difference on 20 inputs: 0 " in done.stdout and "onnx/model.onnx" in done.stdout
    assert done.stderr == ""
    again = call()
    assert again.returncode == 2 and "not an empty folder" in again.stderr


def test_a_sample_without_an_image_is_refused(tmp_path: Path) -> None:
    models.tiny_classifier(tmp_path / "mxnet")
    (tmp_path / "notes.txt").write_text(json.dumps("no image"))
    with pytest.raises(Failure, match="no image"):
        convert_to_onnx.convert(tmp_path / "mxnet", tmp_path / "onnx", tmp_path)


@pytest.mark.ci
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ["squeezenet1.0", "resnet18_v1", "resnet152_v1"])
def test_architectures_of_the_zoo_convert(tmp_path: Path, architecture: str) -> None:
    mx = import_mxnet(Settings())
    folder = tmp_path / "mxnet"
    folder.mkdir()
    net = mx.gluon.model_zoo.vision.get_model(architecture, pretrained=False)
    net.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    net.hybridize()
    net(mx.nd.zeros((1, 3, 224, 224))).wait_to_read()
    net.export(str(folder / "model"), epoch=0)
    models.write_shapes(folder, {"data": (1, 3, 224, 224)})
    assert convert_to_onnx.convert(folder, tmp_path / "onnx", None) < 1e-4


@pytest.mark.ci
@pytest.mark.parametrize("network", ["cifar_resnet20_v2", "cifar_resnet56_v1"])
def test_trained_models_convert(tmp_path: Path, shared: Path, network: str) -> None:
    folder = models.cifar_model(tmp_path / "mxnet", shared, network)
    assert convert_to_onnx.convert(folder, tmp_path / "onnx", None) < 1e-4
