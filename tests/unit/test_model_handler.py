"""The handler as MMS uses it: load, batches, errors, labels, warmth, and several of it in one process."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mms.context import Context
from PIL import Image

import model_handler
from mme.errors import ModelLoadError, SettingError
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.handler.payload import Request
from mme.handler.responses import Response
from mme.settings import Settings
from model_handler import ModelHandler, entry_point
from tests.harness import models
from tests.harness import requests as golden

JSON = {"Content-Type": "application/json"}


def load(folder: Path, handle: Any = model_handler.handle) -> Context:
    context = golden.context_for(folder)
    assert handle(None, context) is None
    return context


def ask(context: Context, value: Any, handle: Any = model_handler.handle, **headers: str) -> tuple[int, str, bytes]:
    return golden.call(handle, context, ({**JSON, **headers}, json.dumps(value).encode()))[0]


def png(seed: int = 0) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 255, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_handler_is_initialized_only_after_its_load(tmp_path: Path) -> None:
    handler = ModelHandler()
    assert not handler.initialized
    models.multiplier(tmp_path)
    seen = []

    class Watching(ModelHandler):
        def _prepare(self, *arguments: Any) -> None:
            seen.append(self.initialized)
            super()._prepare(*arguments)

    handler = Watching()
    handler.initialize(golden.context_for(tmp_path))
    assert seen == [False]
    assert handler.initialized


def test_a_load_that_fails_leaves_the_handler_uninitialized(tmp_path: Path) -> None:
    handler = ModelHandler()
    with pytest.raises(ModelLoadError):
        handler.initialize(golden.context_for(tmp_path))
    assert not handler.initialized


def test_a_load_that_fails_logs_one_line_that_names_model_file_and_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models.multiplier(tmp_path)
    (tmp_path / "model-shapes.json").write_text("[]")
    with pytest.raises(ModelLoadError):
        model_handler.handle(None, golden.context_for(tmp_path, name="prices"))
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    message = record.getMessage()
    assert "prices" in message and "model-shapes.json" in message and "It must be a list" in message
    assert "\n" not in message and record.exc_info is None


@pytest.mark.parametrize("name", ["model-shapes.json", "model-0000.params", "model-symbol.json", "synset.txt"])
def test_an_artifact_that_cannot_be_read_fails_the_load_by_name(tmp_path: Path, name: str) -> None:
    folder = models.tiny_mlp(tmp_path, labels=True)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(ModelLoadError, match=f"{name} cannot be read: Is a directory.*chmod"):
        load(folder)


def test_a_bad_setting_fails_the_load_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MME_MAX_IMAGE_MEGAPIXELS", "many")
    with pytest.raises(SettingError, match="MME_MAX_IMAGE_MEGAPIXELS"):
        model_handler.handle(None, golden.context_for(models.multiplier(tmp_path)))
    assert "MME_MAX_IMAGE_MEGAPIXELS" in caplog.text


def test_many_models_in_one_process_do_not_mix(tmp_path: Path) -> None:
    contexts = {factor: load(models.multiplier(tmp_path / str(factor), factor=factor)) for factor in (2, 3, 5)}
    for _ in range(2):
        for factor, context in contexts.items():
            status, _, body = ask(context, [[1, 2, 3, 4]])
            assert status == 200
            assert json.loads(body) == {"predictions": [[factor * n for n in (1.0, 2.0, 3.0, 4.0)]]}


def test_a_batch_is_one_pass_and_each_request_gets_its_own_rows(tmp_path: Path) -> None:
    passes = []

    class Counting(ModelHandler):
        def inference(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            passes.append({name: rows.shape for name, rows in arrays.items()})
            return super().inference(arrays)

    handle = entry_point(Counting)
    context = load(models.multiplier(tmp_path), handle)
    requests = [(JSON, json.dumps([[n, 0, 0, 0]] * n).encode()) for n in (1, 3, 2)]
    answers = golden.call(handle, context, *requests)
    assert passes == [{"data": (6, 4)}]
    for n, (status, _, body) in zip((1, 3, 2), answers, strict=True):
        assert status == 200
        assert json.loads(body) == {"predictions": [[2.0 * n, 0, 0, 0]] * n}


def test_one_bad_request_of_a_batch_fails_alone(tmp_path: Path) -> None:
    context = load(models.multiplier(tmp_path))
    good = (JSON, b"[[1, 2, 3, 4]]")
    answers = golden.call(
        model_handler.handle,
        context,
        good,
        (JSON, b"[[1, 2, 3]]"),
        ({"Content-Type": "application/x-unknown"}, b"1"),
        ({**JSON, "Accept": "image/png"}, b"[[1, 2, 3, 4]]"),
        good,
    )
    assert [status for status, _, _ in answers] == [200, 400, 415, 406, 200]
    assert answers[0] == answers[4]


def test_a_request_that_breaks_the_pass_of_its_batch_fails_alone(tmp_path: Path) -> None:
    class Picky(ModelHandler):
        def inference(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            if (arrays["data"] == 13).any():
                raise ValueError("secret: /opt/ml/models/x")
            return super().inference(arrays)

    handle = entry_point(Picky)
    context = load(models.multiplier(tmp_path), handle)
    answers = golden.call(handle, context, *((JSON, b"[[%d, 0, 0, 0]]" % n) for n in (1, 13, 2)))
    assert [status for status, _, _ in answers] == [200, 500, 200]
    error = json.loads(answers[1][2])
    assert error == {
        "code": 500,
        "type": "InternalServerException",
        "message": "Could not run the model. The reason is in the log of the model.",
    }


def test_an_unexpected_error_is_answered_500_without_its_words_and_logged_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(ModelHandler):
        def postprocess(self, request: Request, outputs: list[np.ndarray]) -> Response:
            raise RuntimeError("secret")

    handle = entry_point(Broken)
    status, content_type, body = ask(load(models.multiplier(tmp_path), handle), [[1, 2, 3, 4]], handle)
    assert (status, content_type) == (500, "application/json")
    assert set(json.loads(body)) == {"code", "type", "message"}
    assert b"secret" not in body and b"Traceback" not in body
    assert any(record.exc_info and "secret" in str(record.exc_info[1]) for record in caplog.records)


def test_custom_attributes_reach_the_handler_and_come_back(tmp_path: Path) -> None:
    seen = []

    class Reading(ModelHandler):
        def preprocess(self, request: Request) -> dict[str, np.ndarray]:
            seen.append(request.custom_attributes)
            return super().preprocess(request)

    handle = entry_point(Reading)
    context = load(models.multiplier(tmp_path), handle)
    for value in ([[1, 2, 3, 4]], "wrong"):
        ask(context, value, handle, **{"x-AMZN-sagemaker-custom-attributes": "trace=7;c=ü"})
        assert context.get_response_headers(0)["X-Amzn-SageMaker-Custom-Attributes"] == "trace=7;c=ü"
    assert seen == ["trace=7;c=ü"] * 2
    ask(context, [[1, 2, 3, 4]], handle)
    assert "X-Amzn-SageMaker-Custom-Attributes" not in context.get_response_headers(0)


def test_custom_attributes_longer_than_sagemaker_allows_do_not_come_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = load(models.multiplier(tmp_path))
    for length, come_back in ((1024, True), (1025, False), (5000, False)):
        for value in ([[1, 2, 3, 4]], "wrong"):
            ask(context, value, **{"X-Amzn-SageMaker-Custom-Attributes": "x" * length})
            headers = context.get_response_headers(0)
            assert headers.get("X-Amzn-SageMaker-Custom-Attributes") == ("x" * length if come_back else None)
    assert caplog.text.count("does not send back X-Amzn-SageMaker-Custom-Attributes of 1025 characters") == 1
    assert caplog.text.count("does not send back") == 1


def test_a_sample_that_no_unloading_makes_room_for_is_not_a_lack_of_memory(tmp_path: Path) -> None:
    mx = import_mxnet(Settings())
    folder = models.write_model(tmp_path, mx.sym.sum(mx.sym.Variable("data"), axis=(1, 2)), {"data": (1, 7000, 7000)})
    handler = ModelHandler(Settings(memory_limit_mb=300))
    with pytest.raises(ModelLoadError, match=r"takes 186 MiB, 2 times while it is read, of 300 MiB in all") as caught:
        handler.initialize(golden.context_for(folder))
    assert not isinstance(caught.value, MemoryError)


@pytest.mark.parametrize(
    ("returned", "body", "content_type"),
    [
        ({"answer": 42}, b'{"answer": 42}', "application/json"),
        ("plain", b"plain", "application/json"),
        (b"\x00\x01", b"\x00\x01", "application/octet-stream"),
        (Response(b"<a/>", "application/xml"), b"<a/>", "application/xml"),
    ],
)
def test_a_handler_of_ones_own_may_answer_what_it_likes(
    tmp_path: Path, returned: Any, body: bytes, content_type: str
) -> None:
    class Own(ModelHandler):
        def postprocess(self, request: Request, outputs: list[np.ndarray]) -> Any:
            return returned

    handle = entry_point(Own)
    assert ask(load(models.multiplier(tmp_path), handle), [[1, 2, 3, 4]], handle) == (200, content_type, body)


def test_bodies_that_mms_has_already_decoded_are_read(tmp_path: Path) -> None:
    context = load(models.multiplier(tmp_path))
    for body, content_type in (
        ([[1, 2, 3, 4]], "application/json"),
        ({"instances": [[1, 2, 3, 4]]}, "application/json"),
        ("1,2,3,4", "text/csv"),
    ):
        golden.call(model_handler.handle, context, ({"Content-Type": content_type}, b"x"))  # sets the headers
        (answer,) = model_handler.handle([{"body": body}], context) or []
        assert json.loads(answer) == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}


def test_the_default_accept_is_used_where_a_request_leaves_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
    context = load(models.multiplier(tmp_path))
    assert ask(context, [[1, 2, 3, 4]])[1:] == ("text/csv", b"2.0,4.0,6.0,8.0\n")
    assert ask(context, [[1, 2, 3, 4]], Accept="*/*")[1] == "text/csv"
    assert ask(context, [[1, 2, 3, 4]], Accept="application/json")[1] == "application/json"


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    context = load(models.multiplier(tmp_path, factor=3e38))
    status, _, body = ask(context, [[1, 2, -2, 0]])
    assert status == 200
    assert json.loads(body)["predictions"][0][1:3] == [None, None]
    assert b"Infinity" not in body and b"NaN" not in body


def test_the_five_best_classes_are_worded_as_the_public_sample_does(tmp_path: Path) -> None:
    folder = models.tiny_mlp(tmp_path, features=2, classes=7, labels=True)
    labels = ["n02119022 red fox, Vulpes vulpes", *(f"ü{n}" for n in range(6))]
    (folder / "synset.txt").write_text("\n".join(labels) + "\n\n", encoding="utf-8")
    context = load(folder)
    _, _, verbose = ask(context, [[1, 2]], Accept="application/json;verbose")
    probabilities = json.loads(verbose)["probabilities"][0]
    order = sorted(range(7), key=lambda position: -probabilities[position])[:5]
    status, content_type, body = ask(context, [[1, 2]])
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == [
        f"probability={probabilities[position]:f}, class={labels[position]}" for position in order
    ]
    _, _, two = ask(context, [[1, 2], [1, 2]])
    assert json.loads(two) == [json.loads(body)] * 2


def test_probabilities_come_from_logits_and_predictions_stay_plain(tmp_path: Path) -> None:
    context = load(models.tiny_mlp(tmp_path, labels=True, logits=True))
    answer = json.loads(ask(context, [[1, 2, 3, 4]], Accept="application/json;verbose")[2])
    (logits,), (probabilities,) = answer["predictions"], answer["probabilities"]
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    assert answer["predicted_label"] == answer["labels"][int(np.argmax(logits))]
    csv = ask(context, [[1, 2, 3, 4]], Accept="text/csv")[2]
    np.testing.assert_allclose([float(number) for number in csv.decode().split(",")], logits)


def test_labels_that_are_not_as_many_as_the_classes_fail_the_load(tmp_path: Path) -> None:
    folder = models.tiny_mlp(tmp_path, classes=3, labels=True)
    (folder / "synset.txt").write_text("one\ntwo\n")
    with pytest.raises(ModelLoadError, match=r"synset.txt has 2 labels, the model's output 3 classes"):
        load(folder)


def test_labels_that_are_not_text_fail_the_load(tmp_path: Path) -> None:
    folder = models.tiny_mlp(tmp_path, classes=1, labels=True)
    (folder / "synset.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelLoadError, match="UTF-8"):
        load(folder)


def test_an_npy_answer_is_read_by_numpy(tmp_path: Path) -> None:
    context = load(models.multiplier(tmp_path))
    status, content_type, body = ask(context, [[1, 2, 3, 4]], Accept="application/x-npy")
    assert (status, content_type) == (200, "application/x-npy")
    assert np.load(io.BytesIO(body), allow_pickle=False).tolist() == [[2, 4, 6, 8]]


def test_garbage_of_every_kind_is_answered_and_never_raises(tmp_path: Path) -> None:
    context = load(models.tiny_classifier(tmp_path))
    dice = np.random.RandomState(3)
    bodies = [b"", b"\x00", b"[", b"{}", b"null", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", base64.b64encode(png())]
    bodies += [dice.bytes(dice.randint(1, 300)) for _ in range(30)]
    bodies += [png()[: dice.randint(1, 2000)] for _ in range(10)]
    for content_type in (
        "application/json",
        "text/csv",
        "application/x-npy",
        "image/jpeg",
        "",
        "application/octet-stream",
    ):
        answers = golden.call(
            model_handler.handle, context, *(({"Content-Type": content_type}, body) for body in bodies)
        )
        for status, answer_type, answer in answers:
            assert status in (400, 415), answer
            assert answer_type == "application/json"
            assert json.loads(answer)["code"] == status


def test_the_handler_in_the_docs_works_as_it_stands(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    module: dict[str, Any] = {}
    exec(code, module)
    context = load(models.multiplier(tmp_path), module["handle"])
    answer = ask(context, [[255, 0, 510, 0]], module["handle"], **{"X-Amzn-SageMaker-Custom-Attributes": "7"})
    assert json.loads(answer[2]) == {"best": [2], "trace": "7"}


def test_the_preprocessor_config_in_the_docs_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    (config,) = re.findall(r'```json\n(\{"do_resize".*?)```', page, re.DOTALL)
    folder = models.tiny_classifier(tmp_path, input_shape=(1, 3, 32, 32))
    (folder / "preprocessor_config.json").write_text(config)
    context = load(folder)
    ((status, _, _),) = golden.call(model_handler.handle, context, ({"Content-Type": "image/png"}, png()))
    assert status == 200


@pytest.mark.parametrize("network", ["cifar_resnet20_v1", "cifar_resnet56_v1"])
def test_real_cifar_models_see_a_cat(tmp_path: Path, shared: Path, network: str) -> None:
    context = load(models.cifar_model(tmp_path, shared, network))
    image = (shared / "images" / "cat.jpg").read_bytes()
    ((status, _, body),) = golden.call(model_handler.handle, context, ({"Content-Type": "application/x-image"}, image))
    assert status == 200
    best = json.loads(body)[0]
    probability, label = best.removeprefix("probability=").split(", class=")
    assert label == "cat" and float(probability) > 0.9, best
