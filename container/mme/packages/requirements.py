"""Which packages a model asks for: its requirements files, its wheels, and the key of the set that they make.

Models with the same key share one installation (``sets.py``) and one template. Read by the zygote's root for each model
that is loaded, so it imports little and reads little: of a wheel, the table of contents with its checksums.
"""

from __future__ import annotations

import hashlib
import os
import re
import site
import stat
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Where requirements are looked for: the Inference Toolkit's place, and DJL's.
FILES = ("code/requirements.txt", "requirements.txt")
WHEELS = "code/wheels"
_MOST_BYTES = 1 << 20  # of all requirements files of a model
_TABLE_OF_CONTENTS_BYTES = 256 * 1024  # from the end of an archive
# A line that names another file, and one that names a package on the disk, which is the model's alone.
_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(?P<path>\S+)")
# Where packages are to come from.
_SOURCE = re.compile(
    r"^\s*(?:(?P<option>-i|-f|--index-url|--extra-index-url|--find-links)[ =]?\s*(?P<value>\S+)|(?P<flag>--no-index))"
)
_HASHED = re.compile(r"^(?:[^#]|(?<=\S)#)*?(?:^|\s)--hash[ =]")  # (a # behind a blank begins a comment)
_LOCAL = re.compile(r"^\s*(?:-e\b|--editable\b|\.{1,2}/|/|file:)|@\s*(?:file:|\.{1,2}/|/)")


@dataclass(frozen=True)
class Requirements:
    """What one model asks for."""

    files: tuple[Path, ...]
    wheels: Path | None
    sources: tuple[str, ...]  # lines of the files that say where packages come from, with whole paths
    has_hashes: bool  # in any of the files, or of those that they name: then what is installed must have one
    key: str  # 20 hexadecimal digits: the same for the same contents in containers with the same packages


def requirements_of(model_dir: str | os.PathLike[str]) -> Requirements | None:
    """The requirements of the model in ``model_dir``; None where it has none, or none but comments."""
    folder = Path(model_dir)
    files = tuple(folder / name for name in FILES if _is_file(folder / name))
    texts: dict[Path, str] = {}
    for file in files:
        _read_with_included(file, texts)
    lines = [line for text in texts.values() for line in map(str.strip, text.splitlines())]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        return None
    wheels = folder / WHEELS if (folder / WHEELS).is_dir() else None
    container = (sys.implementation.cache_tag, os.uname().machine, *packages_of_container())
    digest = hashlib.blake2b(repr(container).encode("utf-8", "surrogateescape"), digest_size=10)
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    for name, contents in _wheels(wheels):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0" + contents)
    if any(_LOCAL.search(line) for line in lines):
        about = folder.stat()
        digest.update(repr((os.path.realpath(folder), about.st_mtime_ns)).encode())
    return Requirements(files, wheels, _sources(texts, folder), any(map(_HASHED.match, lines)), digest.hexdigest())


@cache
def packages_of_container() -> tuple[str, ...]:
    """The packages that the container has, with their versions, as their folders are called; looked at once.

    A set is what they lack, so it is of no use to a container with others.
    """
    suffixes = (".dist-info", ".egg-info")
    folders = [folder for folder in site.getsitepackages() if Path(folder).is_dir()]
    return tuple(sorted(name for folder in folders for name in os.listdir(folder) if name.endswith(suffixes)))  # noqa: PTH208


def _sources(texts: dict[Path, str], model_dir: Path) -> tuple[str, ...]:
    found = []
    for file, text in texts.items():
        for match in filter(None, map(_SOURCE.match, text.splitlines())):
            option, value = match["option"] or match["flag"], match["value"] or ""
            folders = [each for each in (file.parent / value, model_dir / value) if value and each.is_dir()]
            found.append(f"{option} {folders[0].absolute() if folders else value}".rstrip())
    return tuple(found)


def _read_with_included(file: Path, texts: dict[Path, str]) -> None:
    if file in texts or sum(map(len, texts.values())) > _MOST_BYTES:
        return
    texts[file] = text = _read(file, _MOST_BYTES).decode("utf-8", "surrogateescape")
    for line in text.splitlines():
        if (match := _INCLUDED.match(line)) and "://" not in match["path"]:
            _read_with_included(file.parent / match["path"], texts)


def _wheels(folder: Path | None) -> list[tuple[str, bytes]]:
    """Name and checksum of what lies there. The end of a wheel holds the checksums of all that is in it."""
    if folder is None:
        return []
    found = []
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 (names are all that is wanted)
        path = folder / name
        if _is_file(path):
            size = path.stat().st_size
            end = _read(path, _TABLE_OF_CONTENTS_BYTES, start=max(0, size - _TABLE_OF_CONTENTS_BYTES))
            found.append((name, hashlib.blake2b(b"%d" % size + end, digest_size=16).digest()))
    return found


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _read(path: Path, count: int, start: int = 0) -> bytes:
    """Nothing where it cannot be read: the installation will say why."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            file.seek(start)
            return file.read(count)
    except OSError:
        return b""
