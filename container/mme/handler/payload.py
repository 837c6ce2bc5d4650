"""Request bodies to arrays: one ``Request`` per item of a batch, read by its Content-Type for a model's inputs.

    image/*, application/x-image   one image file, for a model with one input that is an image (images.py)
    application/json               nested lists, {"instances": …}, {"inputs": …}, or an object by input name
    application/jsonlines          a line of JSON per sample
    text/csv                       one row per sample, its numbers in the order of the flattened shape
    application/x-npy              one array as numpy.save writes it
    application/x-npz              arrays as numpy.savez writes them, or a sparse matrix as scipy.sparse.save_npz does
    multipart/form-data            a part ``body``, read by its own Content-Type; or one part per input, by its name

Where the model takes images, they may also come as base64 in JSON and as bytes in an NPY file. Arrays come out as
(N, *sample shape) of the input's type: a single sample may leave the N out. What cannot be read raises ``RequestError``
with a message that names what the model takes. formats.py reads the formats; here they meet the model's inputs.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mme.errors import BadRequest, UnsupportedMediaType
from mme.frameworks.base import TensorSpec, describe_inputs, means_no_memory
from mme.handler import formats
from mme.handler.images import ImageReader

JSON, CSV, NPY, NPZ = "application/json", "text/csv", "application/x-npy", "application/x-npz"
JSON_LINES, MULTIPART = "application/jsonlines", "multipart/form-data"
LINES_TYPES = (JSON_LINES, "application/x-jsonlines", "application/jsonl", "application/x-ndjson")
UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_IMAGE_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF", b"II*\x00", b"MM\x00*")
_LEAST_UNFOLDED_BYTES = 64 << 20
_INEXACT = 2.0**53  # from here on float64 does not hold every whole number
_JSON_BYTES = {b"[": 64, b"{": 72, b",": 32}  # what Python takes for each, with what follows it
_MOST_JSON_BYTES = max(_JSON_BYTES.values())
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
            if isinstance(value, str):
                texts[name.lower()] = value
            else:
                types[name] = value.get("content-type") or ""
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


def most_unfolded_bytes(max_megapixels: int) -> int:
    """What a request may be unfolded to: as much as the largest image, 4 bytes a pixel, and 64 MiB in any case."""
    return max(max_megapixels * 4_000_000, _LEAST_UNFOLDED_BYTES)


class BodyReader:
    """Reads the bodies of requests for one model. ``most_bytes``: see ``most_unfolded_bytes``."""

    def __init__(
        self, inputs: Sequence[TensorSpec], images: ImageReader | None, most_bytes: int = _LEAST_UNFOLDED_BYTES
    ) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._only = inputs[0] if len(inputs) == 1 else None
        self._images = images
        self._most_bytes = most_bytes
        self._takes = f"The model takes {describe_inputs(inputs)}"
        several = [JSON, JSON_LINES, NPZ]
        readable = several if len(inputs) > 1 else [JSON, CSV, NPY, JSON_LINES, NPZ] + (["image/*"] if images else [])
        self.readable = ", ".join(readable)

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
        if media_type in LINES_TYPES:
            return self._read_json_lines(body)
        if media_type == NPZ or (media_type in UNTYPED and sniffed(body) == NPZ):
            return self._read_npz(self._bytes(body))
        if self._only is None:
            if len(body) == 0:
                raise self._empty()
            raise UnsupportedMediaType(
                f"A model with {len(self._inputs)} inputs takes {JSON} (an object by input name), {NPZ} (an array "
                f"for each) or {MULTIPART} (a part for each), not {media_type or 'a body without Content-Type'}. "
                f"{self._takes}."
            )
        return {self._only.name: self._read_input(self._only, body, media_type)}

    def _read_input(self, spec: TensorSpec, body: Body, media_type: str) -> np.ndarray:
        """One input from one body or part."""
        if not isinstance(body, bytes | bytearray | str):
            return self._array(spec, body)
        if media_type in UNTYPED:
            if len(body) == 0:
                raise self._empty()
            media_type = sniffed(body) or media_type
        if media_type.startswith("image/") or media_type == "application/x-image":
            if self._images is None:
                raise UnsupportedMediaType(
                    f"{self._takes}, which is not an image (N, channels, height, width). It reads {self.readable}."
                )
            return self._images.read(self._bytes(body))
        if media_type == JSON:
            value = self._parsed(body)
            found = self._images_in(value)
            return self._array(spec, value) if found is None else self._read_images(found)
        if media_type == CSV:
            return self._read_csv(spec, body)
        if media_type == NPY:
            return self._read_npy(spec, self._bytes(body))
        if media_type == NPZ:
            return self._read_npz(self._bytes(body))[spec.name]
        raise self._unsupported(media_type)

    def _unsupported(self, media_type: str) -> UnsupportedMediaType:
        return UnsupportedMediaType(
            f"Content-Type {media_type or '(none)'} is not read here; send {self.readable}. {self._takes}."
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
        if len(body) * _MOST_JSON_BYTES > self._most_bytes:
            self._check_json(body.encode() if isinstance(body, str) else body)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"The body is not JSON: {brief(error)}. {self._takes}.") from None

    def _check_json(self, body: bytes | bytearray) -> None:
        """Raises ``BadRequest`` where the lists and numbers of a large body would take too much memory."""
        parsed_bytes = sum(body.count(sign) * size_bytes for sign, size_bytes in _JSON_BYTES.items())
        if parsed_bytes > self._most_bytes:
            raise BadRequest(
                f"The JSON holds too many values: read, they take about {parsed_bytes >> 20} MiB, more than "
                f"{self._most_bytes >> 20} MiB (MME_MAX_IMAGE_MEGAPIXELS raises it). Send fewer samples at a time, or "
                f"{NPY}. {self._takes}."
            )

    def _read_json_lines(self, body: bytes | bytearray | str) -> dict[str, np.ndarray]:
        """A line of JSON per sample; a single line may hold what a JSON body may."""
        values = [self._features_of(value) for value in self._lines(body)]
        return self._read_json(values[0] if len(values) == 1 else values)

    def _lines(self, body: bytes | bytearray | str) -> list[Any]:
        """The values of lines of JSON, at least one."""
        if len(body) * _MOST_JSON_BYTES > self._most_bytes:
            self._check_json(body.encode() if isinstance(body, str) else body)
        separator: Any = "\n" if isinstance(body, str) else b"\n"
        lines = [line for line in body.split(separator) if line.strip()]
        if not lines:
            raise self._empty()
        try:
            return [json.loads(line) for line in lines]
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"A line of the body is not JSON: {brief(error)}. {self._takes}.") from None

    def _features_of(self, value: Any) -> Any:
        """The sample in ``{"features": …}``, as SageMaker's own algorithms have it, where no input is called so."""
        if isinstance(value, Mapping) and value.keys() == {"features"} and "features" not in self._inputs:
            return value["features"]
        return value

    def _read_json(self, body: Body) -> dict[str, np.ndarray]:
        value = self._parsed(body) if isinstance(body, bytes | bytearray | str) else body
        if isinstance(value, Mapping):
            for key in ("instances", "inputs"):  # as TensorFlow Serving and others have it
                if key in value and key not in self._inputs:
                    value = value[key]
                    break
        if self._only is not None and (found := self._images_in(value)) is not None:
            return {self._only.name: self._read_images(found)}
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
        if spec.holds_text:
            return self._samples(spec, self._texts(spec, value))
        if _holds_text(value):  # NumPy would read numbers from it, "1_000" among them
            raise BadRequest(f"Input {spec.name} must be numbers in nested lists, not text. {self._takes}.")
        try:
            array = np.array(value, dtype=np.float64)
            if spec.dtype.kind in "iu" and spec.dtype.itemsize == 8 and np.abs(array).max(initial=0) >= _INEXACT:
                array = np.array(value)  # whole numbers that float64 does not tell apart
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            if means_no_memory(error):
                raise
            raise BadRequest(
                f"Input {spec.name} must be numbers in nested lists of equal lengths ({brief(error)}). {self._takes}."
            ) from None
        return self._samples(spec, array)

    def _texts(self, spec: TensorSpec, value: Any) -> np.ndarray:
        """Nested lists of texts as an array of them."""
        try:
            array = np.array(value, dtype=object)
            good = all(isinstance(entry, str) for entry in array.flat)
        except (ValueError, RecursionError):
            good = False
        if not good:
            raise BadRequest(f"Input {spec.name} must be texts in nested lists of equal lengths. {self._takes}.")
        return array

    # ---- images in other bodies ----

    def _images_in(self, value: Any) -> list[str] | None:
        """The texts in base64 of a JSON value that holds images and nothing else; None where it does not.

        ``{"b64": text}``, ``{"image": text}``, a text under the input's name, either of these in an object of one
        entry, and lists of all of them; a text alone.
        """
        if self._images is None or self._only is None:
            return None
        if isinstance(value, Sequence) and not isinstance(value, str) and value:
            found = (
                [self._image_in(entry) for entry in value] if not isinstance(value[0], list | int | float) else [None]
            )
            return None if None in found else [text for text in found if text is not None]
        text = self._image_in(value)
        return None if text is None else [text]

    def _image_in(self, value: Any) -> str | None:
        """As ``_images_in``, for one image."""
        while isinstance(value, Mapping) and len(value) == 1:
            ((key, inner),) = value.items()
            if isinstance(inner, str) and key not in ("b64", "image", *self._inputs):
                return None
            value = inner
        return value if isinstance(value, str) else None

    def _read_images(self, texts: Sequence[str]) -> np.ndarray:
        try:
            return self._decoded([formats.read_base64(text) for text in texts])
        except ValueError as error:
            raise BadRequest(
                f"A text that stands for an image cannot be read: {error}. It must be the bytes of an image file in "
                f"base64. {self._takes}."
            ) from None

    def _decoded(self, bodies: Sequence[bytes]) -> np.ndarray:
        """A sample for each image file: (N, *sample shape)."""
        if self._images is None or self._only is None:
            raise TypeError("the model takes no images")
        self._check_unfolded(len(bodies), self._only)
        return np.concatenate([self._images.read(body) for body in bodies])

    def _check_unfolded(self, samples: int, spec: TensorSpec) -> None:
        size = self._images.sample_size if self._images is not None else math.prod(spec.sample_shape)
        unfolded_bytes = samples * size * max(spec.dtype.itemsize, 4)
        if samples > 1 and unfolded_bytes > self._most_bytes:
            raise BadRequest(
                f"{samples} images become {unfolded_bytes >> 20} MiB, more than the {self._most_bytes >> 20} MiB that "
                f"a request may take (MME_MAX_IMAGE_MEGAPIXELS raises it). Send fewer at a time. {self._takes}."
            )

    # ---- CSV, NPY and NPZ ----

    def _read_csv(self, spec: TensorSpec, body: bytes | bytearray | str) -> np.ndarray:
        try:
            text = body if isinstance(body, str) else body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadRequest(f"The body is not text in UTF-8. {self._takes}.") from None
        if not text or text.isspace():
            raise self._empty()
        if spec.holds_text:
            rows = self._texts(spec, list(csv.reader(io.StringIO(text, newline=""))))
            return self._samples(spec, self._unflattened(spec, rows))
        columns = math.prod(spec.sample_shape)
        try:
            rows = formats.read_csv(text, missing_as_nan=spec.allows_missing)
        except ValueError as error:
            if means_no_memory(error):
                raise
            raise BadRequest(
                f"The CSV must have {columns} numbers in each row, one row per sample, without a header "
                f"({brief(error)}). {self._takes}."
            ) from None
        if rows.shape == (columns, 1):  # one sample, a number a line
            rows = rows.reshape(1, columns)
        if rows.shape[1] != columns and not spec.is_free:
            raise BadRequest(f"The CSV has {rows.shape[1]} numbers in a row, not {columns}. {self._takes}.")
        return self._samples(spec, self._unflattened(spec, rows))

    def _unflattened(self, spec: TensorSpec, rows: np.ndarray) -> np.ndarray:
        """Rows (N, columns) in the shape of samples. Raises ``BadRequest`` where that leaves it open."""
        try:
            return rows.reshape(len(rows), *spec.sample_shape)
        except ValueError:
            raise BadRequest(
                f"A row of {rows[0].size} does not say what shape the sample has: send {JSON} or {NPY}. {self._takes}."
            ) from None

    def _read_npy(self, spec: TensorSpec, body: bytes | bytearray) -> np.ndarray:
        try:
            kinds = "U" if spec.holds_text else "biufS" if self._images else "biuf"
            array = formats.read_npy(body, kinds=kinds)
        except ValueError as error:
            raise BadRequest(
                f"The body is not an array as numpy.save writes it: {brief(error)}. {self._takes}."
            ) from None
        if array.dtype.kind == "S":  # what NumPy makes of the bytes of an image; zeros at the end do no harm
            flat = np.ascontiguousarray(array).reshape(-1)
            if flat.size == 0 or array.ndim > 1:
                raise BadRequest(f"The array of bytes holds no image, or not one after the other. {self._takes}.")
            return self._decoded([entry.tobytes() for entry in flat])
        if self._images and array.dtype == np.uint8 and array.shape in ((array.size,), (1, array.size)):
            file = array.tobytes()
            if array.ndim != len(spec.shape) and file.startswith(_IMAGE_HEADS):
                return self._decoded([file])
        return self._samples(spec, array)

    def _read_npz(self, body: bytes | bytearray) -> dict[str, np.ndarray]:
        """Arrays by input name; one array of any name, or a sparse matrix, for a model of one input."""
        only = self._only
        columns = (None if only.is_free else math.prod(only.sample_shape)) if only else 0
        itemsize = max(only.dtype.itemsize, 4) if only else 4
        try:
            arrays = formats.read_npz(body, columns=columns, itemsize=itemsize, most_bytes=self._most_bytes)
        except ValueError as error:
            raise BadRequest(
                f"The body is not an NPZ file as numpy.savez or scipy.sparse.save_npz writes it: {brief(error, 300)}. "
                f"{self._takes}."
            ) from None
        if "" in arrays and only is not None:
            return {only.name: self._samples(only, self._unflattened(only, arrays[""]))}
        if only is not None and len(arrays) == 1:
            return {only.name: self._samples(only, next(iter(arrays.values())))}
        if arrays.keys() != self._inputs.keys():
            found = ", ".join(sorted(arrays)[:10]) or "nothing"
            raise BadRequest(
                f"The NPZ file must hold the model's inputs by name and nothing else; it has {found}. {self._takes}."
            )
        return {name: self._samples(spec, arrays[name]) for name, spec in self._inputs.items()}

    # ---- all ----

    def _samples(self, spec: TensorSpec, array: np.ndarray) -> np.ndarray:
        """Checks shape and numbers, and converts: (N, *sample shape) of the input's type."""
        if array.size == 0:
            raise BadRequest(f"Input {spec.name} holds no sample. {self._takes}.")
        if spec.takes(array.shape):
            array = array[np.newaxis]
        if array.ndim != len(spec.shape) or not spec.takes(array.shape[1:]):
            raise BadRequest(f"Input {spec.name} has the shape {array.shape}. {self._takes}, or one sample.")
        if spec.holds_text:
            return self._texts(spec, array)
        with np.errstate(over="ignore", invalid="ignore"):
            converted = array.astype(spec.dtype, copy=False)
        is_float = spec.dtype.kind == "f"
        if is_float:
            good = np.isfinite(converted).all() if not spec.allows_missing else not np.isinf(converted).any()
        else:
            good = array.dtype == spec.dtype or bool((converted == array).all())
        if not good:
            problem = f"not a finite {spec.dtype} number" if is_float else f"not a number of type {spec.dtype}"
            raise BadRequest(f"A value of input {spec.name} is missing or is {problem}. {self._takes}.")
        return converted


def sniffed(body: bytes | bytearray | str) -> str:
    """The media type that the first bytes show; empty where they show none."""
    if isinstance(body, str):
        return JSON if body.lstrip()[:1] in ("[", "{") else ""
    if body.startswith(formats.NPY_MAGIC):
        return NPY
    if body.startswith(formats.NPZ_MAGIC):
        return NPZ
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


def brief(error: Exception, most: int = 120) -> str:
    """An error's words in one line of at most ``most`` characters, without NumPy's advice after a semicolon."""
    words = " ".join(str(error).split(";")[0].split()) or type(error).__name__
    return words if len(words) <= most else words[: most - 3] + "..."
