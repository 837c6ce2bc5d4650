"""A model's output as the body of a response, in a form that the request's Accept allows.

    application/json           with labels: the five best classes as "probability=0.244390, class=red fox", a list per
                               sample if there are several; without labels: {"predictions": …}
    application/json;verbose   {"predictions": …}; with labels also "probabilities", "labels" and "predicted_label"
    text/csv                   one row of numbers per sample
    application/x-npy          the output as numpy.save writes it

``predictions`` is the plain output of the network, (N, …) in nested lists, or an object of these by name where there
are several outputs. JSON has no NaN or infinity: they become null.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mme.errors import NotAcceptable
from mme.handler.payload import CSV, JSON, NPY

VERBOSE = "application/json;verbose"
BEST = 5
Probabilities = Callable[[np.ndarray], np.ndarray]  # the first output (N, classes) as probabilities


@dataclass(frozen=True)
class Response:
    """The body of an answer and its Content-Type."""

    body: bytes
    content_type: str


OF_ONE_OUTPUT = (JSON, VERBOSE, CSV, NPY)
OF_SEVERAL_OUTPUTS = (JSON, VERBOSE)


@lru_cache(maxsize=256)
def negotiate(
    accept: str, default: str | None = None, outputs: int = 1, available: tuple[str, ...] | None = None
) -> str:
    """The type to answer with, of ``available``; ``default`` where ``accept`` leaves it open.

    ``available`` is ``OF_ONE_OUTPUT`` or ``OF_SEVERAL_OUTPUTS`` unless the model answers in other ways. Reads lists,
    wildcards and q-values (RFC 9110, 12.5.1): the highest q wins, of equals the first in the list. Raises
    ``NotAcceptable``.
    """
    wanted, source = accept.strip(), "Accept"
    if wanted in ("", "*/*") and default:
        wanted, source = default, "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT"
    wanted = wanted or "*/*"
    entries = [_parse_entry(entry) for entry in wanted.split(",")]
    refused = {media_type for media_type, quality in entries if quality <= 0}
    available = available or (OF_ONE_OUTPUT if outputs == 1 else OF_SEVERAL_OUTPUTS)
    for media_type, quality in sorted(entries, key=lambda entry: -entry[1]):
        for candidate in available:
            if quality > 0 and candidate not in refused and _covers(media_type, candidate):
                return candidate
    several = "" if outputs == 1 else f" (the model has {outputs} outputs, which fit into JSON only)"
    raise NotAcceptable(f"{source} {wanted!r} cannot be produced; it can be {', '.join(available)}{several}.")


def _parse_entry(entry: str) -> tuple[str, float]:
    """Media type and q-value of one entry of an Accept header; of other parameters only ``verbose`` counts."""
    media_type, *parameters = (part.strip().lower() for part in entry.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter == "verbose":
            media_type += ";verbose"
        elif parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return media_type, quality


def _covers(pattern: str, media_type: str) -> bool:
    return pattern in (media_type, "*/*", media_type.split("/")[0] + "/*")


class Responder:
    """Makes the responses of one model."""

    def __init__(self, output_names: Sequence[str], labels: Sequence[str] | None, probabilities: Probabilities) -> None:
        self._output_names = output_names
        self._labels = labels
        self._probabilities = probabilities

    def negotiate(self, accept: str, default: str | None) -> str:
        """The type to answer a request with. Raises ``NotAcceptable``."""
        return negotiate(accept, default, len(self._output_names))

    def respond(self, outputs: list[np.ndarray], media_type: str) -> Response:
        """``outputs``: one array (N, …) per output of the model; ``media_type``: what ``negotiate`` chose."""
        if media_type in (CSV, NPY) and outputs[0].dtype == object:
            raise NotAcceptable(f"The model's output is no array of numbers or texts: it fits into {JSON} only.")
        if media_type == CSV:
            return Response(_csv(outputs[0]), CSV)
        if media_type == NPY:
            return Response(as_npy(outputs[0]), NPY)
        if self._labels is None:
            return Response(as_json({"predictions": self._predictions(outputs)}), JSON)
        probabilities = self._probabilities(outputs[0])
        if media_type == JSON:
            best = [self._best(row) for row in probabilities]
            return Response(as_json(best[0] if len(best) == 1 else best), JSON)
        predicted = [self._labels[position] for position in probabilities.argmax(axis=1)]
        answer = {
            "predictions": self._predictions(outputs),
            "probabilities": plain(probabilities),
            "labels": self._labels,
            "predicted_label": predicted[0] if len(predicted) == 1 else predicted,
        }
        return Response(as_json(answer), VERBOSE)

    def _predictions(self, outputs: list[np.ndarray]) -> Any:
        if len(outputs) == 1:
            return plain(outputs[0])
        return {name: plain(rows) for name, rows in zip(self._output_names, outputs, strict=True)}

    def _best(self, row: np.ndarray) -> list[str]:
        labels = self._labels or ()
        order = np.argsort(row)[::-1][:BEST]
        return [f"probability={row[position]:f}, class={labels[position]}" for position in order]


def plain(array: np.ndarray) -> Any:
    """Nested lists; what JSON cannot say, NaN and infinity, becomes None."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        values = array.astype(object)
        values[~np.isfinite(array)] = None
        return values.tolist()
    return array.tolist()


_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make one each time


def as_json(value: Any) -> bytes:
    """JSON in UTF-8. Raises ``ValueError`` for NaN and infinity."""
    return _encode_json(value).encode()


def as_npy(array: np.ndarray) -> bytes:
    """As ``numpy.save`` writes it; objects are refused with ``ValueError``."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _csv(array: np.ndarray) -> bytes:
    rows = array.reshape(len(array), -1).tolist()
    if array.dtype.kind == "U":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()
    return "".join(",".join(map(repr, row)) + "\n" for row in rows).encode()
