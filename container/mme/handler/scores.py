"""What a model of tables predicts, as the body of a response: a value, or a row of values, per sample.

application/json           a list: [395909.25], or of lists for several values per sample
application/json;verbose   {"predictions": [{"score": 395909.25}]}, as SageMaker's own algorithms answer; without a
                           name for the value: {"predictions": [395909.25]}
application/jsonlines      a line per sample: {"score": 395909.25}, or the value
text/csv                   the values of all samples by comma; a line per sample where it has several values
application/x-npy          the array as numpy.save writes it
"""

from __future__ import annotations

import csv
import io

import numpy as np

from mme.handler.payload import CSV, JSON, JSON_LINES, NPY
from mme.handler.responses import VERBOSE, Response, as_json, as_npy, negotiate, plain

AVAILABLE = (JSON, VERBOSE, CSV, JSON_LINES, NPY)


class ScoreResponder:
    """Writes the first output, (N,) or (N, values). ``name`` is what one value is called in objects."""

    def __init__(self, name: str | None = "score") -> None:
        self._name = name

    def negotiate(self, accept: str, default: str | None) -> str:
        """One of ``AVAILABLE``. Raises ``NotAcceptable``."""
        return negotiate(accept, default, available=AVAILABLE)

    def respond(self, outputs: list[np.ndarray], media_type: str) -> Response:
        """``media_type``: what ``negotiate`` chose."""
        scores = outputs[0]
        if media_type == NPY:
            return Response(as_npy(_without_objects(scores)), NPY)
        if media_type == CSV:
            return Response(_csv(scores), CSV)
        values = plain(scores)
        if media_type == JSON:
            return Response(as_json(values), JSON)
        entries = values if self._name is None else [{self._name: value} for value in values]
        if media_type == JSON_LINES:
            return Response(b"".join(as_json(entry) + b"\n" for entry in entries), JSON_LINES)
        return Response(as_json({"predictions": entries}), JSON)


def _csv(scores: np.ndarray) -> bytes:
    rows = scores.reshape(1, -1) if scores.ndim == 1 else scores.reshape(len(scores), -1)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows.tolist())
    return text.getvalue().encode()


def _without_objects(array: np.ndarray) -> np.ndarray:
    """Texts of any length, which are objects, as an array of texts that are as long as the longest."""
    return array.astype(str) if array.dtype.kind not in "biufUS" else array
