"""An NDList, in which DJL sends arrays: ``tensor/ndlist``.

    int     number of arrays; for each:
    text    "NDAR"
    int     3, the version
    byte    1 where a name follows, else 0
    text    the name
    text    the kind of array, "default" for a dense one
    text    the type, as NumPy names it, in capitals: FLOAT32
    int     number of axes; a long each
    int     number of axes' names; a char of 2 bytes each
    byte    '<' or '>', the order of bytes
    int     length of what follows
    bytes   the numbers, row by row

Numbers are written with their highest byte first. A text is its length in 2 bytes, and UTF-8.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

_MAGIC = "NDAR"
_VERSION = 3
_ZIP = b"PK"


def from_nd_list(encoded: bytes | bytearray) -> list[np.ndarray]:
    """The arrays of an NDList, or of an NPZ file. Raises ``ValueError`` for what is neither."""
    if encoded[:2] == _ZIP:
        with np.load(io.BytesIO(encoded), allow_pickle=False) as file:
            return [file[name] for name in file.files]
    reader = _Reader(encoded)
    try:
        return [reader.array() for _ in range(reader.number("i"))]
    except (struct.error, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"It is no NDList: {error}.") from None


class _Reader:
    def __init__(self, encoded: bytes | bytearray) -> None:
        self._encoded = memoryview(encoded)
        self._at = 0

    def number(self, kind: str) -> int:
        form = f">{kind}"
        (value,) = struct.unpack_from(form, self._encoded, self._at)
        self._at += struct.calcsize(form)
        return value

    def taken(self, length: int) -> memoryview:
        if not 0 <= length <= len(self._encoded) - self._at:
            raise ValueError(f"It is no NDList: {length} bytes where {len(self._encoded) - self._at} are left.")
        self._at += length
        return self._encoded[self._at - length : self._at]

    def text(self) -> str:
        return str(self.taken(self.number("h")), "utf-8")

    def array(self) -> np.ndarray:
        if (magic := self.text()) != _MAGIC or (version := self.number("i")) != _VERSION:
            what = magic if magic != _MAGIC else f"version {version}"
            raise ValueError(f"It is no NDList: {what!r} where {_MAGIC}, version {_VERSION}, should be.")
        if self.number("b"):
            self.text()
        self.text()
        dtype = np.dtype(self.text().lower())
        shape = [self.number("q") for _ in range(self.number("i"))]
        for _ in range(self.number("i")):
            self.number("h")
        order: Any = chr(self.number("b"))
        data = self.taken(self.number("i"))
        return np.frombuffer(data, dtype.newbyteorder(order)).reshape(shape)


def to_nd_list(np_list: np.ndarray | Sequence[np.ndarray]) -> bytearray:
    """Arrays, or one, as an NDList."""
    arrays = list(np_list) if isinstance(np_list, list | tuple) else [np_list]
    encoded = bytearray(struct.pack(">i", len(arrays)))
    for array in map(np.asarray, arrays):
        data = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes()
        encoded += _text(_MAGIC) + struct.pack(">ib", _VERSION, 0) + _text("default") + _text(array.dtype.name.upper())
        encoded += struct.pack(f">i{array.ndim}q", array.ndim, *array.shape)
        encoded += struct.pack(f">i{array.ndim}h", array.ndim, *[ord("?")] * array.ndim)
        encoded += struct.pack(">ci", b"<", len(data)) + data
    return encoded


def _text(value: Any) -> bytes:
    return struct.pack(">h", len(value.encode())) + value.encode()
