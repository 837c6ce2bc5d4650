"""Every golden request, over HTTP: each content type in and out, and each fault with its status and message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import requests as golden
from tests.harness.requests import GoldenRequest
from tests.harness.server import ServerProcess


@pytest.fixture(scope="module")
def model_for(server: ServerProcess) -> Iterator[Callable[[GoldenRequest], str]]:
    """The name of the loaded model that a request is for; each is loaded once."""
    names: dict[str, str] = {}

    def load(request: GoldenRequest) -> str:
        key = json.dumps([request.model, request.model_arguments], sort_keys=True)
        if key not in names:
            name = f"golden-{len(names)}-{request.model}"
            request.make_model(server.model_dir(name))
            answer = server.load(name)
            assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
            names[key] = name
        return names[key]

    yield load
    for name in names.values():
        assert server.unload(name).status_code == 200


@pytest.mark.parametrize(
    "request_",
    [pytest.param(each, id=f"{kind}-{each.name}") for kind in ("valid", "invalid") for each in golden.load(kind)],
)
def test_a_request_gets_its_answer(
    server: ServerProcess, model_for: Callable[[GoldenRequest], Any], request_: GoldenRequest
) -> None:
    name = model_for(request_)
    headers = dict(request_.headers)
    accept = headers.pop("Accept", None)
    answer = server.invoke(name, request_.body, headers.pop("Content-Type", None), accept, headers)
    request_.check(answer.status_code, answer.headers.get("Content-Type"), answer.content)
