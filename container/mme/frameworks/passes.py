"""Samples run through a network in passes, as the first axis of its inputs allows.

free                                 as many at once as ``max_samples_per_pass`` allows
n in all inputs and outputs          n at once; fewer are filled up with zeros
1, or something else                 one after the other; an input without an axis for samples is given one
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mme.errors import BadRequest
from mme.frameworks.base import FREE, Predictor, TensorSpec, memory_errors

Shape = tuple[int, ...]  # ``FREE`` for what may be of any length
_TRIED_LENGTHS = (1, 8, 32, 224)  # of texts, and of images


class PassPredictor(Predictor):
    """A network that knows the shapes of its inputs. ``run_pass`` is the framework's own call."""

    def __init__(
        self, inputs: Mapping[str, tuple[Shape, np.dtype]], outputs: Sequence[Shape], most_samples: int
    ) -> None:
        """``inputs``: the declared shape and type of each, first axis included; ``outputs``: their shapes as known."""
        shapes = {name: shape for name, (shape, _) in inputs.items()}
        self._at_once = _samples_at_once(list(shapes.values()), outputs, most_samples)
        self._is_filled_up = self._at_once > 1 and all(shape[:1] == (self._at_once,) for shape in shapes.values())
        self._without_axis = {
            name for name, shape in shapes.items() if self._at_once == 1 and shape[:1] not in ((1,), (FREE,))
        }
        first = self._at_once if self._is_filled_up else 1
        self.inputs = tuple(
            TensorSpec(name, (first, *(shape if name in self._without_axis else shape[1:])), dtype)
            for name, (shape, dtype) in inputs.items()
        )
        self._types = {each.name: each.dtype for each in self.inputs}

    @property
    def takes_samples_of_one_shape(self) -> bool:
        """Is everything about the inputs known, and their first axis that of the samples?"""
        return not self._without_axis and not self._is_filled_up and not any(each.is_free for each in self.inputs)

    @abstractmethod
    def run_pass(self, feed: Mapping[str, np.ndarray]) -> Sequence[Any]:
        """Runs arrays of the declared shapes. Raises ``BadRequest`` for what the network cannot do with."""

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        samples = len(next(iter(arrays.values())))
        with memory_errors(f"run {samples} samples through the model"):
            passes = [
                self._run({name: rows[start : start + self._at_once] for name, rows in arrays.items()})
                for start in range(0, samples, self._at_once)
            ]
            return passes[0] if len(passes) == 1 else list(map(np.concatenate, zip(*passes, strict=True)))

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

    def _run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One pass of at most so many samples as fit into one."""
        count = len(next(iter(arrays.values())))
        feed = {}
        for name, rows in arrays.items():
            fed = rows[0] if name in self._without_axis else rows
            if self._is_filled_up and count < self._at_once:
                fed = np.concatenate([fed, np.zeros((self._at_once - count, *fed.shape[1:]), fed.dtype)])
            feed[name] = np.asarray(fed, self._types[name], order="C")  # an image comes as float32
        outputs = [as_array(value) for value in self.run_pass(feed)]
        if len(self._without_axis) == len(arrays):
            outputs = [each[np.newaxis] for each in outputs]
        if self._is_filled_up:
            outputs = [rows[: len(rows) // self._at_once * count] for rows in outputs]
        return [rows if rows.ndim else rows[np.newaxis] for rows in outputs]


def _samples_at_once(inputs: Sequence[Shape], outputs: Sequence[Shape], most: int) -> int:
    firsts = {shape[0] if shape else 0 for shape in inputs}
    if firsts == {FREE}:
        return most
    (first,) = firsts if len(firsts) == 1 else (0,)
    kept = all(shape and shape[0] in (first, FREE) for shape in outputs)
    kept = kept and all(len(shape) > 1 for shape in inputs)  # n numbers are one sample rather than n of one
    return first if kept and first > 1 else 1


def as_array(value: Any) -> np.ndarray:
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
