"""Asks the ``handle`` of a ``model.py`` as DJL Serving does: ``Input`` in, ``Output`` out.

load      one call with no content; properties: the options of serving.properties, model_dir, device_id
request   content: the body as "data", query parameters and form parts by name; properties: the headers, the pairs
          of X-Amzn-SageMaker-Custom-Attributes, model_dir, device_id
batch     one call: batch_size, and before each name batch_000. and so on; where that is not answered as a batch,
          one call for each request
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from djl_python import Input, Output
from mme.errors import InsufficientMemory, MmeError, ModelLoadError, ProgramError
from mme.frameworks import programs
from mme.frameworks.djl.handlers import Handler

logger = logging.getLogger(__name__)

_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
_CONTENT_TYPE = "content-type"
_OF_A_BATCH = re.compile(r"batch_(\d+)\.(.*)", re.DOTALL)
_STATUSES = range(200, 600)
_FIRST_ERROR = 300
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# They are the front end's: it knows how long an answer is, and what becomes of the connection.
_FRONT_ENDS_HEADERS = {"content-length", "transfer-encoding", "connection", "x-request-id"}


class DjlService:
    """One model. ``handler`` is the program's; ``file`` its name, for messages."""

    def __init__(self, handler: Handler, options: Mapping[str, str], model_dir: Path, file: str) -> None:
        self._handler = handler
        self._options = options
        self._model_dir = model_dir
        self._file = file

    def load(self) -> None:
        """Raises ``ModelLoadError`` where the program cannot load its model, and ``InsufficientMemory``."""
        inputs = Input()
        inputs.properties.update(self._options)
        with programs.load_errors(f"{self._file} could not load the model"):
            output = self._handler(inputs)
        if not isinstance(output, Output) or output.code < _FIRST_ERROR:
            return
        said = f"{self._file} could not load the model: {output.code} {output.message} {_text_of(output)}"
        if output.code == InsufficientMemory.status:
            raise InsufficientMemory(said)
        raise ModelLoadError(said)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes | bytearray]:
        """See ``Service``. What fails a request fails no other one of its batch."""
        inputs = [self._input(parts, context.get_all_request_header(index)) for index, parts in enumerate(data)]
        outputs = self._ask_batch(inputs) if len(inputs) > 1 else None
        answers = []
        for index, each in enumerate(inputs):
            try:
                answers.append(_answer(outputs[index] if outputs else self._ask(each), context, index))
            except MmeError as error:
                answers.append(programs.fail(context, index, error, self._model_dir))
        return answers

    def _input(self, parts: Mapping[str, Any], headers: Mapping[str, Any]) -> Input:
        inputs = Input()
        for name, value in headers.items():
            if not isinstance(value, str):
                continue  # the type of a part
            if name.lower() == _ATTRIBUTES:
                pairs = (pair.partition("=") for pair in value.split(";") if "=" in pair)
                inputs.properties.update({key.strip(): text.strip() for key, _, text in pairs})
            else:
                inputs.properties[name] = value
        inputs.properties.update({name: self._options[name] for name in ("model_dir", "device_id")})
        for name, part in parts.items():
            inputs.content.add("data" if name == "body" else name, programs.as_body(part))
        if inputs.is_empty():
            inputs.content.add("data", bytearray())  # no content at all means a load
        return inputs

    def _ask(self, inputs: Input) -> Output:
        """Raises ``MmeError`` for whatever the program raises, or returns instead of an answer."""
        with programs.request_errors(f"{self._file} failed"):
            output = self._handler(inputs)
        if output is None:
            return Output(HTTPStatus.NO_CONTENT, "No content")
        if not isinstance(output, Output):
            raise ProgramError(f"{self._file} returned a {type(output).__name__}, not an Output.")
        return output

    def _ask_batch(self, inputs: Sequence[Input]) -> list[Output] | None:
        """An answer for each; None where the program does not answer batches, or fails for some."""
        batch = Input()
        batch.properties["batch_size"] = str(len(inputs))
        batch.properties.update({name: self._options[name] for name in ("model_dir", "device_id")})
        for index, each in enumerate(inputs):
            before = f"batch_{index:03}."
            batch.properties.update({before + name: value for name, value in each.properties.items()})
            for key, value in zip(each.content.get_keys(), each.content.get_values(), strict=True):
                batch.content.add(before + key, value)
        try:
            output = self._ask(batch)
        except MmeError as error:
            logger.info("%s is asked one by one: %s", self._file, error)
            return None
        found = [_OF_A_BATCH.fullmatch(key or "") for key in output.content.get_keys()]
        indices = [int(each[1]) for each in found if each]
        if output.code >= _FIRST_ERROR or len(indices) != len(found) or set(indices) != set(range(len(inputs))):
            _finish(output)
            return None
        answers = [Output(output.code, output.message) for _ in inputs]
        for index, key, value in zip(indices, output.content.get_keys(), output.content.get_values(), strict=True):
            answers[index].properties = output.properties
            answers[index].content.add(key.partition(".")[2], value)
            if key in output.json_keys:
                answers[index].json_keys.add(key.partition(".")[2])
        _finish(output)
        return answers


def _answer(output: Output, context: Any, index: int) -> bytes | bytearray:
    """Sets status and headers of request ``index``, and returns its body. Raises ``ProgramError``."""
    if not isinstance(output.code, int) or output.code not in _STATUSES:
        raise ProgramError(f"The model answered with status {output.code!r}, which is none from 200 to 599.")
    body = _body_of(output)
    context.set_response_status(output.code, programs.header_text(output.message), index)
    first = output.content.key_at(0) if not output.content.is_empty() else None
    if "data" in output.json_keys or first in output.json_keys:
        context.set_response_content_type(index, programs.JSON)
    for name, value in output.properties.items():
        name = str(name)
        if name.lower() == _CONTENT_TYPE:
            context.set_response_content_type(index, programs.header_text(value))
        elif _HEADER_NAME.fullmatch(name) and name.lower() not in _FRONT_ENDS_HEADERS:
            context.set_response_header(index, name, programs.header_text(value))
    _finish(output)
    return body


def _body_of(output: Output) -> bytes | bytearray:
    """What DJL sends of an output: its stream, else ``data``, else the first of its contents."""
    if output.stream_content is not None:
        with programs.request_errors("the model's stream failed"):
            form = output.stream_output_formatter or (lambda piece: piece)
            pieces = (programs.as_body(form(piece)) for piece in output.stream_content)
            return b"".join(piece for piece in pieces if piece is not None)
    if output.content.is_empty():
        return b""
    data = output.content.get("data")
    return output.content.value_at(0) if data is None else data


def _text_of(output: Output) -> str:
    return bytes(_body_of(output)).decode(errors="replace")


def _finish(output: Output) -> None:
    try:
        output.execute_finalize()
    except Exception:
        logger.exception("What the model gave to finalize failed.")
