"""The small text files by which the kernel tells about itself: /proc and cgroups. What is not there is no error."""

from __future__ import annotations

import os
import re
from pathlib import Path

_READ_BYTES = 65536
_VALUE = re.compile(r"^([^\s:]+):?\s+(\d+)", re.MULTILINE)


def read_text(file: Path | str) -> str:
    """All of the file; "" where it cannot be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)  # a third of the system calls of Path.read_text
    except OSError:
        return ""
    try:
        content = b""
        while part := os.read(descriptor, _READ_BYTES):
            content += part
        return content.decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def read_number(file: Path | str) -> int | None:
    """The number that the file holds; None for "max", and where there is none."""
    text = read_text(file).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def read_values(file: Path | str) -> dict[str, int]:
    """Lines of ``name value``, or ``name: value kB``."""
    return {name: int(value) for name, value in _VALUE.findall(read_text(file))}
