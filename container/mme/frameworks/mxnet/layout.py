"""Which axis of each input and output of a network counts the samples.

It is the first, unless ``"batch_axis"`` in *-shapes.json or the graph says otherwise: recurrent networks of MXNet take
the time first, (time, batch, features), and have states (layers, batch, units). Requests and answers have the samples
first in any case.

What counts samples grows with them, so that shapes alone tell it of outputs: they are inferred for two batches, and
nothing is run. Of inputs they tell it only where an operator has a known layout, as ``RNN`` has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mme.frameworks.base import TensorSpec

Shape = tuple[int, ...]

# Operators that keep rows of samples in order, whatever they are reshaped to. Behind others (a transposition, a
# concatenation of batches) several rows for each sample may lie between those of other samples.
_KEEP_ORDER = {"Activation", "BatchNorm", "Convolution", "Deconvolution", "Dropout", "Embedding", "Flatten"}
_KEEP_ORDER |= {"FullyConnected", "LayerNorm", "LeakyReLU", "Pooling", "Reshape", "SoftmaxActivation", "SoftmaxOutput"}
_KEEP_ORDER |= {"_copy", "_div_scalar", "_minus_scalar", "_mul_scalar", "_plus_scalar", "_power_scalar", "null"}
_KEEP_ORDER |= {"elemwise_add", "elemwise_mul", "elemwise_sub", "flatten", "identity", "log_softmax", "relu"}
_KEEP_ORDER |= {"reshape", "sigmoid", "softmax", "tanh"}


class Ambiguous(Exception):
    """The shapes and the graph do not tell what counts samples; says why."""


@dataclass(frozen=True)
class Input(TensorSpec):
    """An input of a network. ``shape`` has the samples first, as requests have; the network has them elsewhere."""

    batch_axis: int | None = None  # where the network has the samples; None: not said, which is first

    @classmethod
    def declared(cls, name: str, shape: Shape, dtype: Any, batch_axis: int | None) -> Input:
        """``shape`` is that of one pass as the network takes it."""
        axis = batch_axis or 0
        return cls(name, (shape[axis], *shape[:axis], *shape[axis + 1 :]), dtype, batch_axis=batch_axis)

    @property
    def axis(self) -> int:
        """Where the network has the samples."""
        return self.batch_axis or 0

    @property
    def pass_shape(self) -> Shape:
        """The shape of one pass as declared."""
        return self.shape_for(self.shape[0])

    def shape_for(self, batch: int) -> Shape:
        """The shape of a pass of ``batch`` samples, as the network takes it."""
        sample = self.sample_shape
        return (*sample[: self.axis], batch, *sample[self.axis :])

    def moved_to(self, axis: int) -> Input:
        """The same input of the network, its samples counted by another axis."""
        return Input.declared(self.name, self.pass_shape, self.dtype, axis)


@dataclass(frozen=True)
class Layout:
    """Where the samples of a pass are. ``fixed_batch``: how many each pass has; None: any number of them."""

    inputs: tuple[Input, ...]
    outputs: tuple[int, ...]
    fixed_batch: int | None

    @property
    def moved_inputs(self) -> dict[str, int]:
        """The axis of those inputs that have it elsewhere than first."""
        return {each.name: each.axis for each in self.inputs if each.axis}


@dataclass(frozen=True)
class Shapes:
    """What MXNet infers of a network. ``weights``: their shapes by name, which must be the network's own."""

    mx: Any
    symbol: Any
    weights: Mapping[str, Shape]

    def infer(self, inputs: Sequence[Input], batch: int) -> tuple[list[Shape], list[Shape]]:
        """Shapes of arguments and outputs for a pass of ``batch`` samples. Raises ``MXNetError``."""
        known = {**self.weights, **{each.name: each.shape_for(batch) for each in inputs}}
        # raises as infer_shape does, but does not print all parameters
        arguments, outputs, _ = self.symbol.infer_shape_partial(**known)
        return arguments, outputs

    def of_outputs(self, inputs: Sequence[Input], batch: int) -> list[Shape] | None:
        """Shapes of the outputs; None where the network does not take such a batch."""
        try:
            _, outputs = self.infer(inputs, batch)
        except self.mx.base.MXNetError:
            return None
        return outputs if all(map(is_known, outputs)) else None


def tell(
    shapes: Shapes,
    inputs: tuple[Input, ...],
    operators: frozenset[str],
    outputs: Sequence[Shape],
    time_major: Shapes | None = None,
) -> Layout:
    """The layout of a network that gives ``outputs`` for a pass as declared. Raises ``Ambiguous``.

    ``time_major``: the part of the network that ends in what operators of a known layout are fed: (time, batch, …).
    """
    if all(each.batch_axis is None for each in inputs):
        if time_major is not None:
            told = _told_by(time_major, inputs)
            if told is None and inputs[0].shape[0] > 1:
                raise Ambiguous("the network has operators that take (time, batch, …), RNN for one")
            if told is None:  # a pass as declared is right, whatever its first axis is
                return Layout(inputs, (0,) * len(outputs), 1)
            inputs = told
        elif _may_have_the_time_first(shapes, inputs):
            raise Ambiguous(f"the network takes other sizes on the second dimension of {inputs[0].name} as well")
    return _with_axes_of_outputs(shapes, inputs, operators, outputs)


