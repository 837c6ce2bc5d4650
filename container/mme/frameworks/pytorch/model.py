"""A loaded PyTorch model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mme.errors import BadRequest, InsufficientMemory
from mme.frameworks.base import means_no_memory, softmax
from mme.frameworks.passes import PassPredictor, Shape

_LONGEST_WORDS = 200
# the last step of a network that ends in probabilities: names of ATen
_PROBABILITIES, _LOGARITHMS = ("softmax", "sigmoid"), ("log_softmax",)


class TorchModel(PassPredictor):
    """A module that takes tensors, by position or by ``keywords``, and returns one, several in a tuple, or a dict."""

    def __init__(
        self,
        torch: Any,
        module: Any,
        inputs: Mapping[str, tuple[Shape, np.dtype]],
        outputs: Sequence[Shape],
        head: str,
        device: Any,
        most_samples: int,
    ) -> None:
        super().__init__(inputs, outputs, most_samples)
        self.native = module
        self._torch = torch
        self._head = head.rpartition("::")[2].split(".")[0].lstrip("_")
        self._device = device
        self.output_names: tuple[str, ...] = ("output",)

    def run_pass(self, feed: Mapping[str, np.ndarray]) -> Sequence[Any]:
        tensors = [self._torch.from_numpy(_writable(array)).to(self._device) for array in feed.values()]
        try:
            with self._torch.inference_mode():
                value = self.native(*tensors)
        except (MemoryError, InsufficientMemory):
            raise
        except Exception as error:
            if means_no_memory(error):
                raise
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
            words = (str(error).strip().splitlines() or [type(error).__name__])[-1][:_LONGEST_WORDS]
            raise BadRequest(f"The model does not take these inputs ({shapes}): {words}.") from None
        named = _named(value)
        self.output_names = tuple(named)
        return [self._as_numpy(each) for each in named.values()]

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self._head in _PROBABILITIES:
            return scores
        return np.exp(scores) if self._head in _LOGARITHMS else softmax(scores)

    def unload(self) -> None:
        self.native = None

    def _as_numpy(self, value: Any) -> Any:
        if not isinstance(value, self._torch.Tensor):
            return np.asarray(value)
        if value.dtype in (self._torch.bfloat16, self._torch.float16):
            value = value.float()
        return value.detach().cpu().contiguous().numpy()


def _writable(array: np.ndarray) -> np.ndarray:
    """PyTorch warns of memory that may not be written to: a request's own bytes."""
    return array if array.flags.writeable else array.copy()


def _named(value: Any) -> dict[str, Any]:
    """The outputs by name."""
    if isinstance(value, Mapping):
        return {str(name): each for name, each in value.items()}
    if isinstance(value, tuple | list):
        names = getattr(value, "_fields", None) or [f"output_{number}" for number in range(len(value))]
        return dict(zip(names, value, strict=True)) if len(value) != 1 else {"output": value[0]}
    return {"output": value}
