"""ONNX models through the handler, compared with ONNX Runtime called directly; and what is refused, with its words."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from mms.context import Context
from onnx import TensorProto, helper
from PIL import Image

import model_handler
from mme.errors import ModelLoadError
from mme.frameworks import registry
from mme.frameworks.onnx import graph_file, sample
from mme.frameworks.onnx.adapter import ADAPTER
from mme.frameworks.onnx.model import OnnxModel
from mme.settings import Settings
from scripts.programs.model_check import try_model
from tests.harness import onnx_models as models
from tests.harness import requests as golden

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = np.random.RandomState(3).uniform(0.1, 9, (3, 4)).astype(np.float32)


def load(folder: Path) -> Context:
    context = golden.context_for(folder)
    assert model_handler.handle(None, context) is None
    return context


def ask(
    context: Context, body: Any, content_type: str = "application/json", accept: str = ""
) -> tuple[int, str, bytes]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": content_type} | ({"Accept": accept} if accept else {})
    return golden.call(model_handler.handle, context, (headers, sent))[0]


def predictions(context: Context, body: Any, content_type: str = "application/json") -> Any:
    status, _, answer = ask(context, body, content_type)
    assert status == 200, answer
    return json.loads(answer)["predictions"]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def jpeg(width: int = 40, height: int = 30) -> bytes:
    pixels = np.random.RandomState(0).randint(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def refusal(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as refused:
        ADAPTER.load(folder, Settings())
    assert "onnxruntime_src" not in str(refused.value)
    return str(refused.value)


# ---- what goes in and comes out ----


@pytest.mark.parametrize("content_type", ["application/json", "text/csv", "application/x-npy"])
def test_a_model_answers_as_onnx_runtime_called_directly(tmp_path: Path, content_type: str) -> None:
    models.onnx_linear(tmp_path)
    bodies = {
        "application/json": NUMBERS.tolist(),
        "text/csv": "".join(",".join(map(str, row)) + "\n" for row in NUMBERS.tolist()).encode(),
        "application/x-npy": npy(NUMBERS),
    }
    (expected,) = models.run(tmp_path, {"data": NUMBERS})
    np.testing.assert_allclose(predictions(load(tmp_path), bodies[content_type], content_type), expected, atol=1e-5)


@pytest.mark.parametrize("external", [False, True])
def test_where_models_may_bring_no_code_a_model_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    monkeypatch.setenv("MME_MODEL_CODE", "refuse")
    saved: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0} if external else {}
    models.onnx_linear(tmp_path, **saved)
    (expected,) = models.run(tmp_path, {"data": NUMBERS})
    np.testing.assert_allclose(predictions(load(tmp_path), NUMBERS.tolist()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [(getattr(TensorProto, name), np.dtype(dtype)) for name, dtype in [
        ("FLOAT16", "f2"), ("FLOAT", "f4"), ("DOUBLE", "f8"), ("INT8", "i1"), ("INT32", "i4"), ("INT64", "i8"),
        ("UINT8", "u1"), ("UINT32", "u4"), ("UINT64", "u8"), ("BOOL", "?"),
    ]],
)  # fmt: skip
def test_a_model_takes_every_type_of_number(tmp_path: Path, element: int, dtype: np.dtype) -> None:
    models.onnx_double(tmp_path, element=element)
    rows = np.array([[1, 0], [3, 1]]).astype(dtype)
    (expected,) = models.run(tmp_path, {"x": rows})
    context = load(tmp_path)
    assert predictions(context, rows.tolist()) == expected.tolist()
    assert predictions(context, npy(rows), "application/x-npy") == expected.tolist()


def test_whole_numbers_that_float64_does_not_hold_arrive_as_they_are(tmp_path: Path) -> None:
    models.onnx_double(tmp_path, element=TensorProto.INT64)
    assert predictions(load(tmp_path), [[2**53 + 1, -(2**53) - 1]]) == [[2**54 + 2, -(2**54) - 2]]


def test_a_value_that_the_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    models.onnx_double(tmp_path, element=TensorProto.INT8)
    status, _, answer = ask(load(tmp_path), [[1000, 1]])
    assert status == 400 and b"int8" in answer


def test_text_goes_in_and_comes_out_as_text(tmp_path: Path) -> None:
    models.onnx_double(tmp_path, element=TensorProto.STRING)
    context = load(tmp_path)
    rows = [["red, fox", "1_000"], ["é", ""]]
    assert predictions(context, rows) == rows
    assert predictions(context, b'"red, fox",1_000\n\xc3\xa9,""\n', "text/csv") == rows
    assert predictions(context, npy(np.array(rows)), "application/x-npy") == rows
    assert ask(context, rows, accept="text/csv")[2] == '"red, fox",1_000\né,\n'.encode()
    status, _, answer = ask(context, [[1, 2]])
    assert status == 400 and b"texts" in answer and b"x (N, 2) text" in answer


def test_inputs_and_outputs_have_any_names(tmp_path: Path) -> None:
    models.onnx_two_heads(tmp_path)
    left, right = np.ones((2, 2), np.float32), np.full((2, 3), 2.0, np.float32)
    total, twice = models.run(tmp_path, {"left": left, "right": right})
    answer = predictions(load(tmp_path), {"left": left.tolist(), "right": right.tolist()})
    assert answer == {"sum": total.tolist(), "twice": twice.tolist()}


def test_lengths_that_are_free_differ_from_request_to_request_of_a_batch(tmp_path: Path) -> None:
    models.onnx_tokens(tmp_path)
    context = load(tmp_path)
    sent = [{"ids": [[1, 2, 3]], "mask": [[1, 1, 0]]}, {"ids": [[4]], "mask": [[1]]}]
    answers = golden.call(
        model_handler.handle,
        context,
        *(({"Content-Type": "application/json"}, json.dumps(each).encode()) for each in sent),
    )
    for each, (status, _, answer) in zip(sent, answers, strict=True):
        (expected,) = models.run(tmp_path, {name: np.array(rows) for name, rows in each.items()})
        assert status == 200
        np.testing.assert_allclose(json.loads(answer)["predictions"], expected, atol=1e-6)


def test_a_row_of_csv_may_have_any_length_where_the_model_leaves_it_free(tmp_path: Path) -> None:
    models.onnx_double(tmp_path, shape=["N", "L"])
    context = load(tmp_path)
    assert predictions(context, b"1,2,3\n4,5,6\n", "text/csv") == [[2, 4, 6], [8, 10, 12]]
    assert predictions(context, [1, 2]) == [[2, 4]]


def test_a_row_of_csv_that_leaves_the_shape_open_is_refused(tmp_path: Path) -> None:
    models.onnx_double(tmp_path, shape=["N", "H", "W"])
    status, _, answer = ask(load(tmp_path), b"1,2,3,4\n", "text/csv")
    assert status == 400 and b"x (N, any, any) float32" in answer


def test_numbers_that_an_operator_cannot_do_with_are_the_faults_of_their_request_alone(tmp_path: Path) -> None:
    models.onnx_tokens(tmp_path)
    context = load(tmp_path)
    status, _, answer = ask(context, {"ids": [[99]], "mask": [[1]]})
    assert status == 400 and b"99" in answer and b"onnxruntime_src" not in answer
    assert ask(context, {"ids": [[9]], "mask": [[1]]})[0] == 200


@pytest.mark.parametrize(
    ("shape", "outputs", "rows"),
    [
        ((1, 2), (1, 2), [[1, 2], [3, 4], [5, 6]]),
        ((4, 2), (4, 2), [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]),
        ((2,), (2,), [[1, 2], [3, 4]]),  # no axis for samples
        ((), (), [1, 2, 3]),
        (("N",), ("N",), [1, 2, 3]),
    ],
)
def test_samples_of_a_request_are_run_as_the_first_axis_allows(
    tmp_path: Path, shape: Any, outputs: Any, rows: Any
) -> None:
    models.onnx_double(tmp_path, shape=shape, outputs=outputs)
    assert predictions(load(tmp_path), rows) == (np.array(rows) * 2).tolist()


def test_a_model_without_an_axis_for_samples_gets_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    models.write(tmp_path, nodes, {"x": (models.FLOAT, [3, 2])}, {"y": (models.FLOAT, [])})
    context = load(tmp_path)
    assert predictions(context, [[1, 2], [3, 4], [5, 6]]) == [21]
    assert predictions(context, [[[1, 2], [3, 4], [5, 6]], [[0, 0], [0, 0], [0, 1]]]) == [21, 1]


def test_many_samples_run_in_passes(tmp_path: Path) -> None:
    models.onnx_linear(tmp_path)
    model = ADAPTER.load(tmp_path, Settings(max_samples_per_pass=2))
    rows = np.random.RandomState(5).normal(0, 1, (7, 4)).astype(np.float32)
    (expected,) = models.run(tmp_path, {"data": rows})
    np.testing.assert_allclose(model.predict({"data": rows})[0], expected, atol=1e-5)


def test_maps_and_texts_of_a_classifier_are_json(tmp_path: Path) -> None:
    models.onnx_zipmap(tmp_path)
    labels, maps = models.run(tmp_path, {"X": NUMBERS})
    context = load(tmp_path)
    answer = predictions(context, NUMBERS.tolist())
    assert answer["label"] == labels.tolist()
    assert [each.keys() for each in answer["probability"]] == [set(models.LABELS)] * 3
    for got, expected in zip(answer["probability"], maps, strict=True):
        assert got == pytest.approx(expected)
    assert ask(context, NUMBERS.tolist(), accept="text/csv")[0] == 406


def test_a_sequence_of_tensors_is_a_list_of_json(tmp_path: Path) -> None:
    models.onnx_sequence(tmp_path)
    (expected,) = models.run(tmp_path, {"x": NUMBERS})
    np.testing.assert_allclose(predictions(load(tmp_path), NUMBERS.tolist()), np.stack(expected), atol=1e-5)


# ---- images and labels ----


def test_an_image_of_bytes_is_read_for_an_input_of_bytes(tmp_path: Path) -> None:
    models.onnx_means(tmp_path, element=TensorProto.UINT8, shape=("N", 8, 8, 3), axes=(1, 2))
    context = load(tmp_path)
    (means,) = predictions(context, jpeg(), "image/jpeg")
    pixels = np.asarray(Image.open(io.BytesIO(jpeg())).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(means, pixels.reshape(-1, 3).mean(axis=0), atol=0.01)


def test_a_preprocessor_says_how_large_an_image_is_where_the_model_leaves_it_free(tmp_path: Path) -> None:
    models.onnx_means(tmp_path)
    config = {"size": {"height": 10, "width": 12}, "image_mean": 0.5, "image_std": 0.25}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    context = load(tmp_path)
    (means,) = predictions(context, jpeg(), "image/jpeg")
    pixels = np.asarray(Image.open(io.BytesIO(jpeg())).resize((12, 10), Image.Resampling.BILINEAR), np.float32)
    (expected,) = models.run(tmp_path, {"image": ((pixels / 255 - 0.5) / 0.25).transpose(2, 0, 1)[np.newaxis]})
    np.testing.assert_allclose(means, expected[0], atol=1e-4)
    assert np.shape(predictions(context, np.zeros((2, 3, 5, 7)).tolist())) == (2, 3)


def test_a_preprocessor_without_a_size_is_refused_where_the_model_leaves_it_free(tmp_path: Path) -> None:
    models.onnx_means(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 20}}')
    with pytest.raises(ModelLoadError, match="how large an image"):
        load(tmp_path)


def test_an_image_of_no_known_size_is_not_read(tmp_path: Path) -> None:
    models.onnx_means(tmp_path)
    status, _, answer = ask(load(tmp_path), jpeg(), "image/jpeg")
    assert status == 415 and b"image (N, 3, any, any)" in answer


@pytest.mark.parametrize("head", ["", "Softmax", "LogSoftmax"])
def test_labels_come_with_probabilities_whatever_the_model_ends_in(tmp_path: Path, head: str) -> None:
    models.onnx_linear(tmp_path, labels=True, head=head)
    models.onnx_linear(tmp_path / "softmax", head="Softmax")
    (expected,) = models.run(tmp_path / "softmax", {"data": NUMBERS[:1]})
    best = json.loads(ask(load(tmp_path), NUMBERS[:1].tolist())[2])
    order = np.argsort(expected[0])[::-1]
    assert best == [f"probability={expected[0][place]:f}, class={models.LABELS[place]}" for place in order]


def test_probabilities_are_seen_through_what_changes_a_shape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Softmax", ["data"], ["probabilities"]),
        helper.make_node("Flatten", ["probabilities"], ["flat"]),
        helper.make_node("Identity", ["flat"], ["scores"]),
    ]
    models.write(tmp_path, nodes, {"data": (models.FLOAT, ["N", 3])}, {"scores": (models.FLOAT, ["N", 3])})
    assert graph_file.head_operators(tmp_path / "model.onnx") == ("Softmax",)


@pytest.mark.parametrize(
    ("write", "is_run"),
    [
        (models.onnx_linear, False),
        (partial(models.onnx_linear, batch=1), False),
        (partial(models.onnx_means, shape=("N", 3, 8, 8)), False),
        (models.onnx_two_heads, False),
        (models.onnx_means, True),  # an image of any size
        (partial(models.onnx_linear, batch=2), True),  # filled up
        (models.onnx_zipmap, True),  # its maps are of any length
    ],
)
def test_a_load_runs_the_model_only_where_the_session_leaves_a_shape_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path], is_run: bool
) -> None:
    run_pass = Mock(wraps=OnnxModel.run_pass)
    monkeypatch.setattr(OnnxModel, "run_pass", lambda *given: run_pass(*given))
    write(tmp_path)
    load(tmp_path)
    assert run_pass.called == is_run


@pytest.mark.parametrize("batch", ["N", 2])  # without a pass, and by what one gives
def test_labels_that_do_not_fit_the_outputs_are_refused_at_the_load(tmp_path: Path, batch: str | int) -> None:
    models.onnx_linear(tmp_path, labels=True, batch=batch)
    (tmp_path / "synset.txt").write_text("one\ntwo\n")
    with pytest.raises(ModelLoadError, match="2 labels, the model's output 3 classes"):
        load(tmp_path)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    models.onnx_linear(tmp_path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    (expected,) = models.run(tmp_path, {"data": NUMBERS})
    np.testing.assert_allclose(predictions(load(tmp_path), NUMBERS.tolist()), expected, atol=1e-5)


def test_package_model_asks_the_model_once(tmp_path: Path) -> None:
    models.onnx_tokens(tmp_path / "tokens")
    models.onnx_double(tmp_path / "text", element=TensorProto.STRING)
    tokens, text = (try_model(tmp_path / name) for name in ("tokens", "text"))
    assert "predictions" in str(tokens.text) and "predictions" in str(text.text)
    assert tokens.content_types == "application/json, application/jsonlines, application/x-npz"  # two inputs
    assert text.content_types.startswith("application/json, text/csv, application/x-npy")


# ---- what is refused ----


def test_two_models_in_one_folder_are_refused_by_their_names(tmp_path: Path) -> None:
    models.onnx_linear(tmp_path, name="encoder.onnx")
    models.onnx_linear(tmp_path, name="decoder.onnx")
    assert "decoder.onnx, encoder.onnx" in refusal(tmp_path)


def test_a_newer_opset_is_refused_with_the_one_to_export(tmp_path: Path) -> None:
    models.onnx_linear(tmp_path, opset=99)
    said = refusal(tmp_path)
    assert "opset 99" in said and "opset_version=" in said


def test_a_newer_format_is_refused_with_the_one_to_write(tmp_path: Path) -> None:
    models.onnx_linear(tmp_path, ir_version=99)
    assert "version 99 of the format" in refusal(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 20, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = models.onnx_linear(tmp_path) / "model.onnx"
    file.write_bytes(file.read_bytes()[:kept])
    said = refusal(tmp_path)
    assert "truncated" in said
    with pytest.raises(ModelLoadError):
        ADAPTER.check_file(file, file.name)


@pytest.mark.parametrize("content", [b"<html>404</html>", bytes(100), b"\x3a\x00", bytes(range(256))])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert "model.onnx" in refusal(tmp_path)


def test_a_folder_with_the_name_of_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    assert "is no file" in refusal(tmp_path)


def external(folder: Path, location: str) -> Path:
    models.onnx_linear(folder, save_as_external_data=True, location="weights.bin", size_threshold=0)

    def relocate(model: onnx.ModelProto) -> None:
        for entry in model.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = location

    return models.change(folder, relocate)


def test_missing_external_data_is_refused_by_its_name(tmp_path: Path) -> None:
    external(tmp_path, "other.bin")
    said = refusal(tmp_path)
    assert "other.bin" in said and "beside model.onnx" in said


@pytest.mark.parametrize("how", ["above", "absolute", "link"])
def test_external_data_outside_of_the_folder_is_refused(tmp_path: Path, how: str) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(bytes(1000))
    folder = tmp_path / "model"
    external(folder, {"above": "../outside.bin", "absolute": str(outside), "link": "link.bin"}[how])
    (folder / "link.bin").symlink_to(outside)
    said = refusal(folder)
    assert "outside of the model's folder" in said and "outside.bin" not in said


def test_truncated_external_data_is_refused(tmp_path: Path) -> None:
    models.onnx_linear(tmp_path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    os.truncate(tmp_path / "weights.bin", 7)
    assert "model.onnx" in refusal(tmp_path)


def test_an_unknown_operator_is_refused_by_its_name(tmp_path: Path) -> None:
    nodes = [helper.make_node("Frobnicate", ["x"], ["y"])]
    models.write(tmp_path, nodes, {"x": (models.FLOAT, ["N", 2])}, {"y": (models.FLOAT, ["N", 2])})
    assert "Frobnicate" in refusal(tmp_path)


def test_an_input_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    models.onnx_double(tmp_path, element=TensorProto.BFLOAT16)
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    models.write(tmp_path, nodes, {"x": (TensorProto.BFLOAT16, ["N", 2])}, {"y": (TensorProto.BFLOAT16, ["N", 2])})
    said = refusal(tmp_path)
    assert "bfloat16" in said and "Cast" in said


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["constant"], ["y"])]
    models.write(tmp_path, nodes, {}, {"y": (models.FLOAT, [1])}, {"constant": np.ones(1, np.float32)})
    assert "no inputs" in refusal(tmp_path)


# ---- processes ----

PROCESS = """
import os, sys
os.environ["OMP_NUM_THREADS"] = sys.argv[1]
from pathlib import Path
from mme.frameworks.onnx.adapter import ADAPTER
from mme.settings import Settings
import numpy as np

