"""Golden requests over HTTP: each content type in and out, and each fault with its status and message.

All of them run in process, too (``tests/unit/test_model_handler_requests.py``), and a dozen in the image.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.conftest import DOCKER_MARKS, HERE, IN_IMAGE
from tests.harness import requests as golden
from tests.harness.requests import GoldenRequest
from tests.harness.server import ServerProcess

# What the image could lack: a decoder of images, a library of a content type, a part of the handler.
IN_THE_IMAGE_TOO = {
    "json_rows",
    "json_by_name",
    "csv_rows",
    "npy_rows",
    "image_jpeg",
    "image_png",
    "image_webp",
    "image_multipart",
    "two_outputs",
    "json_syntax",
    "npy_pickle",
    "content_type_unknown",
    "onnx_text_csv",
    "onnx_two_heads",
    "onnx_zipmap",
}


@pytest.fixture(scope="module")
def model_for(server: ServerProcess) -> Iterator[Callable[[GoldenRequest], str]]:
    """The name of the loaded model that a request is for; each is loaded once."""
    names: dict[str, str] = {}

    def load(request: GoldenRequest) -> str:
        key = json.dumps([request.model, request.model_arguments], sort_keys=True)
        if key not in names:
            name = f"golden-{uuid.uuid4().hex}-{request.model}"  # the server may outlive this fixture
            request.make_model(server.model_dir(name))
            answer = server.load(name)
            assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
            names[key] = name
        return names[key]

    yield load
    for name in names.values():
        assert server.unload(name).status_code == 200


ALL = [(kind, each) for kind in ("valid", "invalid") for each in golden.load(kind)]
PLACES = [pytest.param(HERE, each, id=f"{HERE}-{kind}-{each.name}") for kind, each in ALL]
PLACES += [
    pytest.param(IN_IMAGE, each, id=f"{IN_IMAGE}-{kind}-{each.name}", marks=DOCKER_MARKS)
    for kind, each in ALL
    if each.name in IN_THE_IMAGE_TOO
]


@pytest.mark.parametrize(("server", "request_"), PLACES, indirect=["server"])
def test_a_request_gets_its_answer(
    server: ServerProcess, model_for: Callable[[GoldenRequest], Any], request_: GoldenRequest
) -> None:
    name = model_for(request_)
    headers = dict(request_.headers)
    accept = headers.pop("Accept", None)
    answer = server.invoke(name, request_.body, headers.pop("Content-Type", None), accept, headers)
    request_.check(answer.status_code, answer.headers.get("Content-Type"), answer.content)
