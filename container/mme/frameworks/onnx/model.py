"""A loaded ONNX model: what it takes, and passes through it.

The first axis of its inputs decides how samples are run:

    free                                 as many at once as ``max_samples_per_pass`` allows
    n in all inputs and outputs          n at once; fewer are filled up with zeros
    1, or something else                 one after the other; an input without an axis for samples is given one
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mme.errors import BadRequest, InsufficientMemory, ModelLoadError
from mme.frameworks.base import FREE, Predictor, TensorSpec, memory_errors, says_no_memory, softmax
from mme.settings import Settings

_TYPES: Mapping[str, Any] = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "tensor(bool)": np.bool_,
    "tensor(string)": object,
}
_PROBABILITIES = {"Softmax", "Sigmoid"}
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ [^\n]*?\) (?=\S)|\w+\.(?:cc|h):\d+ \S+ ")
_LONGEST_BRIEF = 300
_TRIED_LENGTHS = (1, 8, 32, 224)  # of texts, and of images


def brief(error: Exception) -> str:
    """ONNX Runtime's words without places in its source, in one line."""
    words = " ".join(_SOURCE.sub("", _PREFIX.sub("", str(error))).split())
    return words if len(words) <= _LONGEST_BRIEF else words[:_LONGEST_BRIEF] + " …"


class OnnxModel(Predictor):
    """A session of ONNX Runtime. ``source`` is its file; ``head_operators`` are those that its outputs come from."""

    def __init__(self, session: Any, source: str, head_operators: Sequence[str], settings: Settings) -> None:
        self._session = session
        self._head_operator = head_operators[0] if head_operators else ""
        declared = {each.name: _declared_shape(each.shape) for each in session.get_inputs()}
        if not declared:
            raise ModelLoadError(f"{source} has no inputs: there is nothing that a request could give it.")
        outputs = [_declared_shape(each.shape) for each in session.get_outputs()]
        self._at_once = _samples_at_once(list(declared.values()), outputs, settings.max_samples_per_pass)
        self._is_filled_up = self._at_once > 1 and all(shape[:1] == (self._at_once,) for shape in declared.values())
        self._without_axis = {
            name for name, shape in declared.items() if self._at_once == 1 and shape[:1] not in ((1,), (FREE,))
        }
        first = self._at_once if self._is_filled_up else 1
        self.inputs = tuple(
            TensorSpec(each.name, (first, *self._sample_shape(declared, each.name)), _dtype(each, source))
            for each in session.get_inputs()
        )
        self._types = {each.name: each.dtype for each in self.inputs}
        self.output_names = tuple(each.name for each in session.get_outputs())

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        samples = len(next(iter(arrays.values())))
        with memory_errors(f"run {samples} samples through the model"):
            passes = [
                self._run({name: rows[start : start + self._at_once] for name, rows in arrays.items()})
                for start in range(0, samples, self._at_once)
            ]
            return passes[0] if len(passes) == 1 else list(map(np.concatenate, zip(*passes, strict=True)))

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self._head_operator in _PROBABILITIES:
            return scores
        return np.exp(scores) if self._head_operator == "LogSoftmax" else softmax(scores)

    def sample(self) -> dict[str, np.ndarray]:
        """Zeros, of the first of a few lengths that the model can do with where it leaves lengths open."""
        for length in _TRIED_LENGTHS if any(each.is_free for each in self.inputs) else ():
            arrays = {each.name: each.blank(length) for each in self.inputs}
            try:
                self.predict(arrays)
            except BadRequest:
                continue
            return arrays
        return super().sample()

    def unload(self) -> None:
        self._session = None

    def _sample_shape(self, declared: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
        return declared[name] if name in self._without_axis else declared[name][1:]

    def _run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One pass of at most so many samples as fit into one."""
        count = len(next(iter(arrays.values())))
        feed = {}
        for name, rows in arrays.items():
            fed = rows[0] if name in self._without_axis else rows
            if self._is_filled_up and count < self._at_once:
                fed = np.concatenate([fed, np.zeros((self._at_once - count, *fed.shape[1:]), fed.dtype)])
            feed[name] = np.asarray(fed, self._types[name], order="C")  # an image comes as float32
        outputs = [_as_array(value) for value in self._call(feed)]
        if len(self._without_axis) == len(arrays):
            outputs = [each[np.newaxis] for each in outputs]
        if self._is_filled_up:
            outputs = [rows[: len(rows) // self._at_once * count] for rows in outputs]
        return [rows if rows.ndim else rows[np.newaxis] for rows in outputs]

    def _call(self, feed: Mapping[str, np.ndarray]) -> list[Any]:
        """Runs the session. Raises ``BadRequest`` for numbers or lengths that an operator cannot do with."""
        try:
            return self._session.run(None, feed)
        except (MemoryError, InsufficientMemory):
            raise
        except Exception as error:
            if says_no_memory(str(error)):
                raise MemoryError(brief(error)) from error
            shapes = ", ".join(f"{name} {rows.shape}" for name, rows in feed.items())
            raise BadRequest(f"The model does not take these inputs ({shapes}): {brief(error)}.") from None


def _declared_shape(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else FREE for size in shape)


def _samples_at_once(inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], most: int) -> int:
    firsts = {shape[0] if shape else 0 for shape in inputs}
    if firsts == {FREE}:
        return most
    (first,) = firsts if len(firsts) == 1 else (0,)
    kept = all(shape and shape[0] in (first, FREE) for shape in outputs)
    kept = kept and all(len(shape) > 1 for shape in inputs)  # n numbers are one sample rather than n of one
    return first if kept and first > 1 else 1


def _dtype(declared: Any, source: str) -> np.dtype:
    if declared.type not in _TYPES:
        raise ModelLoadError(
            f"{source} takes {declared.name} as {declared.type}, which cannot be sent to it. An input is one of "
            f"{', '.join(_TYPES)}: export the model with a Cast behind its input."
        )
    return np.dtype(_TYPES[declared.type])


def _as_array(value: Any) -> np.ndarray:
    """An output as an array: numbers, text, or for sequences and maps an object for each entry."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.float16:
            return value.astype(np.float32)
        return value.astype(str) if value.dtype == object else value
    entries = value if isinstance(value, list) else [value]
    array = np.empty(len(entries), object)
    for position, entry in enumerate(entries):
        array[position] = _plain(entry)
    return array


def _plain(value: Any) -> Any:
    """What JSON can say of it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
