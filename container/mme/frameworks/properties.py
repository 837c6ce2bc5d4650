"""Reads ``serving.properties``, the file in which a model says how it is to be served: names and values of Java.

What the names mean is ``serving.py``'s matter.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FILE = "serving.properties"
_LONGEST_BYTES = 64 * 1024
_KEY = re.compile(r"((?:\\.|[^\\\s=:])*)[ \t\f]*[=:]?[ \t\f]*")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)")
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


class Entry(NamedTuple):
    """A property, and the number of the line that it begins in (the first is 1)."""

    line: int
    name: str
    value: str


def read(model_dir: Path) -> dict[str, str]:
    """The properties of the model in ``model_dir``; none where it has no such file, or none that can be read."""
    return {each.name: each.value for each in read_entries(model_dir)}


def read_entries(model_dir: Path) -> list[Entry]:
    """The same with their lines, in the file's order: of several with one name the last counts."""
    try:
        with open(os.open(model_dir / FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return []  # a pipe, say, which nobody may ever write to
            return list(entries(opened.read(_LONGEST_BYTES).decode("latin-1")))  # as java.util.Properties has it
    except OSError:
        return []


def place(model_dir: Path, name: str) -> str:
    """How a message names a property: file, line and key."""
    lines = [each.line for each in read_entries(model_dir) if each.name == name]
    return f"{model_dir / FILE}{f', line {lines[-1]}' if lines else ''}: {name}"


def parse(text: str) -> dict[str, str]:
    """As ``java.util.Properties``, but for white space at the end of a value, which nobody means."""
    return {each.name: each.value for each in entries(text)}


def entries(text: str) -> Iterator[Entry]:
    """The same with their lines."""
    lines = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
    for number, line in lines:
        line = line.lstrip(" \t\f")
        if not line or line[0] in "#!":
            continue
        while _is_continued(line):
            line = line[:-1] + next(lines, (0, ""))[1].lstrip(" \t\f")
        found = _KEY.match(line)
        assert found is not None
        yield Entry(number, _unescaped(found[1]), _unescaped(line[found.end() :]).strip())


def _is_continued(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _CONTROL.get(found[2], found[2]), text)
