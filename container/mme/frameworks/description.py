"""What is known of a framework without importing it, its adapter or NumPy.

The supervisor and the zygote's root need this much and no more. ``registry.py`` says where it stands.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mme.frameworks.growth import Growth
    from mme.settings import Settings

MACOS_PREFIX = "._"


def _no_variables(_: Settings) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Description:
    """One per framework, beside its adapter: ``DESCRIPTION`` of the adapter's package (or module)."""

    module: str  # what is imported
    well_known_files: tuple[str, ...]  # patterns: a folder with a file of such a name at its top holds a model of it
    growth: Growth
    packages: tuple[str, ...]  # distributions that a model's own requirements must not replace
    # Variables that it is to find in each worker, if the user has not set them.
    environment: Callable[[Settings], Mapping[str, str]] = _no_variables
    chatter: tuple[str, ...] = ()  # regular expressions (Java's) of lines that it writes and nobody needs to read
    # Asked about each file whose name fits, where the name alone does not tell: a look at its first bytes.
    holds: Callable[[Path], bool] | None = None
    # Asked instead of ``well_known_files``, by folder and the names at its top, where no pattern can tell.
    recognise: Callable[[Path, Sequence[str], Settings], bool] | None = None
    options: tuple[str, ...] = ()  # names in serving.properties that its models may use
    runs_code: bool = False  # its models are programs: they win over files of data beside them
    template: str = ""  # the framework whose template its workers are forked from, if it has none of its own
    data_formats: tuple[str, ...] = ()  # of its models, in words: those that hold data and no code
    build_argument: str = ""  # of the image, that brings it; nothing where every image has it

    def recognises(self, model_dir: Path, names: Sequence[str], settings: Settings) -> bool:
        """Is the model in ``model_dir``, which has ``names`` at its top, one of this framework?"""
        if self.recognise is not None:
            return self.recognise(model_dir, names, settings)
        fits = _matcher(self.well_known_files)
        return any(fits(name) and (self.holds is None or self.holds(model_dir / name)) for name in names)


@cache
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], object]:
    return re.compile("|".join(map(translate, patterns)) or "(?!)").match


def names_in(model_dir: str | os.PathLike[str]) -> list[str]:
    """What lies at the top of a model's folder, sorted. Raises ``OSError``.

    All that ask what a model consists of ask here. Names that begin with ``._`` are none of its own: macOS's ``tar``
    puts such a file of attributes beside each, with the same ending.
    """
    names = os.listdir(model_dir)  # noqa: PTH208 (names are all that is wanted)
    return sorted(name for name in names if not name.startswith(MACOS_PREFIX))


def paths_in(model_dir: Path) -> list[Path]:
    """The same as paths."""
    return [model_dir / name for name in names_in(model_dir)]


def first_bytes(path: Path, count: int) -> bytes:
    """The beginning of a regular file; nothing where it is none or cannot be read. Never waits (for a pipe, say)."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            return file.read(count) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""