def is_known(shape: Shape) -> bool:
    """Is this a whole shape? MXNet 1 says () or a dimension of 0 for what it could not infer."""
    return len(shape) > 0 and 0 not in shape


def _told_by(time_major: Shapes, inputs: tuple[Input, ...]) -> tuple[Input, ...] | None:
    """The inputs with the axis whose size is that of the batch where the batch is known to be the second axis."""
    fed = set(time_major.symbol.list_arguments())
    for axis in (0, 1):
        moved = _all_moved(inputs, axis)
        if moved is None:
            continue
        batch, other = _two_batches(moved)
        needed = [each for each in moved if each.name in fed]  # the operator's states, say, are inputs of their own
        before, after = time_major.of_outputs(needed, batch), time_major.of_outputs(needed, other)
        if before is None or after is None:
            continue
        if all(_axis_of(one, two, batch, other) == 1 for one, two in zip(before, after, strict=True)):
            return moved
    return None


def _may_have_the_time_first(shapes: Shapes, inputs: tuple[Input, ...]) -> bool:
    """(n, 1, …), n > 1: are these n samples, or one of n steps? Either may be, where the second axis may grow, too."""
    if inputs[0].shape[0] == 1 or any(each.shape[1:2] != (1,) for each in inputs):
        return False
    moved = _all_moved(inputs, 1)
    if moved is None:
        return False
    before, after = shapes.of_outputs(moved, 1), shapes.of_outputs(moved, 2)
    if before is None or after is None:
        return False
    return all(_axis_of(one, two, 1, 2) is not None for one, two in zip(before, after, strict=True))


def _all_moved(inputs: tuple[Input, ...], axis: int) -> tuple[Input, ...] | None:
    if any(len(each.shape) <= axis for each in inputs):
        return None
    moved = tuple(each.moved_to(axis) for each in inputs)
    return moved if len({each.shape[0] for each in moved}) == 1 else None


def _with_axes_of_outputs(
    shapes: Shapes, inputs: tuple[Input, ...], operators: frozenset[str], outputs: Sequence[Shape]
) -> Layout:
    batch, other = _two_batches(inputs)
    keeps_order = operators <= _KEEP_ORDER and not any(each.axis for each in inputs)
    found = shapes.of_outputs(inputs, other)
    axes = (
        [None] * len(outputs)
        if found is None
        else [_axis_of(one, two, batch, other) for one, two in zip(outputs, found, strict=True)]
    )
    if batch > 1 and None in axes:  # MXNet may infer shapes of a batch that it cannot run: of a reshape, for one
        return Layout(inputs, tuple(_axis_of_fixed(shape, inputs, batch, keeps_order) for shape in outputs), batch)
    has_a_row_each = [axis is not None and shape[axis] == batch for axis, shape in zip(axes, outputs, strict=True)]
    is_free = all(each or (axis == 0 and keeps_order) for each, axis in zip(has_a_row_each, axes, strict=True))
    moved = tuple(axis if each and axis else 0 for each, axis in zip(has_a_row_each, axes, strict=True))
    return Layout(inputs, moved, None if is_free else 1)


def _axis_of(shape: Shape, other_shape: Shape, batch: int, other: int) -> int | None:
    """The only axis that differs, and grows with the batch."""
    if len(shape) != len(other_shape):
        return None
    differ = [axis for axis, sizes in enumerate(zip(shape, other_shape, strict=True)) if sizes[0] != sizes[1]]
    if len(differ) != 1 or shape[differ[0]] * other != other_shape[differ[0]] * batch:
        return None
    return differ[0]


def _axis_of_fixed(shape: Shape, inputs: Sequence[Input], batch: int, keeps_order: bool) -> int:
    """The axis of an output of a network that takes no other batch than declared. Raises ``Ambiguous``."""
    is_first = not any(each.axis for each in inputs)
    if is_first and shape[0] == batch:
        return 0
    axes = [axis for axis, size in enumerate(shape) if size == batch]
    if len(axes) == 1:
        return axes[0]
    if not axes and keeps_order and shape[0] % batch == 0:
        return 0
    raise Ambiguous(f"the network takes {batch} samples at a time, and an output {shape} does not tell where they are")


def _two_batches(inputs: Sequence[Input]) -> tuple[int, int]:
    """The batch as declared, and another."""
    batch = inputs[0].shape[0]
    return batch, 1 if batch > 1 else 2
