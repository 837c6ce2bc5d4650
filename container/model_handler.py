"""What MMS imports: loads one model at load time, then answers batches of requests.

MMS calls the module-level ``handle(data, context)`` in the worker process (MMS-23): once with ``data=None``, which
loads the model, then with a list of requests. The handler is kept on the context, which MMS keeps for the life of the
model, so this module has no state and several models may share a process. To change a step, subclass ``ModelHandler``
in a module of your own, say ``handle = entry_point(MyHandler)`` there, and name the module in ``SAGEMAKER_HANDLER``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mme.capacity.memory import most_bytes_of_worker
from mme.errors import MmeError, ModelLoadError
from mme.frameworks.base import Predictor, describe_inputs, means_no_memory, memory_errors
from mme.frameworks.registry import adapter_for
from mme.handler import warmup
from mme.handler.images import ImageReader
from mme.handler.payload import CUSTOM_ATTRIBUTES, JSON, BodyReader, Request, most_unfolded_bytes
from mme.handler.responses import Responder, Response, negotiate
from mme.settings import Settings

logger = logging.getLogger(__name__)

LABELS_FILE = "synset.txt"
_MOST_ATTRIBUTE_CHARACTERS = 1024  # of X-Amzn-SageMaker-Custom-Attributes
_COPIES_OF_INPUTS = 2  # the array that is read and the framework's
_SMALL_INPUTS_BYTES = 32 << 20  # there is no server that they are too large for
_HANDLER = "_model_handler"  # the attribute of the context that holds the handler


class ModelHandler:
    """Serves one model. ``preprocess`` and ``postprocess`` see one request, ``inference`` a whole batch of samples."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.initialized = False
        self.settings = settings
        self.model_name = ""
        self.model: Predictor
        self.labels: list[str] | None = None
        self._reader: BodyReader
        self._responder: Responder
        self._attributes_were_too_long = False

    def initialize(self, context: Any) -> None:
        """Loads the model in ``model_dir`` and runs it once, so that the first request finds it warm.

        Raises ``ModelLoadError`` (MMS answers the load with 500) or ``InsufficientMemory`` (507); both are logged.
        """
        properties = context.system_properties
        model_dir = Path(properties["model_dir"])
        self.model_name = str(context.model_name)
        try:
            self.settings = self.settings or Settings.from_environment()
            with (
                memory_errors("load the model"),
                _unreadable_files(),
            ):
                adapter = adapter_for(model_dir)
                self.model = adapter.load(model_dir, self.settings, properties.get("gpu_id"))
                _check_size(self.model, model_dir, self.settings)
                self._prepare(model_dir, self.settings)
        except MmeError as error:
            logger.error("Model %s did not load (%d): %s", self.model_name, error.status, error)
            raise
        logger.info("Model %s takes %s.", self.model_name, describe_inputs(self.model.inputs))
        self.initialized = True

    def preprocess(self, request: Request) -> dict[str, np.ndarray]:
        """The inputs of the model from one request, (N, *sample shape) each. Raises ``RequestError``."""
        return self._reader.read(request)

    def inference(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One pass over all samples of a batch of requests: an array (samples, …) per output of the model."""
        return self.model.predict(arrays)

    def postprocess(self, request: Request, outputs: list[np.ndarray]) -> Response:
        """The response to one request; ``outputs`` holds its samples alone. Raises ``NotAcceptable``."""
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
        if len(model.inputs) == 1:
            images = ImageReader.for_model(model_dir, spec, model.image_codec, settings.max_image_megapixels)
        self._reader = BodyReader(model.inputs, images, most_unfolded_bytes(settings.max_image_megapixels))
        arrays = {each.name: np.zeros((1, *each.sample_shape), each.dtype) for each in model.inputs}
        if images is not None:
            arrays[spec.name] = images.warm_up().astype(spec.dtype, copy=False)
        outputs = model.predict(arrays)
        self.labels = _labels_for(outputs[0], model_dir / LABELS_FILE)
        self._responder = Responder(model.output_names, self.labels, model.probabilities)
        self._responder.respond(outputs, negotiate(""))
        self._warm_up()

    def _warm_up(self) -> None:
        """Answers a few tiny requests, by a handler without a subclass's own steps: those see real requests alone."""
        plain = ModelHandler(self.settings)
        plain.model = warmup.EchoModel()
        plain._reader = BodyReader(plain.model.inputs, None)
        plain._responder = Responder(plain.model.output_names, warmup.LABELS, plain.model.probabilities)
        warmup.answer_requests(plain.handle)

    def _response_type(self, request: Request) -> str:
        default = self.settings.default_accept if self.settings else None
        return negotiate(request.accept, default, len(self.model.output_names))

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
            except Exception as error:
                logger.info("Model %s runs its batch one by one: %s", self.model_name, error)
            if outputs is None:  # not inside the except: its traceback holds on to the memory of the failed pass
                for item in items:
                    self._infer([item])
        if outputs is None:
            return
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


def _labels_for(scores: np.ndarray, path: Path) -> list[str] | None:
    """The labels of the classes, one per line of the file; None without file, or where the output is no list of scores.

    Raises ``ModelLoadError`` where there are not as many labels as classes.
    """
    if not path.exists():
        return None
    if scores.ndim != 2:
        logger.warning("%s is not used: the model's output (N, …) is no score for each class.", path)
        return None
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError:
        raise ModelLoadError(f"{path} is not text in UTF-8. Save it as such, one label a line.") from None
    if len(labels) != scores.shape[1]:
        raise ModelLoadError(
            f"{path} has {len(labels)} labels, the model's output {scores.shape[1]} classes. Each class needs one line."
        )
    return labels


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
    one_pass_bytes = sum(math.prod(each.sample_shape) * each.dtype.itemsize for each in model.inputs)
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

    def handle(data: Any, context: Any) -> list[bytes] | None:
        handler = getattr(context, _HANDLER, None)
        if handler is None:
            handler = handler_class()
            handler.initialize(context)
            setattr(context, _HANDLER, handler)
        return None if data is None else handler.handle(data, context)

    return handle


handle = entry_point(ModelHandler)
