"""What a .onnx file says of itself that ONNX Runtime does not tell: the operators that its outputs come from.

The file is a message of Protocol Buffers (onnx.proto): fields one after the other, each with its number and wire type
in front, a message inside another with its length. Only what is named here is looked at; weights are skipped.

    ModelProto    7 graph
    GraphProto    1 node (repeated)   12 output (repeated)
    NodeProto     1 input (repeated)  2 output (repeated)  4 op_type
    ValueInfoProto  1 name
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mme.errors import ModelLoadError

_GRAPH, _NODE, _GRAPH_OUTPUT, _NAME = 7, 1, 12, 1
_NODE_INPUT, _NODE_OUTPUT, _OPERATOR = 1, 2, 4
_VARINT, _FIXED_64, _MESSAGE, _FIXED_32 = 0, 1, 2, 5
# Operators behind which a probability is still one: they pass numbers on as they are, perhaps in another shape or type.
_TRANSPARENT = {"Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


class _Broken(Exception):
    """The file is no message, or ends too early."""


class _Field(NamedTuple):
    """One field of a message: where its content begins and ends in the file. Numbers are left out."""

    number: int
    start: int
    stop: int


def head_operators(path: Path) -> tuple[str, ...]:
    """The operator that each output of the graph comes from, seen through those that only change a shape or a type.

    Empty for an output that is an input. Raises ``ModelLoadError`` for a file that ends too early or is none of ONNX.
    """
    size = path.stat().st_size
    try:
        if size == 0:
            raise _Broken
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _head_operators(data, size)
    except (_Broken, UnicodeDecodeError):
        raise ModelLoadError(
            f"{path} is no whole ONNX file ({size} bytes): it is truncated, or something else under that name. Export "
            "the model again, or make the archive again."
        ) from None


def _head_operators(data: mmap.mmap, size: int) -> tuple[str, ...]:
    graphs = [field for field in _fields(data, 0, size) if field.number == _GRAPH]
    if len(graphs) != 1:
        raise _Broken
    sources: dict[bytes, tuple[str, bytes]] = {}  # of each value: the operator that makes it, and its first input
    outputs = []
    for field in _fields(data, graphs[0].start, graphs[0].stop):
        if field.number == _NODE:
            operator, first_input = "", b""
            made = []
            for part in _fields(data, field.start, field.stop):
                if part.number == _NODE_OUTPUT:
                    made.append(data[part.start : part.stop])
                elif part.number == _OPERATOR:
                    operator = data[part.start : part.stop].decode()
                elif part.number == _NODE_INPUT and not first_input:
                    first_input = data[part.start : part.stop]
            sources.update(dict.fromkeys(made, (operator, first_input)))
        elif field.number == _GRAPH_OUTPUT:
            names = (part for part in _fields(data, field.start, field.stop) if part.number == _NAME)
            outputs.append(next((data[part.start : part.stop] for part in names), b""))
    return tuple(_source(sources, output) for output in outputs)


def _source(sources: dict[bytes, tuple[str, bytes]], value: bytes) -> str:
    operator, first_input = sources.get(value, ("", b""))
    for _ in range(len(sources)):
        if operator not in _TRANSPARENT:
            break
        operator, first_input = sources.get(first_input, ("", b""))
    return operator


def _fields(data: mmap.mmap, position: int, stop: int) -> Iterator[_Field]:
    """The fields of the message from ``position`` to ``stop`` that have a length."""
    while position < stop:
        key, position = _varint(data, position, stop)
        number, wire_type = key >> 3, key & 7
        if wire_type == _MESSAGE:
            length, position = _varint(data, position, stop)
            if length > stop - position:
                raise _Broken
            yield _Field(number, position, position + length)
            position += length
        elif wire_type == _VARINT:
            _, position = _varint(data, position, stop)
        elif wire_type in (_FIXED_64, _FIXED_32):
            position += 8 if wire_type == _FIXED_64 else 4
        else:
            raise _Broken
        if number == 0 or position > stop:
            raise _Broken


def _varint(data: mmap.mmap, position: int, stop: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while position < stop and shift < 64:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _Broken
