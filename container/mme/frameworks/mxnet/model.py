"""A loaded MXNet model: the network bound to its weights for each batch size, and MXNet's own reader of images."""

from __future__ import annotations

import ctypes
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mme.errors import InsufficientMemory
from mme.frameworks.base import Predictor, means_no_memory, memory_errors, softmax
from mme.frameworks.mxnet.layout import Layout, Shapes
from mme.settings import Settings

logger = logging.getLogger(__name__)

# A network that has run so often is asked a lot: from here on it pays to have its operators fused.
PASSES_BEFORE_FUSING = 20
# Fused operators keep a copy of their weights of their own, and binding holds one request up: 50 ms for 5 MB of them.
MOST_BYTES_TO_FUSE = 16 << 20
_FUSING_BACK_END = "MKLDNN"
# Fused, the numbers are added up in another order.
_MOST_DEVIATION = 1e-5

# operators whose output already is a probability for each class
_PROBABILITIES = {"SoftmaxOutput", "Softmax", "SoftmaxActivation", "softmax", "softmin", "_npx_softmax"}
_PROBABILITIES |= {"sigmoid", "_npx_sigmoid", "hard_sigmoid", "LogisticRegressionOutput"}

# of the arguments and outputs of a pass
Inferred = tuple[list[tuple[int, ...]], list[tuple[int, ...]]]


class _Bound:
    """The network bound for one batch size: weights are shared with all others.

    ``run`` calls MXNet's C interface as ``NDArray._sync_copyfrom``, ``Executor.forward`` and ``NDArray.asnumpy`` do,
    which ask it for shapes, types and outputs each time. These are fixed once a network is bound.
    """

    def __init__(self, mx: Any, executor: Any, inputs: Mapping[str, Any]) -> None:
        """``inputs``: the NDArray of each input."""
        self._library = mx.base._LIB
        self._check = mx.base.check_call
        self.executor = executor
        self.passes = 0
        self._inputs = {name: _Array.of(array) for name, array in inputs.items()}
        self._outputs = [_Array.of(array) for array in executor.outputs]

    def run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One pass: whole inputs by name, and all outputs, which are the caller's own."""
        library, check = self._library, self._check
        for name, target in self._inputs.items():
            source = np.ascontiguousarray(arrays[name], target.dtype)
            if source.shape != target.shape:
                raise ValueError(f"input {name} has the shape {source.shape}; the network is bound for {target.shape}")
            check(library.MXNDArraySyncCopyFromCPU(target.array.handle, _address(source), ctypes.c_size_t(source.size)))
        check(library.MXExecutorForward(self.executor.handle, ctypes.c_int(0)))
        return [self._copy_of(output) for output in self._outputs]

    def _copy_of(self, output: _Array) -> np.ndarray:
        if output.is_sparse:
            copied: np.ndarray = output.array.asnumpy()
            return copied
        rows = np.empty(output.shape, output.dtype)
        handle = output.array.handle
        self._check(self._library.MXNDArraySyncCopyToCPU(handle, _address(rows), ctypes.c_size_t(rows.size)))
        return rows


