"""A load leaves nothing to be done that a later request would not do; in a fresh process, as a spawned worker is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mms.context import Context

import model_handler
from mme.handler import warmup
from mme.handler.payload import Request
from model_handler import ModelHandler, entry_point
from tests.harness import models
from tests.harness import requests as golden
from tests.harness.programs import run_python

IMAGE, ROW = (1, 3, 224, 224), (1, 3, 32, 32)

# Prints how many functions each of the first ten requests of one type calls, in Python and in C, and what it imports.
# How long they take is measured by ./scripts/bench cold_load.
FIRST_TEN = """
import json
import sys
from pathlib import Path
import model_handler
from tests.harness import requests as golden
from tests.harness.bodies import body

content_type = sys.argv[2]
sent = {"Content-Type": content_type}, body(content_type, json.loads(sys.argv[3]))
context = golden.context_for(Path(sys.argv[1]))
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
print(json.dumps([calls, imported]))
"""


@pytest.mark.parametrize(
    ("content_type", "shape"),
    [
        ("application/json", ROW),
        ("text/csv", ROW),
        ("application/x-npy", IMAGE),
        ("image/png", IMAGE),
        ("image/jpeg", IMAGE),
    ],
)
def test_the_first_request_of_a_fresh_process_does_nothing_that_the_tenth_does_not(
    tmp_path: Path, content_type: str, shape: tuple[int, int, int, int]
) -> None:
    models.tiny_classifier(tmp_path, input_shape=shape)
    calls, imported = json.loads(run_python(FIRST_TEN, tmp_path, content_type, json.dumps(shape)))
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


def test_a_model_whose_images_are_not_resized_loads(tmp_path: Path) -> None:
    models.tiny_classifier(tmp_path, input_shape=(1, 3, 20, 30))
    (tmp_path / "preprocessor_config.json").write_text('{"do_resize": false}')
    context = golden.context_for(tmp_path)
    model_handler.handle(None, context)
    assert context._model_handler.initialized
