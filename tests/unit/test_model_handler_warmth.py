"""A load leaves nothing to be done that a later request would not do; in a fresh process, as a spawned worker is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mms.context import Context

import model_handler
from mme.frameworks.onnx import sample
from mme.handler import warmup
from mme.handler.images import ImageReader
from mme.handler.payload import Request
from model_handler import ModelHandler, entry_point
from tests.harness import models
from tests.harness import requests as golden
from tests.harness.programs import run_with_mxnet

IMAGE, ROW = (1, 3, 224, 224), (1, 3, 32, 32)

# For each content type, in a process of its own that has loaded the model: prints how many functions each of the first
# ten requests calls, in Python and in C, and what it imports. MXNet is imported once for all and has computed nothing.
# How long requests take is measured by ./scripts/bench cold_load.
FIRST_TEN = """
import json
import os
import sys
from pathlib import Path
import mxnet
import model_handler
from tests.harness import requests as golden
from tests.harness.bodies import body

def first_ten(model_dir, content_type, shape):
    sent = {"Content-Type": content_type}, body(content_type, shape)
    context = golden.context_for(Path(model_dir))
    model_handler.handle(None, context)
    calls, imported = [], []

    def count(frame, event, argument):
        calls[-1] += event in ("call", "c_call")

    for _ in range(10):
        calls.append(0)
        before = set(sys.modules)
        sys.setprofile(count)
        answers = golden.call(model_handler.handle, context, sent)
        sys.setprofile(None)
        imported.append(sorted(set(sys.modules) - before))
        assert answers[0][0] == 200, answers
    return [content_type, calls, imported]

for model_dir, content_type, shape in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        print(json.dumps(first_ten(model_dir, content_type, shape)), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, content_type
"""
TYPES = {
    "application/json": ROW,
    "text/csv": ROW,
    "application/x-npy": IMAGE,
    "image/png": IMAGE,
    "image/jpeg": IMAGE,
}


@pytest.fixture(scope="module")
def first_ten(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[int], list[list[str]]]]:
    """Of each content type the calls and the imports of the first ten requests."""
    folders = {}
    for shape in (ROW, IMAGE):
        folders[shape] = models.tiny_classifier(tmp_path_factory.mktemp("model"), input_shape=shape)
    asked = [(str(folders[shape]), content_type, shape) for content_type, shape in TYPES.items()]
    said = run_with_mxnet(FIRST_TEN, json.dumps(asked))
    return {content_type: (calls, imported) for content_type, calls, imported in map(json.loads, said.splitlines())}


@pytest.mark.parametrize("content_type", TYPES)
def test_the_first_request_of_a_fresh_process_does_nothing_that_the_tenth_does_not(
    first_ten: dict[str, tuple[list[int], list[list[str]]]], content_type: str
) -> None:
    calls, imported = first_ten[content_type]
    assert imported == [[]] * 10
    assert calls[0] <= 1.02 * calls[9], calls


def test_a_handler_of_ones_own_sees_real_requests_alone(tmp_path: Path) -> None:
    seen = []

    class Watching(ModelHandler):
        def preprocess(self, request: Request) -> dict[str, np.ndarray]:
            seen.append("preprocess")
            return super().preprocess(request)

        def inference(self, arrays: Any) -> list[np.ndarray]:
            seen.append("inference")
            return super().inference(arrays)

        def postprocess(self, request: Request, outputs: list[np.ndarray]) -> Any:
            seen.append("postprocess")
            return super().postprocess(request, outputs)

    handle = entry_point(Watching)
    context = golden.context_for(models.multiplier(tmp_path))
    handle(None, context)
    assert seen == []
    golden.call(handle, context, ({"Content-Type": "application/json"}, b"[[1, 2, 3, 4]]"))
    assert seen == ["preprocess", "inference", "postprocess"]


def test_every_request_of_the_warm_up_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: dict[str, bytes] = {}
    answer_requests = warmup.answer_requests

    def listened(handle: Any) -> None:
        def listening(data: Any, context: Context) -> list[bytes]:
            (body,) = handle(data, context)
            assert context.get_response_status(0)[0] in (None, 200), body
            answered[context.get_response_content_type(0)] = body
            return [body]

        answer_requests(listening)

    monkeypatch.setattr(warmup, "answer_requests", listened)
    model_handler.handle(None, golden.context_for(models.multiplier(tmp_path)))
    assert set(answered) == {"application/json", "text/csv", "application/x-npy"}
    assert answered["text/csv"] == b"0.25,0.75\n"
    assert json.loads(answered["application/json"])[0] == "probability=0.750000, class=second"


def test_images_are_read_in_advance_once_where_the_model_need_not_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed = []
    warm_up = ImageReader.warm_up

    def counted(reader: ImageReader) -> np.ndarray:
        warmed.append(reader)
        return warm_up(reader)

    monkeypatch.setattr(ImageReader, "is_warm", False)
    monkeypatch.setattr(ImageReader, "warm_up", counted)
    sample.write(tmp_path)
    for _ in range(3):
        model_handler.handle(None, golden.context_for(tmp_path))
    assert len(warmed) == 1


def test_a_model_whose_images_are_not_resized_loads(tmp_path: Path) -> None:
    models.tiny_classifier(tmp_path, input_shape=(1, 3, 20, 30))
    (tmp_path / "preprocessor_config.json").write_text('{"do_resize": false}')
    context = golden.context_for(tmp_path)
    model_handler.handle(None, context)
    assert context._model_service.initialized


OPENED = """
import json
import os
import sys
from pathlib import Path
import mxnet
import model_handler
from tests.harness import requests as golden
from tests.harness.bodies import body

context = golden.context_for(Path(sys.argv[1]))
sent = {"Content-Type": "application/json"}, body("application/json", (1, 4))
model_handler.handle(None, context)
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
for _ in range(50):
    assert golden.call(model_handler.handle, context, sent)[0][0] == 200
print(json.dumps(opened))
"""


def test_warm_requests_open_no_file(tmp_path: Path) -> None:
    assert json.loads(run_with_mxnet(OPENED, models.tiny_mlp(tmp_path)).splitlines()[-1]) == []
