"""What MMS imports: loads one model at load time, then answers batches of requests.

MMS calls the module-level ``handle(data, context)`` in the worker process (MMS-23): once with ``data=None``, which
loads the model, then with a list of requests. A model of files is served by a ``ModelHandler``, one that is a program
by what its adapter makes of it. Either is kept on the context, which MMS keeps for the life of the model, so this
module has no state and several models may share a process. To change a step, subclass ``ModelHandler`` in a module of
your own, say ``handle = entry_point(MyHandler)`` there, and name the module in ``SAGEMAKER_HANDLER``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np

from mme.capacity.memory import most_bytes_of_worker
from mme.errors import BadRequest, MmeError, ModelLoadError
from mme.frameworks.base import (
    Adapter,
    CodeAdapter,
    Predictor,
    Service,
    describe_inputs,
    means_no_memory,
    memory_errors,
)
from mme.frameworks.registry import adapter_for, data_adapter_beside, data_adapter_for
from mme.frameworks.table import METHOD
from mme.handler import wake_up, warmup
from mme.handler.images import ImageReader
from mme.handler.payload import CUSTOM_ATTRIBUTES, JSON, BodyReader, Request, most_unfolded_bytes
from mme.handler.responses import Responder, Response
from mme.handler.scores import ScoreResponder
from mme.handler.tables import TableReader
from mme.settings import Settings

logger = logging.getLogger(__name__)

LABELS_FILE = "synset.txt"
_MOST_ATTRIBUTE_CHARACTERS = 1024  # of X-Amzn-SageMaker-Custom-Attributes
_COPIES_OF_INPUTS = 2  # the array that is read and the framework's
_SMALL_INPUTS_BYTES = 32 << 20  # there is no server that they are too large for
_SERVICE = "_model_service"  # the attribute of the context that holds what serves the model


class ModelHandler:
    """Serves one model. ``preprocess`` and ``postprocess`` see one request, ``inference`` a whole batch of samples."""

    def __init__(self, settings: Settings | None = None, adapter: Adapter | None = None) -> None:
        """``adapter``: the framework's, where it is not to be told by the model's files."""
        self.initialized = False
        self.settings = settings
        self._adapter = adapter
        self.model_name = ""
        self.model: Predictor
        self.labels: list[str] | None = None
        self._reader: BodyReader
        self._responder: Responder | ScoreResponder
        self._attributes_were_too_long = False
        self._labels_file: Path | None = None  # that is yet to be read: the first output says what is in it

    def initialize(self, context: Any) -> None:
        """Loads the model in ``model_dir``, and runs it once unless its ``output_shape`` is known, so that it is warm.

        Raises ``ModelLoadError`` (MMS answers the load with 500) or ``InsufficientMemory`` (507); both are logged.
        """
        properties = context.system_properties
        model_dir = Path(properties["model_dir"])
        self.model_name = str(context.model_name)
        with _load_errors(self.model_name):
            self.settings = self.settings or Settings.from_environment()
            adapter = self._adapter or data_adapter_for(model_dir, self.settings)
            self.model = adapter.load(model_dir, self.settings, properties.get("gpu_id"))
            _check_size(self.model, model_dir, self.settings)
            self._prepare(model_dir, self.settings)
        level = logging.DEBUG if wake_up.request_waits else logging.INFO  # it has been said
        logger.log(level, "Model %s takes %s.", self.model_name, describe_inputs(self.model.inputs))
        self.initialized = True

    @property
    def content_types(self) -> str:
        """The content types that requests may have, in words."""
        return self._reader.readable

    def preprocess(self, request: Request) -> dict[str, np.ndarray]:
        """The inputs of the model from one request, (N, *sample shape) each. Raises ``RequestError``."""
        return self._reader.read(request)

    def inference(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One pass over all samples of a batch of requests: an array (samples, …) per output of the model."""
        return self.model.predict(arrays)

    def postprocess(self, request: Request, outputs: list[np.ndarray]) -> Response:
        """The response to one request; ``outputs`` holds its samples alone. Raises ``NotAcceptable``."""
        self._see(outputs)
        return self._responder.respond(outputs, self._response_type(request))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answers a batch: a body per request, its status and headers set on the context. Fails for no batch."""
        batch = [_Item(index, context, self._attributes_to_echo) for index in range(len(data))]
        for item, parts in zip(batch, data, strict=True):
            with item.errors("read the request"):
                item.request = Request.from_mms(parts, context.get_all_request_header(item.index))
                self._response_type(item.request)  # what cannot be answered is not run
                item.arrays = self.preprocess(item.request)
        self._infer([item for item in batch if item.arrays is not None])
        for item in batch:
            if item.outputs is not None and item.request is not None:
                with item.errors("write the response"):
                    item.answer(self.postprocess(item.request, item.outputs))
        return [item.body for item in batch]

    def _prepare(self, model_dir: Path, settings: Settings) -> None:
        """All that surrounds the model, and the first pass through each part of it."""
        model = self.model
        spec = model.inputs[0]
        images = None
        if model.table is None and len(model.inputs) == 1:
            images = ImageReader.for_model(model_dir, spec, model.image_codec, settings.max_image_megapixels)
        self._reader = _reader_for(model, images, most_unfolded_bytes(settings.max_image_megapixels))
        if wake_up.request_waits and model.table is None:
            self._responder = _responder_for(model, None)
            self._labels_file = model_dir / LABELS_FILE
            return
        if model.output_shape is not None:
            if images is not None and not images.is_warm:
                images.warm_up()
            self._use_labels(model.output_shape, model_dir / LABELS_FILE)
        else:
            image = images.warm_up() if images is not None else None
            sample = model.sample() if image is None else {spec.name: image.astype(spec.dtype, copy=False)}
            self._run_once(sample, model_dir)
        self._warm_up(warmup.EchoModel() if model.table is None else warmup.EchoTable())

    def _run_once(self, sample: dict[str, np.ndarray], model_dir: Path) -> None:
        """The first pass and its answer, unless the model cannot use what was made up: it wants dates, say."""
        self._responder = _responder_for(self.model, None)
        try:
            outputs = self.model.predict(sample)
        except BadRequest as error:
            logger.info("Model %s is not run in advance: %s", self.model_name, error)
            return
        if self.model.table is None:
            self._use_labels(outputs[0].shape[1:], model_dir / LABELS_FILE)
        self._responder.respond(outputs, self._responder.negotiate("", None))

    def _see(self, outputs: list[np.ndarray]) -> None:
        """The first outputs of a model that was woken: now its labels can be told."""
        if self._labels_file is not None:
            self._use_labels(outputs[0].shape[1:], self._labels_file)
            self._labels_file = None

    def _use_labels(self, output_shape: tuple[int, ...], path: Path) -> None:
        self.labels = _labels_for(output_shape, path)
        self._responder = _responder_for(self.model, self.labels)

    def _warm_up(self, echo: warmup.EchoModel) -> None:
        """Answers a few tiny requests, by a handler without a subclass's own steps: those see real requests alone."""
        plain = ModelHandler(self.settings)
        plain.model = echo
        plain._reader = _reader_for(echo, None, most_unfolded_bytes(1))
        plain._responder = _responder_for(echo, warmup.LABELS)
        warmup.answer_requests(plain.handle)

    def _response_type(self, request: Request) -> str:
        default = self.settings.default_accept if self.settings else None
        return self._responder.negotiate(request.accept, default)

    def _attributes_to_echo(self, request: Request) -> str | None:
        """The custom attributes of the request where they may stand in a response, else None; said once in the log."""
        attributes = request.custom_attributes
        if attributes is None or len(attributes) <= _MOST_ATTRIBUTE_CHARACTERS:
            return attributes
        if not self._attributes_were_too_long:
            self._attributes_were_too_long = True
            logger.warning(
                "Model %s does not send back %s of %d characters: %d is SageMaker's limit. Said only once.",
                *(self.model_name, CUSTOM_ATTRIBUTES, len(attributes), _MOST_ATTRIBUTE_CHARACTERS),
            )
        return None

    def _infer(self, items: list[_Item]) -> None:
        """One pass for all; where that fails, one for each, so that a request fails by its own fault alone."""
        if not items:
            return
        arrays = [item.arrays for item in items if item.arrays is not None]
        outputs = None
        if len(items) == 1:
            with items[0].errors("run the model"):
                outputs = self.inference(arrays[0])
        else:
            try:
                outputs = self.inference(_joined(arrays))
                if any(len(rows) % sum(map(_samples, arrays)) for rows in outputs):
                    raise ValueError("its outputs do not have a row for each sample")
            except Exception as error:
                logger.info("Model %s runs its batch one by one: %s", self.model_name, error)
                outputs = None
            if outputs is None:  # not inside the except: its traceback holds on to the memory of the failed pass
                for item in items:
                    self._infer([item])
        if outputs is None:
            return
        self._see(outputs)
        samples = sum(map(_samples, arrays))
        start = 0
        for item, each in zip(items, arrays, strict=True):
            stop = start + _samples(each)
            # an output may have several rows for each sample
            item.outputs = [rows[start * len(rows) // samples : stop * len(rows) // samples] for rows in outputs]
            start = stop


class _Item:
    """One request of a batch on its way to an answer."""

    def __init__(self, index: int, context: Any, attributes_to_echo: Callable[[Request], str | None]) -> None:
        self.index = index
        self.request: Request | None = None
        self.arrays: dict[str, np.ndarray] | None = None
        self.outputs: list[np.ndarray] | None = None
        self.body = b""
        self._context = context
        self._attributes_to_echo = attributes_to_echo

    def answer(self, response: Response | bytes | str | Any) -> None:
        """Takes what ``postprocess`` returned; a subclass may return bytes, text, or what JSON can hold."""
        if not isinstance(response, Response):
            plain = isinstance(response, bytes | bytearray | str)
            body = response if plain else json.dumps(response)
            content_type = "application/octet-stream" if isinstance(response, bytes | bytearray) else JSON
            response = Response(body.encode() if isinstance(body, str) else bytes(body), content_type)
        self.body = response.body
        self._set_headers(response.content_type)

    def errors(self, doing: str) -> _Errors:
        """Makes an error inside the answer to this request; no other one is touched."""
        return _Errors(self, doing)

    def fail_by(self, error: Exception, doing: str) -> None:
        """Makes ``error`` the answer; it came while the handler was ``doing`` something."""
        try:
            with memory_errors(doing):
                raise error
        except MmeError as known:
            if known.status >= 500:
                logger.error("Model %s could not %s: %s", self._context.model_name, doing, known)
            self._fail(known)
        except Exception:
            logger.exception("Model %s could not %s.", self._context.model_name, doing)
            self._fail(MmeError(f"Could not {doing}. The reason is in the log of the model."))

    def _fail(self, error: MmeError) -> None:
        self.arrays = self.outputs = None
        self.body = error.body()
        self._context.set_response_status(error.status, error.phrase, self.index)
        self._set_headers(JSON)

    def _set_headers(self, content_type: str) -> None:
        self._context.set_response_content_type(self.index, content_type)
        attributes = self._attributes_to_echo(self.request) if self.request else None
        if attributes is not None:
            self._context.set_response_header(self.index, CUSTOM_ATTRIBUTES, attributes)


def _reader_for(model: Predictor, images: ImageReader | None, most_bytes: int) -> BodyReader:
    return BodyReader(model.inputs, images, most_bytes) if model.table is None else TableReader(model.table, most_bytes)


def _responder_for(model: Predictor, labels: Sequence[str] | None) -> Responder | ScoreResponder:
    if model.table is not None:
        return ScoreResponder(model.table.score)
    return Responder(model.output_names, labels, model.probabilities)


class _Errors:
    """See ``_Item.errors``."""

    __slots__ = ("_doing", "_item")

    def __init__(self, item: _Item, doing: str) -> None:
        self._item = item
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        self._item.fail_by(error, self._doing)
        return True


def _samples(arrays: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(arrays.values())))


def _joined(arrays: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}


def _labels_for(output_shape: tuple[int, ...], path: Path) -> list[str] | None:
    """The labels of the classes, one per line of the file; None without file, or where the output is no list of scores.

    ``output_shape`` is that of one sample. Raises ``ModelLoadError`` where there are not as many labels as classes.
    """
    if not path.exists():
        return None
    if len(output_shape) != 1:
        logger.warning("%s is not used: the model's output (N, …) is no score for each class.", path)
        return None
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError:
        raise ModelLoadError(f"{path} is not text in UTF-8. Save it as such, one label a line.") from None
    if len(labels) != output_shape[0]:
        raise ModelLoadError(
            f"{path} has {len(labels)} labels, the model's output {output_shape[0]} classes. Each class needs one line."
        )
    return labels


@contextmanager
def _load_errors(model_name: str) -> Iterator[None]:
    """Words and logs what goes wrong inside while a model loads."""
    try:
        with memory_errors("load the model"), _unreadable_files():
            yield
    except MmeError as error:
        logger.error("Model %s did not load (%d): %s", model_name, error.status, error)
        raise


@contextmanager
def _unreadable_files() -> Iterator[None]:
    """Makes an artifact that the operating system does not let us read a reason why the model does not load."""
    try:
        yield
    except OSError as error:
        if error.filename is None or means_no_memory(error):
            raise
        raise ModelLoadError(
            f"{error.filename} cannot be read: {error.strerror}. It must be a file that everybody may read, in folders "
            f"that everybody may open: chmod -R a+rX (or let the server run as its owner, MME_USER)."
        ) from None


def _check_size(model: Predictor, model_dir: Path, settings: Settings) -> None:
    """Raises ``ModelLoadError`` where one sample would take more memory than the server can ever have.

    Not ``InsufficientMemory``: no model that the platform unloads would make room for it.
    """
    one_pass_bytes = sum(abs(math.prod(each.sample_shape)) * each.dtype.itemsize for each in model.inputs)
    if one_pass_bytes < _SMALL_INPUTS_BYTES:
        return
    limit_bytes = most_bytes_of_worker(settings)
    if _COPIES_OF_INPUTS * one_pass_bytes > limit_bytes:
        raise ModelLoadError(
            f"{model_dir}: one sample ({describe_inputs(model.inputs)}) takes {one_pass_bytes >> 20} MiB, "
            f"{_COPIES_OF_INPUTS} times while it is read, of {limit_bytes >> 20} MiB in all. If the shapes are right, "
            "use a larger instance."
        )


def entry_point(handler_class: Callable[[], ModelHandler]) -> Callable[[Any, Any], list[bytes] | None]:
    """The function for MMS to call; it makes one handler per model, at the first call."""

    def load(context: Any) -> Service:
        handler = handler_class()
        handler.initialize(context)
        return handler

    return _loading_once(load)


def load_service(context: Any) -> Service:
    """What serves the model in ``model_dir``: its own program, else a ``ModelHandler``."""
    with _load_errors(str(context.model_name)):
        settings = Settings.from_environment()
        model_dir = Path(context.system_properties["model_dir"])
        adapter = adapter_for(model_dir, settings)
        if isinstance(adapter, CodeAdapter):
            return adapter.load_service(model_dir, settings, context, lambda: load_beside_program(settings, context))
    handler = ModelHandler(settings, cast("Adapter", adapter))
    handler.initialize(context)
    return handler


def load_beside_program(settings: Settings, context: Any) -> DataBesideProgram | None:
    """The model of the files of data that lie beside a program; None where there are none."""
    adapter = data_adapter_beside(Path(context.system_properties["model_dir"]), settings)
    if adapter is None:
        return None
    handler = ModelHandler(settings, adapter)
    handler.initialize(context)
    return DataBesideProgram(handler)


class DataBesideProgram:
    """See ``mme.frameworks.base.DataModel``: a ``ModelHandler``, one step at a time."""

    def __init__(self, handler: ModelHandler) -> None:
        self._handler = handler
        self.model = _CallableModel(self) if handler.model.native is None else handler.model.native

    @property
    def content_types(self) -> str:
        """The content types that requests may have, in words."""
        return self._handler.content_types

    def read(self, parts: Mapping[str, Any], headers: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's inputs from a request."""
        return self._handler.preprocess(Request.from_mms(parts, headers))

    def for_program(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """The only input as it is, columns that have names as a data frame, several inputs by name."""
        values = {name: array for name, array in arrays.items() if name != METHOD}
        if self._columns:
            import pandas

            return pandas.DataFrame(values)
        return next(iter(values.values())) if len(values) == 1 else values

    @property
    def _columns(self) -> tuple[str, ...]:
        table = self._handler.model.table
        return table.columns if table is not None and table.by_name else ()

    def predict(self, data: Any) -> list[np.ndarray]:
        """One array for each output. ``data`` may be what ``for_program`` made, or lists."""
        if hasattr(data, "columns"):
            data = {str(name): data[name].to_numpy() for name in data.columns}
        elif not isinstance(data, Mapping) and self._columns:
            data = dict(zip(self._columns, np.asarray(data, object).T, strict=True))
        elif not isinstance(data, Mapping):
            (spec, *others) = self._handler.model.inputs
            if others:
                raise BadRequest(f"The model takes arrays by name: {describe_inputs(self._handler.model.inputs)}.")
            array = np.asarray(data, spec.dtype)
            data = {spec.name: array[np.newaxis] if array.ndim == len(spec.sample_shape) else array}
        return self._handler.inference(data)

    def write(self, prediction: Any, parts: Mapping[str, Any], headers: Mapping[str, Any]) -> tuple[bytes, str]:
        """The body of an answer, and its content type."""
        response = self._handler.postprocess(Request.from_mms(parts, headers), prediction)
        return response.body, response.content_type


class _CallableModel:
    """What a script's ``predict_fn`` is given for a model that is no object of a library: arrays in, arrays out."""

    def __init__(self, model: DataBesideProgram) -> None:
        self._model = model

    def predict(self, data: Any) -> Any:
        """The output as an array; a list of them where there are several."""
        outputs = self._model.predict(data)
        return outputs[0] if len(outputs) == 1 else outputs

    __call__ = predict


def _loading_once(load: Callable[[Any], Service]) -> Callable[[Any, Any], list[bytes] | None]:
    def handle(data: Any, context: Any) -> list[bytes] | None:
        service = getattr(context, _SERVICE, None)
        if service is None:
            service = load(context)
            setattr(context, _SERVICE, service)
        return None if data is None else service.handle(data, context)

    return handle


handle = _loading_once(load_service)