settings = Settings()
def threads(): return len(os.listdir("/proc/self/task"))

ADAPTER.import_framework(settings)
before = threads()
if sys.argv[2] == "template":
    ADAPTER.warm_template(settings)
    after = threads()
    reader, writer = os.pipe()
    if os.fork() == 0:
        model = ADAPTER.load(Path(sys.argv[3]), settings)
        os.write(writer, str(model.predict({"data": np.ones((1, 4), np.float32)})[0].shape).encode())
        os._exit(0)
    print(before, after, os.read(reader, 100).decode())
else:
    model = ADAPTER.load(Path(sys.argv[3]), settings)
    print(before, threads())
"""


def in_process(count: str, what: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONPATH": str(ROOT / "container"), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS, count, what, str(folder)]
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout.strip()


def test_a_process_that_has_run_a_model_has_one_thread_and_its_children_load_models(tmp_path: Path) -> None:
    assert in_process("1", "template", models.onnx_linear(tmp_path)) == "1 1 (1, 3)"


def test_a_template_is_prepared_with_a_sample_that_answers(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from mme.settings import Settings
from mme.zygote.template_preparation import prepare
prepare("onnx", frozenset(), Settings.from_environment(), Path(sys.argv[1]), print)
print(len(os.listdir("/proc/self/task")))
"""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"PYTHONPATH": str(ROOT / "container"), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.stdout == "onnx\n1\n", done.stderr


