"""Request bodies to arrays: one ``Request`` per item of a batch, read by its Content-Type for a model's inputs.

    image/*, application/x-image   one image file, for a model with one input that is an image (images.py)
    application/json               nested lists, {"instances": …}, {"inputs": …}, or an object by input name
    text/csv                       one row per sample, its numbers in the order of the flattened shape
    application/x-npy              one array as numpy.save writes it
    multipart/form-data            a part ``body``, read by its own Content-Type; or one part per input, by its name

Arrays come out as (N, *sample shape) of the input's type: a single sample may leave the N out. What cannot be read
raises ``RequestError`` with a message that names what the model takes.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mme.errors import BadRequest, UnsupportedMediaType
from mme.frameworks.base import TensorSpec, describe_inputs, means_no_memory
from mme.handler.images import ImageReader

JSON, CSV, NPY, MULTIPART = "application/json", "text/csv", "application/x-npy", "multipart/form-data"
_UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_IMAGE_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
_NPY_HEAD = b"\x93NUMPY"
_LONGEST_NPY_HEAD = 65535
# as numpy.save writes it: version 1.0, the length of the head, the head; none of it may mean anything else
_USUAL_NPY_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, )*\d{1,18},?|)\), \} *\n",
    re.DOTALL,
)
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"

Body = bytes | bytearray | str | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Request:
    """One request as MMS hands it over: ``parts`` by name (the body, form parts, query parameters) and headers.

    Header names are lower case here; clients write them as they like. A part may come decoded, as str or parsed JSON:
    stock MMS does that to bodies (``decode_input_request``).
    """

    parts: Mapping[str, Body]
    headers: Mapping[str, str] = field(default_factory=dict)
    part_types: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_mms(cls, parts: Mapping[str, Body], headers: Mapping[str, Any]) -> Request:
        """``headers`` is what ``Context.get_all_request_header`` returns: the types of the parts are among them."""
        texts, types = {}, {}
        for name, value in headers.items():
            if isinstance(value, Mapping):
                types[name] = value.get("content-type") or ""
            else:
                texts[name.lower()] = value
        return cls(parts, texts, types)

    @cached_property
    def content_type(self) -> str:
        """Media type of the request in lower case, without parameters; empty where it has none."""
        return _media_type(self.headers.get("content-type") or self.part_types.get("body", ""))

    @property
    def accept(self) -> str:
        """The Accept header as it came; empty where there is none."""
        return self.headers.get("accept", "")

    @property
    def custom_attributes(self) -> str | None:
        """What the client sent as X-Amzn-SageMaker-Custom-Attributes; the response carries it back."""
        return self.headers.get(CUSTOM_ATTRIBUTES.lower())

    def part_type(self, name: str) -> str:
        """Media type of one part, or of the whole request where that is not multipart."""
        if self.content_type == MULTIPART or name != "body":
            return _media_type(self.part_types.get(name, ""))
        return self.content_type


def _media_type(header: str) -> str:
    return header.split(";", 1)[0].strip().lower()


class BodyReader:
    """Reads the bodies of requests for one model."""

    def __init__(self, inputs: Sequence[TensorSpec], images: ImageReader | None) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._only = inputs[0] if len(inputs) == 1 else None
        self._images = images
        self._takes = f"The model takes {describe_inputs(inputs)}"
        readable = [JSON] if len(inputs) > 1 else [JSON, CSV, NPY] + (["image/*"] if images else [])
        self._readable = ", ".join(readable)

    def read(self, request: Request) -> dict[str, np.ndarray]:
        """All inputs of the model from one request, every one with the same number of samples.

        Raises ``BadRequest`` or ``UnsupportedMediaType``.
        """
        if "body" in request.parts:
            arrays = self._read_body(request.parts["body"], request.part_type("body"))
        elif self._inputs.keys() <= request.parts.keys() and request.content_type == MULTIPART:
            arrays = {
                name: self._read_input(spec, request.parts[name], request.part_type(name))
                for name, spec in self._inputs.items()
            }
        elif request.content_type == MULTIPART:
            raise BadRequest(
                f"The multipart body has no part named body, nor one for each input. {self._takes}; found "
                f"{', '.join(sorted(request.parts)) or 'no part'}."
            )
        else:  # MMS takes forms apart and leaves no body
            raise self._unsupported(request.content_type)
        counts = {name: len(rows) for name, rows in arrays.items()}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{count} for {name}" for name, count in counts.items())
            raise BadRequest(f"The inputs hold different numbers of samples: {shown}. {self._takes}.")
        return arrays

    def _read_body(self, body: Body, media_type: str) -> dict[str, np.ndarray]:
        if not isinstance(body, bytes | bytearray | str) or (media_type == JSON and len(body) > 0):
            return self._read_json(body)
        if self._only is None:
            if len(body) == 0:
                raise self._empty()
            raise UnsupportedMediaType(
                f"A model with {len(self._inputs)} inputs takes {JSON} (an object by input name) or {MULTIPART} (a "
                f"part for each), not {media_type or 'a body without Content-Type'}. {self._takes}."
            )
        return {self._only.name: self._read_input(self._only, body, media_type)}

    def _read_input(self, spec: TensorSpec, body: Body, media_type: str) -> np.ndarray:
        """One input from one body or part."""
        if not isinstance(body, bytes | bytearray | str):
            return self._array(spec, body)
        if media_type in _UNTYPED:
            if len(body) == 0:
                raise self._empty()
            media_type = _sniffed(body) or media_type
        if media_type.startswith("image/") or media_type == "application/x-image":
            if self._images is None:
                raise UnsupportedMediaType(
                    f"{self._takes}, which is not an image (N, channels, height, width). It reads {self._readable}."
                )
            return self._images.read(self._bytes(body))
        if media_type == JSON:
            return self._array(spec, self._parsed(body))
        if media_type == CSV:
            return self._read_csv(spec, body)
        if media_type == NPY:
            return self._read_npy(spec, self._bytes(body))
        raise self._unsupported(media_type)

    def _unsupported(self, media_type: str) -> UnsupportedMediaType:
        return UnsupportedMediaType(
            f"Content-Type {media_type or '(none)'} is not read here; send {self._readable}. {self._takes}."
        )

    def _empty(self) -> BadRequest:
        return BadRequest(f"The body is empty. {self._takes}.")

    def _bytes(self, body: bytes | bytearray | str) -> bytes | bytearray:
        if len(body) == 0:
            raise self._empty()
        return body.encode("utf-8", "surrogateescape") if isinstance(body, str) else body

    # ---- JSON ----

    def _parsed(self, body: bytes | bytearray | str) -> Any:
        if len(body) == 0:
            raise self._empty()
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is not JSON: {_brief(error)}. {self._takes}.") from None

    def _read_json(self, body: Body) -> dict[str, np.ndarray]:
        value = self._parsed(body) if isinstance(body, bytes | bytearray | str) else body
        if isinstance(value, Mapping):
            for key in ("instances", "inputs"):  # as TensorFlow Serving and others have it
                if key in value and key not in self._inputs:
                    value = value[key]
                    break
        if isinstance(value, Mapping):
            return self._by_name(value)
        if isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            return self._by_instance(value)
        if self._only is None:
            raise BadRequest(f"A model with several inputs takes an object by input name. {self._takes}.")
        return {self._only.name: self._array(self._only, value)}

    def _by_name(self, value: Mapping[str, Any]) -> dict[str, np.ndarray]:
        self._check_names(value)
        return {name: self._array(spec, value[name]) for name, spec in self._inputs.items()}

    def _by_instance(self, instances: Sequence[Any]) -> dict[str, np.ndarray]:
        """A list with one object by input name per sample."""
        for instance in instances:
            if not isinstance(instance, Mapping):
                raise BadRequest(f"Some instances are objects by input name, others are not. {self._takes}.")
            self._check_names(instance)
        return {
            name: np.concatenate([self._array(spec, instance[name]) for instance in instances])
            for name, spec in self._inputs.items()
        }

    def _check_names(self, value: Mapping[str, Any]) -> None:
        if value.keys() != self._inputs.keys():
            found = ", ".join(sorted(map(str, value))[:10]) or "nothing"
            raise BadRequest(
                f"The object must name the model's inputs and nothing else; it has {found}. {self._takes}."
            )

    def _array(self, spec: TensorSpec, value: Any) -> np.ndarray:
        """Nested lists as an array; None stands for a missing number."""
        if _holds_text(value):  # NumPy would read numbers from it, "1_000" among them
            raise BadRequest(f"Input {spec.name} must be numbers in nested lists, not text. {self._takes}.")
        try:
            array = np.array(value, dtype=np.float64)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            if means_no_memory(error):
                raise
            raise BadRequest(
                f"Input {spec.name} must be numbers in nested lists of equal lengths ({_brief(error)}). {self._takes}."
            ) from None
        return self._samples(spec, array)

    # ---- CSV and NPY ----

    def _read_csv(self, spec: TensorSpec, body: bytes | bytearray | str) -> np.ndarray:
        try:
            text = body if isinstance(body, str) else body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadRequest(f"The body is not text in UTF-8. {self._takes}.") from None
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise self._empty()
        columns = math.prod(spec.sample_shape)
        if spec.allows_missing:
            lines = [",".join(cell.strip() or "nan" for cell in line.split(",")) for line in lines]
        try:
            rows = np.loadtxt(lines, delimiter=",", dtype=np.float64, comments=None, ndmin=2)
        except ValueError as error:
            if means_no_memory(error):
                raise
            raise BadRequest(
                f"The CSV must have {columns} numbers in each row, one row per sample, without a header "
                f"({_brief(error)}). {self._takes}."
            ) from None
        if rows.shape[1] != columns:
            raise BadRequest(f"The CSV has {rows.shape[1]} numbers in a row, not {columns}. {self._takes}.")
        return self._samples(spec, rows.reshape(len(rows), *spec.sample_shape))

    def _read_npy(self, spec: TensorSpec, body: bytes | bytearray) -> np.ndarray:
        """Reads the head of the file apart from its data: ``numpy.load`` allocates whatever a head claims."""
        try:
            shape, fortran_order, dtype, start = _npy_head(body)
            if dtype.kind not in "biuf":
                raise ValueError(f"its type is {dtype}, not numbers")
            length = math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or length != len(body) - start:
                raise ValueError(f"its head says {length} bytes of data, it has {len(body) - start}")
            array = np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")
        except (ValueError, TypeError, SyntaxError, RecursionError, EOFError) as error:
            raise BadRequest(
                f"The body is not an array as numpy.save writes it: {_brief(error)}. {self._takes}."
            ) from None
        return self._samples(spec, array)

    # ---- all ----

    def _samples(self, spec: TensorSpec, array: np.ndarray) -> np.ndarray:
        """Checks shape and numbers, and converts: (N, *sample shape) of the input's type."""
        if array.size == 0:
            raise BadRequest(f"Input {spec.name} holds no sample. {self._takes}.")
        if array.shape == spec.sample_shape:
            array = array[np.newaxis]
        if array.ndim != len(spec.shape) or array.shape[1:] != spec.sample_shape:
            raise BadRequest(f"Input {spec.name} has the shape {array.shape}. {self._takes}, or one sample.")
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(spec.dtype, copy=False)
        if spec.dtype.kind == "f":
            good = np.isfinite(converted).all() if not spec.allows_missing else not np.isinf(converted).any()
            problem = f"is not a finite {spec.dtype} number"
        else:
            good = array.dtype == spec.dtype or bool((converted == array).all())
            problem = f"is not a number of type {spec.dtype}"
        if not good:
            raise BadRequest(f"A value of input {spec.name} is missing or {problem}. {self._takes}.")
        return converted