@dataclass(frozen=True)
class _Array:
    """An NDArray, and what does not change of it."""

    array: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    is_sparse: bool

    @classmethod
    def of(cls, array: Any) -> _Array:
        return cls(array, array.shape, np.dtype(array.dtype), array.stype != "default")


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class MXNetModel(Predictor):
    """A bound network. N samples run in one pass, filled up with zeros to the next of a few sizes (``pass_size``).

    So any N is served without a new executor for each request: there is one per size, bound when it is first needed.
    More than ``max_samples_per_pass`` samples run in several passes, and a network whose graph fixes the batch runs in
    passes of just that size. A small network that is asked a lot is bound once more with its operators fused.
    """

    def __init__(
        self,
        mx: Any,
        symbol: Any,
        layout: Layout,
        arguments: dict[str, Any],
        auxiliary: dict[str, Any],
        head_op: str,
        device: Any,
        settings: Settings,
        *,
        declared: Inferred | None = None,
    ) -> None:
        """``declared``: shapes of arguments and outputs of a pass as declared, where they have been inferred."""
        self._mx = mx
        self._symbol = symbol
        self._arguments = arguments
        self._auxiliary = auxiliary
        self._head_op = head_op
        self._device = device
        self._most_samples = settings.max_samples_per_pass
        self._bound: dict[int, _Bound] = {}
        self._may_fuse = settings.mxnet_fuse == "auto"
        self._fused: _Bound | None = None  # one of the above
        self._shapes = Shapes(mx, symbol, {name: value.shape for name, value in arguments.items()})  # each asks MXNet
        self.inputs = self._inputs = layout.inputs
        self.output_names = _unique([name.removesuffix("_output") for name in symbol.list_outputs()])
        self.image_codec = MXNetImageCodec(mx)
        batch = layout.inputs[0].shape[0]
        self._inferred: dict[int, Inferred] = {} if declared is None else {batch: declared}  # that a pass will need
        self._fixed_batch = layout.fixed_batch
        self._moved_inputs = layout.moved_inputs
        self._moved_outputs = layout.outputs if any(layout.outputs) else ()

    @property
    def has_samples_first(self) -> bool:
        """Are samples counted by the first dimension of all inputs and outputs, in the network as in requests?"""
        return not self._moved_inputs and not self._moved_outputs

    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        samples = len(arrays[self.inputs[0].name])
        most = self._fixed_batch or self._most_samples
        try:
            with memory_errors(f"run {samples} samples through the network"):
                passes = []
                for start in range(0, samples, most):
                    count = min(most, samples - start)
                    chunk = arrays if count == samples else _rows(arrays, start, start + count)
                    passes.append(self._run(self._fixed_batch or pass_size(count, most), count, chunk))
                return _join(passes)
        except InsufficientMemory:
            # All executors own one pool of working memory, and each takes from it the smallest piece that is large
            # enough, be that one that could not be allocated just now. So all go; the next request binds anew.
            self._bound.clear()
            raise

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self._head_op in _PROBABILITIES:
            return scores
        if self._head_op in ("log_softmax", "_npx_log_softmax"):
            return np.exp(scores)
        return softmax(scores)

    def unload(self) -> None:
        self._bound.clear()
        self._arguments.clear()
        self._auxiliary.clear()

    def _run(self, batch: int, count: int, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """One pass of ``batch`` samples, of which the first ``count`` are in ``arrays`` and come back."""
        bound = self._bound.get(batch) or self._bind(batch)
        if count < batch:
            arrays = {name: _filled_up(arrays[name], batch) for name in arrays}
        if self._moved_inputs:
            arrays = {name: np.moveaxis(rows, 0, self._moved_inputs.get(name, 0)) for name, rows in arrays.items()}
        outputs = bound.run(arrays)
        bound.passes += 1
        if self._may_fuse and bound.passes >= PASSES_BEFORE_FUSING and self._fused not in self._bound.values():
            self._fuse(batch, arrays, outputs)  # for one size alone: each would have a copy of the weights
        if self._moved_outputs:
            moved = zip(outputs, self._moved_outputs, strict=True)
            outputs = [np.ascontiguousarray(np.moveaxis(rows, axis, 0)) for rows, axis in moved]
        if count < batch:  # an output may have several rows for each sample
            outputs = [rows[: len(rows) // batch * count] for rows in outputs]
        return [rows.astype(np.float32) if rows.dtype == np.float16 else rows for rows in outputs]

    def _fuse(self, batch: int, arrays: Mapping[str, np.ndarray], outputs: list[np.ndarray]) -> None:
        """Binds the network with its operators fused, where that gives the same ``outputs`` for ``arrays``."""
        if not _pays_to_fuse(self._device, [*self._arguments.values()]):
            self._may_fuse = False
            return
        plain = self._bound[batch]
        try:
            fused = self._bind(batch, self._symbol.optimize_for(_FUSING_BACK_END))
            same = all(map(_agree, fused.run(arrays), outputs))
        except (self._mx.base.MXNetError, MemoryError) as error:
            logger.info("The network is not fused: %s", error)
            same = False
        if same:
            self._fused = fused
        else:
            self._bound[batch], self._may_fuse = plain, False

    def _bind(self, batch: int, symbol: Any = None) -> _Bound:
        """Binds the network for ``batch`` samples to the weights that are loaded; working memory is shared as well.

        An executor takes the pieces of memory of a larger one, but adds to those of a smaller one. So the smaller ones
        go, and are bound anew where they are needed again: once for each size that is greater than all before.

        ``symbol``: the network with its operators fused; what it takes and gives has the same names and order.
        """
        if self._bound and batch > max(self._bound):
            self._bound.clear()
        mx, symbol = self._mx, self._symbol if symbol is None else symbol
        dtypes = {each.name: each.dtype for each in self._inputs}
        shapes, _ = self._inferred.pop(batch) if batch in self._inferred else self._shapes.infer(self._inputs, batch)
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
        self._bound[batch] = _Bound(mx, executor, inputs)
        return self._bound[batch]


def _pays_to_fuse(device: Any, weights: Sequence[Any]) -> bool:
    """oneDNN fuses operators on single precision, on a CPU."""
    if device.device_type != "cpu" or any(each.dtype != np.float32 or each.stype != "default" for each in weights):
        return False
    return sum(each.size for each in weights) * 4 <= MOST_BYTES_TO_FUSE


def _agree(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        return False
    size = np.abs(wanted).max(initial=0)
    return bool(np.allclose(found, wanted, rtol=_MOST_DEVIATION, atol=_MOST_DEVIATION * size, equal_nan=True))


def pass_size(samples: int, most: int) -> int:
    """How many samples a pass has that is to run ``samples`` of them: a power of two, one and a half, or ``most``.

    1, 2, 3, 4, 6, 8, 12, 16, 24 …: the time of a pass grows with its samples, so that powers of two alone would cost up
    to twice as much as is asked for, these up to one and a half.
    """
    power = 1 << (samples - 1).bit_length()
    three_quarters = power * 3 // 4
    return min(three_quarters if power > 2 and samples <= three_quarters else power, most)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names; the second of one name has ``_2`` behind it, and so on, so that an answer has each output."""
    unique: dict[str, None] = {}
    for name in names:
        others = (f"{name}_{number}" for number in itertools.count(2))
        unique[next(each for each in others if each not in {*unique, *names}) if name in unique else name] = None
    return tuple(unique)


def _filled_up(rows: np.ndarray, count: int) -> np.ndarray:
    """``rows`` with so many rows of zeros behind that there are ``count``."""
    filled = np.zeros((count, *rows.shape[1:]), rows.dtype)
    filled[: len(rows)] = rows
    return filled


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
        # shares the memory: MXNet copies bytes one by one; the view is what it makes read-only
        shared = self._mx.nd.from_numpy(np.ascontiguousarray(image).view())
        return self._mx.image.imresize(shared, width, height).asnumpy()

    def _array(self, pixels: np.ndarray) -> Any:
        """As ``mx.nd.array`` does it, which looks for SciPy's matrices each time by a name that SciPy warns about."""
        array = self._mx.nd.empty(pixels.shape, dtype=np.uint8)
        array._sync_copyfrom(np.ascontiguousarray(pixels))
        return array
