"""Every golden request, handed to the handler as MMS does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from mms.context import Context

import model_handler
from tests.harness import requests as golden
from tests.harness.requests import GoldenRequest

VALID, INVALID = golden.load("valid"), golden.load("invalid")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[GoldenRequest], Context]:
    """Loads the model of a request; requests for the same model share it."""
    contexts: dict[str, Context] = {}

    def load(request: GoldenRequest) -> Context:
        key = json.dumps([request.model, request.model_arguments])
        if key not in contexts:
            folder: Path = request.make_model(tmp_path_factory.mktemp(request.model) / "model")
            contexts[key] = golden.context_for(folder)
            model_handler.handle(None, contexts[key])
        return contexts[key]

    return load


@pytest.mark.parametrize("request_", VALID + INVALID, ids=lambda request: request.name)
def test_golden_request_gets_its_answer(request_: GoldenRequest, loaded: Callable[[GoldenRequest], Context]) -> None:
    ((status, content_type, body),) = golden.call(
        model_handler.handle, loaded(request_), (request_.headers, request_.body)
    )
    request_.check(status, content_type, body)


def test_there_are_golden_requests_of_both_kinds() -> None:
    assert len(VALID) > 20 and len(INVALID) > 30
    assert all(request.status == 200 for request in VALID)
    assert {request.status for request in INVALID} == {400, 406, 415}


def test_a_batch_of_all_golden_requests_of_a_model_answers_each_as_if_it_were_alone(
    loaded: Callable[[GoldenRequest], Context],
) -> None:
    batch = [
        request for request in VALID + INVALID if request.model == "tiny_classifier" and not request.model_arguments
    ]
    assert len({request.status for request in batch}) >= 3
    answers = golden.call(
        model_handler.handle, loaded(batch[0]), *((request.headers, request.body) for request in batch)
    )
    for request, answer in zip(batch, answers, strict=True):
        request.check(*answer)