def _npy_head(body: bytes | bytearray) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order, type, and where the data starts. Raises one of the many errors of NumPy's reader.

    NumPy's own asks Python's compiler to read the head, which is slow, the first time above all, and fills memory.
    """
    usual = _USUAL_NPY_HEAD.match(body)
    if usual:
        head_bytes, kind, fortran_order, shape = usual.groups()
        start = usual.end(1) + int.from_bytes(head_bytes, "little")
        if usual.end() == start:
            numbers = tuple(map(int, shape.replace(b",", b" ").split()))
            return numbers, fortran_order == b"True", np.dtype(kind.decode()), start
    file = io.BytesIO(body)
    if np.lib.format.read_magic(file) == (1, 0):
        found = np.lib.format.read_array_header_1_0(file)
    elif int.from_bytes(body[8:12], "little") <= _LONGEST_NPY_HEAD:
        found = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError("its head is too long")
    return (*found, file.tell())


def _sniffed(body: bytes | bytearray | str) -> str:
    """The media type that the first bytes show; empty where they show none."""
    if isinstance(body, str):
        return JSON if body.lstrip()[:1] in ("[", "{") else ""
    if body.startswith(_NPY_HEAD):
        return NPY
    if body.startswith(_IMAGE_HEADS):
        return "image/*"
    return JSON if bytes(body[:64]).lstrip()[:1] in (b"[", b"{") else ""


def _holds_text(value: Any) -> bool:
    """Is there text anywhere in these nested lists?"""
    lists: list[Sequence[Any]] = [[value]]
    while lists:
        entries = lists.pop()
        types = set(map(type, entries))
        if not types.isdisjoint((str, bytes, bytearray)):
            return True
        if not types.isdisjoint((list, tuple)):
            lists += [entry for entry in entries if isinstance(entry, list | tuple)]
    return False


def _brief(error: Exception) -> str:
    """An error's words in one line of at most 120 characters, without the advice that NumPy puts after a semicolon."""
    words = " ".join(str(error).split(";")[0].split()) or type(error).__name__
    return words if len(words) <= 120 else words[:117] + "..."
