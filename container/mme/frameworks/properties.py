"""Reads ``serving.properties``, the file in which a model says how it is to be served: names and values of Java."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

FILE = "serving.properties"
_LONGEST_BYTES = 64 * 1024
_KEY = re.compile(r"((?:\\.|[^\\\s=:])*)[ \t\f]*[=:]?[ \t\f]*")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(.)")
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read(model_dir: Path) -> dict[str, str]:
    """The properties of the model in ``model_dir``; none where it has no such file, or none that can be read."""
    try:
        with open(os.open(model_dir / FILE, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return {}  # a pipe, say, which nobody may ever write to
            return parse(opened.read(_LONGEST_BYTES).decode("latin-1"))  # as java.util.Properties has it
    except OSError:
        return {}


def parse(text: str) -> dict[str, str]:
    """As ``java.util.Properties``, but for white space at the end of a value, which nobody means."""
    properties = {}
    lines = iter(re.split(r"\r\n|\r|\n", text))
    for line in lines:
        line = line.lstrip(" \t\f")
        if not line or line[0] in "#!":
            continue
        while _is_continued(line):
            line = line[:-1] + next(lines, "").lstrip(" \t\f")
        found = _KEY.match(line)
        assert found is not None
        properties[_unescaped(found[1])] = _unescaped(line[found.end() :]).strip()
    return properties


def _is_continued(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _CONTROL.get(found[2], found[2]), text)
