"""A loaded ONNX model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mme.errors import BadRequest, InsufficientMemory, ModelLoadError
from mme.frameworks.base import FREE, says_no_memory, softmax
from mme.frameworks.passes import PassPredictor
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


def brief(error: Exception) -> str:
    """ONNX Runtime's words without places in its source, in one line."""
    words = " ".join(_SOURCE.sub("", _PREFIX.sub("", str(error))).split())
    return words if len(words) <= _LONGEST_BRIEF else words[:_LONGEST_BRIEF] + " …"


class OnnxModel(PassPredictor):
    """A session of ONNX Runtime. ``source`` is its file; ``head_operators`` are those that its outputs come from."""

    def __init__(self, session: Any, source: str, head_operators: Sequence[str], settings: Settings) -> None:
        self.native = session
        self._head_operator = head_operators[0] if head_operators else ""
        inputs = {each.name: (_declared_shape(each.shape), _dtype(each, source)) for each in session.get_inputs()}
        if not inputs:
            raise ModelLoadError(f"{source} has no inputs: there is nothing that a request could give it.")
        outputs = [_declared_shape(each.shape) for each in session.get_outputs()]
        super().__init__(inputs, outputs, settings.max_samples_per_pass)
        self.output_shape = self._output_shape([each.type for each in session.get_outputs()], outputs)
        self.output_names = tuple(each.name for each in session.get_outputs())

    def _output_shape(self, types: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
        """That of a sample of the first output, where nothing but the number of samples is left open."""
        are_tensors = all(each.startswith("tensor(") for each in types)
        if not are_tensors or any(shape[:1] not in ((FREE,), (1,)) or FREE in shape[1:] for shape in shapes):
            return None
        return shapes[0][1:] if self.takes_samples_of_one_shape else None

    def run_pass(self, feed: Mapping[str, np.ndarray]) -> list[Any]:
        try:
            return self.native.run(None, feed)
        except (MemoryError, InsufficientMemory):
            raise
        except Exception as error:
            if says_no_memory(str(error)):
                raise MemoryError(brief(error)) from error
            shapes = ", ".join(f"{name} {rows.shape}" for name, rows in feed.items())
            raise BadRequest(f"The model does not take these inputs ({shapes}): {brief(error)}.") from None

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self._head_operator in _PROBABILITIES:
            return scores
        return np.exp(scores) if self._head_operator == "LogSoftmax" else softmax(scores)

    def unload(self) -> None:
        self.native = None


def _declared_shape(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else FREE for size in shape)


def _dtype(declared: Any, source: str) -> np.dtype:
    if declared.type not in _TYPES:
        raise ModelLoadError(
            f"{source} takes {declared.name} as {declared.type}, which cannot be sent to it. An input is one of "
            f"{', '.join(_TYPES)}: export the model with a Cast behind its input."
        )
    return np.dtype(_TYPES[declared.type])
