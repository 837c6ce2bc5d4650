"""Numbers that one process of the server has found out, for the others: in shared memory, with their time.

What takes long to find out and is the same for all, each would else find out for itself: a thousand workers that take
turns would each look anew before its request. Any process writes, and none waits: a checksum tells numbers that two
have written at once, which count as none.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from pathlib import Path

_CHECKSUM = struct.Struct("<I")


class SharedNumbers:
    """``count`` numbers below 2^64 in ``file``; each process that opens it shares them, and so do its children.

    Where the file cannot be made, each process has its own.
    """

    def __init__(self, file: Path | None, count: int) -> None:
        self._values = struct.Struct(f"<d{count}Q")  # when, in time.monotonic(), which is the same for all processes
        self._map = _open(file, _CHECKSUM.size + self._values.size)

    def read(self, most_age_s: float) -> tuple[float, tuple[int, ...]] | None:
        """When they were found, in seconds of ``time.monotonic()``, and they; None: nothing that new is known."""
        content = self._map[:]
        values = content[_CHECKSUM.size :]
        (checksum,) = _CHECKSUM.unpack_from(content)
        if checksum != zlib.crc32(values):
            return None
        found_s, *numbers = self._values.unpack(values)
        return (found_s, tuple(numbers)) if 0 <= time.monotonic() - found_s < most_age_s else None

    def write(self, *numbers: int) -> None:
        """They were found just now."""
        values = self._values.pack(time.monotonic(), *numbers)
        self._map[:] = _CHECKSUM.pack(zlib.crc32(values)) + values


def _open(file: Path | None, size_bytes: int) -> mmap.mmap:
    if file is None:
        return mmap.mmap(-1, size_bytes)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, size_bytes)
            return mmap.mmap(descriptor, size_bytes)
        finally:
            os.close(descriptor)
    except OSError:
        return mmap.mmap(-1, size_bytes)
