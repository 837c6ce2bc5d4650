"""How many threads the libraries of linear algebra use, decided here for every process.

    process                                            threads
    what workers are forked from                       1: a pool of threads does not survive a fork
    a worker                                           OMP_NUM_THREADS, 1 unless set: workers are what uses the cores
    OpenBLAS in a worker                               OPENBLAS_NUM_THREADS where that is set, else as above

A library reads its variable when it is loaded. For a forked worker that was before the fork, under the first line; so
``set_counts`` tells it again.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

OPENMP = "OMP_NUM_THREADS"
_NUMBER = re.compile(r"\s*(\d+)")


@dataclass(frozen=True)
class _Library:
    """A family of libraries: what their files are called, and the variables and functions that set their threads."""

    path: re.Pattern[str]
    variables: tuple[str, ...]  # the first that is set counts
    setters: tuple[str, ...]  # a file has one of them


# An OpenBLAS that is built on OpenMP sets OpenMP's number, too, and runs with that: so OpenMP comes last.
_LIBRARIES = (
    _Library(
        re.compile(r"/\S*lib\w*openblas\S*\.so\S*"),
        ("OPENBLAS_NUM_THREADS", OPENMP),
        # as distributions build it, as NumPy has it (64-bit integers) since 2.0 and before, as SciPy has it
        (
            "openblas_set_num_threads",
            "scipy_openblas_set_num_threads64_",
            "openblas_set_num_threads64_",
            "scipy_openblas_set_num_threads",
        ),
    ),
    _Library(re.compile(r"/\S*lib(?:g|i)?omp\S*\.so\S*"), (OPENMP,), ("omp_set_num_threads",)),
)


def environment_of_template() -> dict[str, str]:
    """The variables of the process that workers are forked from, whatever the user has set."""
    return {name: "1" for library in _LIBRARIES for name in library.variables} | {"MKL_NUM_THREADS": "1"}


def set_default(environment: MutableMapping[str, str]) -> None:
    """One thread where the user has set no number, as MMS's own worker has it; other variables follow this one."""
    environment.setdefault(OPENMP, "1")


def set_counts(environment: Mapping[str, str]) -> None:
    """Gives the libraries that are loaded what ``environment`` (a worker's own) asks for, after the fork."""
    wanted = {library: _count(library, environment) for library in _LIBRARIES}
    if all(count == 1 for count in wanted.values()):
        return  # as they are
    maps = Path("/proc/self/maps").read_text()
    for library, count in wanted.items():
        for path in sorted(set(library.path.findall(maps))):
            loaded = ctypes.CDLL(path)
            setter = next((name for name in library.setters if hasattr(loaded, name)), None)
            if setter is not None:
                getattr(loaded, setter)(count)


def count(environment: Mapping[str, str]) -> int:
    """How many threads a library has that is told in other ways than by OpenMP: what OMP_NUM_THREADS says, else 1."""
    return _count(_LIBRARIES[-1], environment)


def _count(library: _Library, environment: Mapping[str, str]) -> int:
    """The first number of at least 1 among its variables (``4,2``, for nested regions, means 4), else 1."""
    for name in library.variables:
        match = _NUMBER.match(environment.get(name, ""))
        if match and int(match[1]) > 0:
            return int(match[1])
    return 1
