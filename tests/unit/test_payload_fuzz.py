"""Bodies and headers that nobody thought of: the handler answers each, and the next good request as ever."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from mms.context import Context

import model_handler
from tests.harness import models
from tests.harness import requests as golden
from tests.harness.fuzz import CONTENT_TYPES, bodies, headers

GOOD = ({"Content-Type": "application/json"}, b"[[1.0, 2.0, 3.0, 4.0]]")


@functools.cache
def loaded() -> Context:
    """A model of one input with four numbers, loaded once."""
    with tempfile.TemporaryDirectory() as folder:
        context = golden.context_for(models.multiplier(Path(folder), factor=2))
        model_handler.handle(None, context)
    return context


@settings(deadline=None, max_examples=300)
@given(content_type=st.sampled_from(CONTENT_TYPES) | headers, accept=headers, body=bodies)
@example(content_type="application/json", accept="", body=b"[" * 10_000)
@example(content_type="text/csv; charset=none", accept="*/*;q=nan", body=b"1,2,3,4")
def test_every_body_is_answered_and_the_next_request_is_served(content_type: str, accept: str, body: bytes) -> None:
    asked = {"Content-Type": content_type, **({"Accept": accept} if accept else {})}
    (status, answer_type, answer), good = golden.call(model_handler.handle, loaded(), (asked, body), GOOD)
    assert status in (200, 400, 406, 415), answer
    if status != 200:
        assert answer_type == "application/json"
        assert json.loads(answer).keys() == {"code", "type", "message"}
        assert json.loads(answer)["code"] == status
    assert (good[0], json.loads(good[2])) == (200, {"predictions": [[2.0, 4.0, 6.0, 8.0]]})
