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

CONTENT_TYPES = ("application/json", "text/csv", "application/x-npy", "image/png", "application/x-image", "")
GOOD = ({"Content-Type": "application/json"}, b"[[1.0, 2.0, 3.0, 4.0]]")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
envelopes = st.sampled_from(("instances", "inputs", "data")).flatmap(lambda key: st.dictionaries(st.just(key), values))
rows = st.lists(st.lists(st.floats() | st.text(max_size=4), max_size=6).map(lambda row: ",".join(map(str, row))))
bodies = st.one_of(
    st.binary(max_size=300),
    (values | envelopes).map(lambda value: json.dumps(value).encode()),
    rows.map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")),
    st.binary(max_size=100).map(lambda rest: b"\x93NUMPY\x01\x00" + rest),
    st.binary(max_size=100).map(lambda rest: b"\x89PNG\r\n\x1a\n" + rest),
)
# (multipart bodies are taken apart by the front end)
headers = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=30)


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
