"""What answers requests in a ``model.py``: its ``handle``, or functions that are marked by decorators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from djl_python import Input, Output
from mme.errors import ModelLoadError
from mme.frameworks.base import DataModel

Handler = Callable[[Input], Any]
_MARKS = ("init_handler", "input_formatter", "prediction_handler", "output_formatter")


def handler_of(
    module: ModuleType, file: str, options: Mapping[str, str], load_data: Callable[[], DataModel | None]
) -> Handler:
    """The function that is given each ``Input``. Raises ``ModelLoadError`` where ``module`` has none."""
    name = options.get("handler", "handle")
    handle = getattr(module, name, None)
    if callable(handle):
        return handle
    marked = {mark: function for mark in _MARKS if (function := _marked(module, mark)) is not None}
    if marked:
        return MarkedFunctions(marked, file, load_data)
    marks = ", ".join(f"@{mark}" for mark in _MARKS)
    raise ModelLoadError(f"{file} defines no function {name}(inputs), nor one that is marked by {marks}.")


def _marked(module: ModuleType, mark: str) -> Callable[..., Any] | None:
    return next((each for each in vars(module).values() if callable(each) and getattr(each, f"is_{mark}", False)), None)


class MarkedFunctions:
    """A model by its marked functions; what has none is left to the framework that knows the files beside them."""

    def __init__(
        self, marked: Mapping[str, Callable[..., Any]], file: str, load_data: Callable[[], DataModel | None]
    ) -> None:
        self._marked = marked
        self._file = file
        self._load_data = load_data
        self._data_model: DataModel | None = None
        self._model: Any = None

    def __call__(self, inputs: Input) -> Output | None:
        if inputs.is_empty():
            self._load(inputs)
            return None
        return self._answer(inputs)

    def _load(self, inputs: Input) -> None:
        init = self._marked.get("init_handler")
        self._model = init(inputs.get_property("model_dir")) if init else None
        if self._model is None:
            self._data_model = self._load_data()
            self._model = self._data_model and self._data_model.model
        if self._model is None and "prediction_handler" not in self._marked:
            raise ModelLoadError(
                f"{self._file} has no @prediction_handler, nor a model: its @init_handler returns none, and there are "
                "no files of one beside it that a framework here knows."
            )

    def _answer(self, inputs: Input) -> Output:
        content_type = inputs.get_property("content-type")
        read, predict, write = (self._marked.get(each) for each in _MARKS[1:])
        if read:
            data = read(inputs, content_type=content_type)
        elif self._data_model is not None:
            arrays = self._data_model.read({"body": inputs.get_as_bytes()}, inputs.get_properties())
            data = self._data_model.for_program(arrays)
        else:
            data = inputs.get_data()
        prediction = predict(data, self._model) if predict else None
        if prediction is None:
            prediction = getattr(self._model, "predict", self._model)(data)
        answer = write(prediction) if write else {"predictions": prediction}
        return answer if isinstance(answer, Output) else Output().add(answer)
