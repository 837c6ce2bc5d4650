"""Requests that nobody sent, answered within a load, so that the first real one finds all around the model warm.

Python and NumPy do much at the first run of each piece of code: import, fill caches, specialise byte code. A forked
worker copies each page of the zygote that it writes to, if only to count a reference: the first request would
touch some fifty of them. None of that depends on the model, so a tiny one stands in for it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mme.frameworks.base import Predictor, TensorSpec
from mme.frameworks.table import Table
from mme.handler.payload import CSV, JSON, NPY

LABELS = ("first", "second")


class EchoModel(Predictor):
    """Answers its input ``data`` (N, 2)."""

    inputs = (TensorSpec("data", (1, 2)),)
    output_names = ("data",)

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [arrays["data"]]


class EchoTable(EchoModel):
    """The same for models of tables, which read and write in their own ways."""

    table = Table(width=2)


def answer_requests(handle: Callable[[Any, Any], list[bytes]]) -> None:
    """Has ``handle`` answer requests for the ``EchoModel``, as MMS calls it, one of each type."""
    from mms.service import Service

    service = Service("warm-up", None, None, handle, None, 1)
    for content_type, body in _bodies():
        headers = [{"name": b"Content-Type", "value": content_type.encode()}]
        if content_type != JSON:
            headers.append({"name": b"Accept", "value": content_type.encode()})
        parameter = {"name": "body", "contentType": content_type, "value": bytearray(body)}
        service.predict([{"requestId": b"warm-up", "headers": headers, "parameters": [parameter]}])


def _bodies() -> Iterator[tuple[str, bytes]]:
    yield JSON, b"[[0.25, 0.75]]"
    yield CSV, b"0.25,0.75\n"
    array = io.BytesIO()
    np.save(array, np.ones((1, 2), np.float32))
    yield NPY, array.getvalue()
