"""A loaded MXNet model: the network bound to its weights for each batch size, and MXNet's own reader of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mme.errors import InsufficientMemory
from mme.frameworks.base import Model, TensorSpec, means_no_memory, memory_errors
from mme.settings import Settings

# operators whose output already is a probability for each class
_PROBABILITIES = {"SoftmaxOutput", "Softmax", "SoftmaxActivation", "softmax", "sigmoid", "LogisticRegressionOutput"}


@dataclass
class _Bound:
    """The network bound for one batch size: weights are shared with all others."""

    executor: Any
    inputs: dict[str, Any]  # input -> its NDArray


class MXNetModel(Model):
    """A bound network. Executors are kept per batch size; N samples run in passes of powers of two.

    So any N is served without a new executor (at most log2(``max_samples_per_pass``) + 1 of them exist) and without
    a padded sample. A network whose graph fixes the batch is run in passes of just that size.
    """

    def __init__(
        self,
        mx: Any,
        symbol: Any,
        inputs: tuple[TensorSpec, ...],
        arguments: dict[str, Any],
        auxiliary: dict[str, Any],
        head_op: str,
        device: Any,
        settings: Settings,
    ) -> None:
        self._mx = mx
        self._symbol = symbol
        self._arguments = arguments
        self._auxiliary = auxiliary
        self._head_op = head_op
        self._device = device
        self._most_samples = settings.max_samples_per_pass
        self._bound: dict[int, _Bound] = {}
        self.inputs = inputs
        self.output_names = tuple(name.removesuffix("_output") for name in symbol.list_outputs())
        self.image_codec = MXNetImageCodec(mx)
        self._fixed_batch: int | None = None
        declared = inputs[0].shape[0]
        if not self._takes_batch(1 if declared > 1 else 2, declared):
            self._fixed_batch = declared

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        samples = len(arrays[self.inputs[0].name])
        try:
            with memory_errors(f"run {samples} samples through the network"):
                if self._fixed_batch:
                    return self._predict_fixed(arrays, samples, self._fixed_batch)
                passes = []
                start = 0
                for batch in self._pass_sizes(samples):
                    chunk = arrays if batch == samples else _rows(arrays, start, start + batch)
                    passes.append(self._run(batch, chunk))
                    start += batch
                return _join(passes)
        except InsufficientMemory:
            # All executors own one pool of working memory, and each takes from it the smallest piece that is large
            # enough, be that one that could not be allocated just now. So all go; the next request binds anew.
            self._bound.clear()
            raise

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self._head_op in _PROBABILITIES:
            return scores
        if self._head_op == "log_softmax":
            return np.exp(scores)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def unload(self) -> None:
        self._bound.clear()
        self._arguments.clear()
        self._auxiliary.clear()

    def _pass_sizes(self, samples: int) -> list[int]:
        """Powers of two whose sum is ``samples``, the largest first."""
        largest = 1 << (self._most_samples.bit_length() - 1)
        sizes = [largest] * (samples // largest)
        rest = samples % largest
        return sizes + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]

    def _predict_fixed(self, arrays: Mapping[str, np.ndarray], samples: int, batch: int) -> list[np.ndarray]:
        passes = []
        for start in range(0, samples, batch):
            chunk = _rows(arrays, start, start + batch)
            short = batch - min(batch, samples - start)
            if short:
                chunk = {
                    name: np.concatenate([rows, np.zeros((short, *rows.shape[1:]), rows.dtype)])
                    for name, rows in chunk.items()
                }
            outputs = self._run(batch, chunk)
            passes.append([rows[: len(rows) // batch * (batch - short)] for rows in outputs] if short else outputs)
        return _join(passes)

    def _run(self, batch: int, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        bound = self._bound.get(batch) or self._bind(batch)
        for name, target in bound.inputs.items():
            target._sync_copyfrom(np.ascontiguousarray(arrays[name]))
        outputs = [output.asnumpy() for output in bound.executor.forward(is_train=False)]
        return [rows.astype(np.float32) if rows.dtype == np.float16 else rows for rows in outputs]

    def _bind(self, batch: int) -> _Bound:
        """Binds the network for ``batch`` samples to the weights that are loaded; working memory is shared as well."""
        mx, symbol = self._mx, self._symbol
        dtypes = {each.name: each.dtype for each in self.inputs}
        shapes, _, _ = symbol.infer_shape_partial(**self._known_shapes(batch))
        arguments, inputs = {}, {}
        for name, shape in zip(symbol.list_arguments(), shapes, strict=True):
            if name in self._arguments:
                arguments[name] = self._arguments[name]
            else:  # an input, or a label, which must be there though nothing reads it
                arguments[name] = mx.nd.zeros(shape, ctx=self._device, dtype=dtypes.get(name, np.float32))
                if name in dtypes:
                    inputs[name] = arguments[name]
        largest = self._bound[max(self._bound)].executor if self._bound else None
        executor = symbol.bind(
            self._device, arguments, grad_req="null", aux_states=self._auxiliary, shared_exec=largest
        )
        self._bound[batch] = _Bound(executor, inputs)
        return self._bound[batch]

    def _takes_batch(self, batch: int, declared: int) -> bool:
        """Does the graph work for ``batch`` samples too, with outputs that grow and shrink with it?

        ``infer_shape_partial`` raises as ``infer_shape`` does, but does not print all parameters.
        """
        try:
            _, outputs, _ = self._symbol.infer_shape_partial(**self._known_shapes(batch))
            _, declared_outputs, _ = self._symbol.infer_shape_partial(**self._known_shapes(declared))
        except self._mx.base.MXNetError:
            return False
        return all(
            is_known(shape) and shape[0] * declared == declared_shape[0] * batch and shape[1:] == declared_shape[1:]
            for shape, declared_shape in zip(outputs, declared_outputs, strict=True)
        )

    def _known_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = {name: value.shape for name, value in self._arguments.items()}
        return shapes | {each.name: (batch, *each.sample_shape) for each in self.inputs}


def _rows(arrays: Mapping[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: rows[start:stop] for name, rows in arrays.items()}


def _join(passes: list[list[np.ndarray]]) -> list[np.ndarray]:
    if len(passes) == 1:
        return passes[0]
    return [np.concatenate(parts) for parts in zip(*passes, strict=True)]


class MXNetImageCodec:
    """Reads images as ``mx.image.imdecode`` and ``imresize`` do, which is how the public sample feeds its models.

    OpenCV underneath: bilinear without antialiasing, and the EXIF orientation is not applied.
    """

    def __init__(self, mx: Any) -> None:
        self._mx = mx

    def read(self, body: bytes | bytearray, channels: int, height: int, width: int) -> np.ndarray | None:
        if channels not in (1, 3) or not body:
            return None
        try:
            image = self._mx.image.imdecode(self._array(np.frombuffer(body, np.uint8)), flag=0 if channels == 1 else 1)
        except self._mx.base.MXNetError as error:
            if means_no_memory(error):
                raise
            return None
        return self._mx.image.imresize(image, width, height).asnumpy()

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        return self._mx.image.imresize(self._array(image), width, height).asnumpy()

    def _array(self, pixels: np.ndarray) -> Any:
        """As ``mx.nd.array`` does it, which looks for SciPy's matrices each time by a name that SciPy warns about."""
        array = self._mx.nd.empty(pixels.shape, dtype=np.uint8)
        array._sync_copyfrom(np.ascontiguousarray(pixels))
        return array


def is_known(shape: tuple[int, ...]) -> bool:
    """Is this a whole shape? MXNet 1 says () or a dimension of 0 for what it could not infer."""
    return len(shape) > 0 and 0 not in shape
