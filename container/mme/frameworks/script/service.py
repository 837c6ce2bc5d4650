"""Answers requests with a model's script: one after the other, each by its own content type and Accept header.

Where the script has no function for a step, the toolkit's own decoders and encoders do it; where it has no
``model_fn``, the framework that knows the files beside it does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sagemaker_inference import content_types, decoder, encoder
from sagemaker_inference.errors import BaseInferenceToolkitError, UnsupportedFormatError

from mme.errors import BadRequest, MmeError, ModelLoadError, NotAcceptable, ProgramError, UnsupportedMediaType
from mme.frameworks import programs
from mme.frameworks.base import DataModel
from mme.frameworks.script.functions import Function, Functions

READ = ", ".join((content_types.JSON, content_types.CSV, content_types.NPY, content_types.NPZ))
WRITTEN = ", ".join((content_types.JSON, content_types.CSV, content_types.NPY))
_ANY = ("", "*/*", "application/*")
_ERROR_STATUSES = range(400, 600)


class ScriptService:
    """One model with its script. ``data_model`` is what became of the files beside it, where there is no model_fn."""

    def __init__(
        self,
        functions: Functions,
        model: Any,
        data_model: DataModel | None,
        model_dir: Path,
        default_accept: str | None,
    ) -> None:
        self._functions = functions
        self._model = model
        self._data_model = data_model
        self._model_dir = model_dir
        self._default_accept = default_accept or content_types.JSON

    @property
    def content_types(self) -> str | None:
        """The content types that requests may have, in words; None where the script alone knows."""
        if self._functions.input or self._functions.transform:
            return None
        return getattr(self._data_model, "content_types", READ)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes | bytearray]:
        """See ``Service``. What fails a request fails no other one of its batch."""
        return [self._answer(parts, _view_of(context, index, len(data))) for index, parts in enumerate(data)]

    def _answer(self, parts: Mapping[str, Any], context: Any) -> bytes | bytearray:
        try:
            body, content_type = self._transform(_Request(parts, context, self._default_accept), context)
        except MmeError as error:
            return programs.fail(context, 0, error, self._model_dir)
        if content_type is not None:
            context.set_response_content_type(0, programs.header_text(content_type))
        return body

    def _transform(self, request: _Request, context: Any) -> tuple[bytes | bytearray, str | None]:
        """The body and its content type; None where the script has set that itself."""
        given = self._functions
        if given.transform:
            arguments = self._model, request.body, request.content_type, request.accept
            return self._made(self._call(given.transform, context, *arguments), given.transform, request, context)
        if given.input:
            value = self._call(given.input, context, request.body, request.content_type)
        else:
            value = self._read(request)
        prediction = self._call(given.predict, context, value, self._model) if given.predict else self._predict(value)
        by_data_model = self._data_model is not None and not given.predict
        if given.output:
            if by_data_model and len(prediction) == 1:
                (prediction,) = prediction
            made = self._call(given.output, context, prediction, request.accept)
            return self._made(made, given.output, request, context)
        if self._data_model is not None and by_data_model:
            return self._data_model.write(prediction, request.parts, request.headers)
        return _encoded(prediction, request)

    def _call(self, function: Function, context: Any, *arguments: Any) -> Any:
        """Raises ``MmeError`` for whatever the function raises."""
        with programs.request_errors(f"{function.name} failed"):
            try:
                return function(context, *arguments)
            except UnsupportedFormatError as error:
                message = f"{function.name}: {str(error).splitlines()[0]}"
                raise (NotAcceptable if function.name == "output_fn" else UnsupportedMediaType)(message) from None
            except BaseInferenceToolkitError as error:
                raise _chosen_by_script(error) from error

    # ---- what a script leaves to us ----

    def _read(self, request: _Request) -> Any:
        if self._data_model is not None:
            arrays = self._data_model.read(request.parts, request.headers)
            return self._data_model.for_program(arrays) if self._functions.predict else arrays
        return _decoded(request)

    def _predict(self, value: Any) -> Any:
        if self._data_model is not None:
            with programs.request_errors("the model failed"):
                return self._data_model.predict(value)
        predict = getattr(self._model, "predict", self._model)
        with programs.request_errors("the model's predict failed"):
            return predict(value)

    def _made(
        self, made: Any, function: Function, request: _Request, context: Any
    ) -> tuple[bytes | bytearray, str | None]:
        """What a script's last function returned, as the toolkit reads it: a body, or a body and its content type."""
        content_type = None if context.get_response_content_type(0) else request.plain_accept
        body = made
        if isinstance(made, tuple):
            if len(made) != 2 or not isinstance(made[1], str):
                raise _no_answer(function, f"a tuple of {len(made)}, not of a body and its content type")
            body, content_type = made
        with programs.request_errors(f"{function.name} failed"):
            encoded = programs.as_body(body)
        if encoded is None and body is not None:
            try:  # what JSON can hold, as MMS has it
                encoded = encoder.encode(body, content_types.JSON).encode()
            except (TypeError, ValueError, RecursionError):
                pass
        if encoded is None:
            raise _no_answer(function, f"a {type(body).__name__}, which is no body")
        return encoded, content_type