def test_a_session_has_as_many_threads_as_openmp_would_have(tmp_path: Path) -> None:
    assert in_process("3", "load", models.onnx_linear(tmp_path)) == "1 3"


def test_nothing_is_told_to_the_maker_of_the_library() -> None:
    assert registry.environment(Settings())["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_sample_is_what_the_package_onnx_calls_a_model(tmp_path: Path) -> None:
    sample.write(tmp_path)
    model = onnx.load(str(tmp_path / "sample.onnx"))
    onnx.checker.check_model(model, full_check=True)
    (scores,) = models.run(tmp_path, {sample.INPUT: np.zeros(sample.SHAPE, np.float32)})
    assert scores.shape == (1, 8)
    assert graph_file.head_operators(tmp_path / "sample.onnx") == ("Softmax",)


def test_a_lack_of_memory_is_told_as_such(tmp_path: Path) -> None:
    models.onnx_hungry(tmp_path, megabytes_per_sample=64)
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from mme.errors import InsufficientMemory
from mme.frameworks.onnx.adapter import ADAPTER
from mme.settings import Settings
model = ADAPTER.load(Path(sys.argv[1]), Settings())
model.predict({"x": np.ones((1, 1), np.float32)})
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
try:
    model.predict({"x": np.ones((16, 1), np.float32)})
except InsufficientMemory as error:
    print("refused", error)
print(model.predict({"x": np.full((1, 1), 4, np.float32)})[0].tolist())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "container")}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout
    assert "refused Not enough memory to run 16 samples" in done and done.endswith("[[2.0]]\n")
