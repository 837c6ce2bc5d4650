"""Bodies and headers that nobody thought of, as strategies for Hypothesis."""

from __future__ import annotations

import json

from hypothesis import strategies as st

CONTENT_TYPES = ("application/json", "text/csv", "application/x-npy", "image/png", "application/x-image", "")

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