class _Request:
    """One request, as the functions of a script are given it."""

    def __init__(self, parts: Mapping[str, Any], context: Any, default_accept: str) -> None:
        self.parts = parts
        self.headers: Mapping[str, Any] = context.get_all_request_header(0)
        named = {name.lower(): value for name, value in self.headers.items() if isinstance(value, str)}
        self.content_type: str | None = named.get("content-type")
        self.media_type = _media_type(self.content_type or "")
        accept = named.get("accept", "")
        self.accept = default_accept if accept.strip() in ("", content_types.ANY) else accept
        self._default_accept = default_accept

    @property
    def body(self) -> Any:
        """As text where the toolkit has it so, for JSON and CSV. Raises ``BadRequest``."""
        body = self.parts.get("body")
        if self.media_type in content_types.UTF8_TYPES and isinstance(body, bytes | bytearray):
            try:
                return body.decode()
            except UnicodeDecodeError as error:
                raise BadRequest(f"The body is {self.media_type}, but no text in UTF-8 ({error.reason}).") from None
        return body

    @property
    def plain_accept(self) -> str:
        """The Accept header where it names one type, else the default: what a body without a type is taken for."""
        return self._default_accept if "," in self.accept or "*" in self.accept else self.accept


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _view_of(context: Any, index: int, count: int) -> Any:
    """The context of one request of a batch: for a script, each request is the first and only one."""
    if count == 1:
        return context
    view = copy.copy(context)
    view.request_processor = [context.request_processor[index]]
    view.request_ids = {0: context.get_request_id(index)}
    return view


def _decoded(request: _Request) -> Any:
    """The body as the toolkit's decoder reads it. Raises ``UnsupportedMediaType`` and ``BadRequest``."""
    body = request.body
    if body is None:
        raise BadRequest(f"The request has no body. It may be {READ}.")
    try:
        with programs.memory_errors("read the request"):
            return decoder.decode(body, request.media_type)
    except UnsupportedFormatError:
        raise UnsupportedMediaType(
            f"Content-Type {request.media_type or '(none)'} is not read here; send {READ}, or let the script have an "
            "input_fn that reads it."
        ) from None
    except MmeError:
        raise
    except Exception as error:
        raise BadRequest(f"The body cannot be read as {request.media_type} ({str(error)[:200]}).") from None


def _encoded(prediction: Any, request: _Request) -> tuple[bytes, str]:
    """The prediction as the toolkit's encoder writes it. Raises ``NotAcceptable``."""
    wanted = [_media_type(each) for each in request.accept.split(",")]
    known = [content_types.JSON if each in _ANY else each for each in wanted]
    found = next((each for each in known if each in encoder.SUPPORTED_CONTENT_TYPES), None)
    if found is None:
        raise NotAcceptable(
            f"Accept {request.accept} cannot be answered; ask for {WRITTEN}, or let the script have an output_fn that "
            "writes it."
        )
    with programs.request_errors(f"the prediction cannot be written as {found}"):
        encoded = encoder.encode(prediction, found)
        return encoded.encode() if isinstance(encoded, str) else encoded, found


def _chosen_by_script(error: BaseInferenceToolkitError) -> ProgramError:
    """The toolkit's way for a script to choose the status of an error."""
    chosen = isinstance(error.status_code, int) and error.status_code in _ERROR_STATUSES
    return ProgramError(
        str(error.message), status=int(error.status_code) if chosen else ProgramError.status, phrase=str(error.phrase)
    )


def _no_answer(function: Function, what: str) -> ProgramError:
    return ProgramError(f"{function.name} returned {what}. It may return bytes, text, or (body, content type).")


def default_predict_is_possible(model: Any) -> bool:
    """Can ``model`` be asked without a predict_fn?"""
    return callable(getattr(model, "predict", None)) or callable(model)


def check_can_predict(functions: Functions, model: Any, file: str) -> None:
    """Raises ``ModelLoadError`` where a script leaves a prediction to us that we cannot make."""
    if functions.transform or functions.predict or default_predict_is_possible(model):
        return
    raise ModelLoadError(
        f"{file} has neither predict_fn nor transform_fn, and its model_fn returns a {type(model).__name__}, which has "
        "no predict and cannot be called. Define predict_fn(data, model)."
    )
