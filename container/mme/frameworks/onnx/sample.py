"""A tiny network for small RGB images: what a template runs once, so that its workers need not (``Adapter``).

The package ``onnx``, which writes such files, is not among the container's: 90 MB for something that is written once.
So the few messages of Protocol Buffers that a network is made of are written here, field by field (onnx.proto).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mme.frameworks.onnx import SUFFIX

SHAPE = (1, 3, 32, 32)
INPUT, OUTPUT = "image", "scores"
_CLASSES = 8
_IR_VERSION, _OPSET = 8, 13
_FLOAT = 1  # TensorProto.DataType
_ATTRIBUTE_INTS, _ATTRIBUTE_INT = 7, 2  # AttributeProto.AttributeType


def network() -> bytes:
    """A network of the operators that most image models have: (N, 3, 32, 32) in, (N, 8) probabilities out."""
    nodes = [
        _node("Conv", [INPUT, "first"], "a", kernel_shape=(5, 5), strides=(2, 2), pads=(2, 2, 2, 2)),
        _node("Relu", ["a"], "b"),
        _node("MaxPool", ["b"], "c", kernel_shape=(3, 3), strides=(2, 2)),
        _node("Conv", ["c", "second", "bias"], "d", kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
        _node("BatchNormalization", ["d", "ones", "bias", "bias", "ones"], "e"),
        _node("Relu", ["e"], "f"),
        _node("Add", ["f", "c"], "g"),
        _node("Concat", ["f", "g"], "h", axis=1),
        _node("GlobalAveragePool", ["h"], "i"),
        _node("Flatten", ["i"], "j", axis=1),
        _node("Gemm", ["j", "weights", "bias"], "k", transB=1),
        _node("Softmax", ["k"], OUTPUT, axis=1),
    ]
    tensors = {
        "first": np.full((8, 3, 5, 5), 0.01),
        "second": np.full((8, 8, 3, 3), 0.01),
        "ones": np.ones(8),
        "bias": np.zeros(8),
        "weights": np.full((_CLASSES, 16), 0.01),
    }
    graph = b"".join(_message(1, node) for node in nodes) + _text(2, "sample")
    graph += b"".join(_message(5, _tensor(name, array)) for name, array in tensors.items())
    graph += _message(11, _value(INPUT, SHAPE[1:])) + _message(12, _value(OUTPUT, (_CLASSES,)))
    return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, _text(1, "") + _number(2, _OPSET))


def write(folder: Path) -> None:
    """Writes the network as a model with labels."""
    (folder / f"sample{SUFFIX}").write_bytes(network())
    (folder / "synset.txt").write_text("".join(f"class {number}\n" for number in range(_CLASSES)))


# ---- messages ----


def _node(operator: str, inputs: list[str], output: str, **attributes: int | tuple[int, ...]) -> bytes:
    """NodeProto."""
    node = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator)
    return node + b"".join(_message(5, _attribute(name, value)) for name, value in attributes.items())


def _attribute(name: str, value: int | tuple[int, ...]) -> bytes:
    """AttributeProto."""
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, _ATTRIBUTE_INT)
    return _text(1, name) + b"".join(_number(8, each) for each in value) + _number(20, _ATTRIBUTE_INTS)


def _tensor(name: str, array: np.ndarray) -> bytes:
    """TensorProto, of float32."""
    dimensions = b"".join(_number(1, size) for size in array.shape)
    return dimensions + _number(2, _FLOAT) + _text(8, name) + _message(9, array.astype("<f4").tobytes())


def _value(name: str, sample_shape: tuple[int, ...]) -> bytes:
    """ValueInfoProto: float32, (N, *sample shape)."""
    sizes = _message(1, _text(2, "N")) + b"".join(_message(1, _number(1, size)) for size in sample_shape)
    return _text(1, name) + _message(2, _message(1, _number(1, _FLOAT) + _message(2, sizes)))


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
