"""What a model will need: declared by itself, learnt from its last load, or estimated from its files.

Estimates are for a worker that was forked from a process with the framework in it, after one pass through the model:

    need = start + factor × bytes of the files + working memory (working factor × bytes, at most so much)

The figures of a framework stand with its adapter (``mme/frameworks/*/__init__.py``), those of others below.

An estimate is wrong where a model works on much larger inputs than its weights suggest. It is used once: the first load
teaches better, and what a load really took counts from then on.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from mme.capacity.memory import MIB
from mme.frameworks import registry
from mme.frameworks.growth import Growth
from mme.frameworks.serving import ServingProperties

# A model of more files than this is estimated, and told from others, by the first of them.
MOST_FILES = 10_000


# What frameworks without an adapter need, which a handler of one's own may use. Not measured here, meant to be too much
# rather than too little: pickles may be compressed, JSON is parsed into something several times its size, session-based
# runtimes keep prepacked copies of the weights.
WITHOUT_ADAPTER = (
    Growth((".pickle",), 3),
    Growth((".safetensors",), 2, most_working_mib=64, working_factor=1),
    Growth((".pb", ".h5", ".keras", ".tflite"), 2.5, most_working_mib=64, working_factor=1),
)
OTHER = Growth((), 2, start_mib=16)
# A model of one framework, and the description or the labels of any other's.
_AMBIGUOUS = frozenset({".json", ".txt"})


@dataclass(frozen=True)
class Need:
    """Memory that a load will take, and how that is known."""

    need_bytes: int
    kind: Literal["declared", "learnt", "estimated"]

    def __str__(self) -> str:
        return f"{-(-self.need_bytes // MIB)} MiB ({self.kind})"


@dataclass(frozen=True)
class Artifact:
    """A model folder's files. ``identity`` is the same for the same paths, sizes and times of change.

    A file without a suffix counts by its name. ``files`` are path in the folder, size in bytes, time of change in ns
    and inode of each, sorted by path.
    """

    identity: str
    bytes_by_suffix: Mapping[str, int]
    files: tuple[tuple[str, int, int, int], ...] = field(default=(), compare=False)

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(self.bytes_by_suffix.values())


def need_of(model_dir: Path, artifact: Artifact, learnt_bytes: int | None) -> Need:
    """What the model in ``model_dir`` will need; ``learnt_bytes`` is what it took when it was last loaded, if known.

    Raises ``ModelLoadError`` for whatever is wrong in the model's serving.properties.
    """
    declared = declared_bytes(model_dir)
    if declared is not None:
        return Need(declared, "declared")
    if learnt_bytes is not None:
        return Need(learnt_bytes, "learnt")
    return Need(estimated_bytes(artifact), "estimated")


def declared_bytes(model_dir: Path) -> int | None:
    """``required_memory_mb`` or ``option.required_memory_mb`` (MiB) of the model's own serving.properties, in bytes.

    Raises ``ModelLoadError`` for whatever is wrong in that file.
    """
    declared_mb = ServingProperties.of(model_dir).required_memory_mb
    return None if declared_mb is None else declared_mb * MIB


def estimated_bytes(artifact: Artifact) -> int:
    """What a model with these files may take at most, in all likelihood."""
    by_suffix = _growth_by_suffix()
    main = _framework_of(artifact.bytes_by_suffix)
    needs: dict[Growth, float] = {}
    for suffix, size in artifact.bytes_by_suffix.items():
        own = suffix in main.suffixes
        growth = main if own else OTHER if suffix in _AMBIGUOUS else by_suffix.get(suffix, OTHER)
        working = min(growth.working_factor * size, growth.most_working_mib * MIB)
        needs[growth] = needs.get(growth, 0) + growth.factor * size + working
    importing = main.import_mib if main.module and main.module not in sys.modules else 0
    return int(sum(needs.values()) + (main.start_mib + importing) * MIB)


def _framework_of(bytes_by_suffix: Mapping[str, int]) -> Growth:
    """That of the files that weigh most; ambiguous ones count only where there are no others of any framework."""
    by_suffix = _growth_by_suffix()
    known = {suffix: size for suffix, size in bytes_by_suffix.items() if suffix in by_suffix}
    telling = {suffix: size for suffix, size in known.items() if suffix not in _AMBIGUOUS} or known
    return by_suffix[max(telling, key=lambda suffix: telling[suffix])] if telling else OTHER


@cache
def _growth_by_suffix() -> Mapping[str, Growth]:
    """An adapter's own figures before those of a framework without one."""
    growths = (*WITHOUT_ADAPTER, *(each.growth for each in registry.descriptions()))
    return {suffix: growth for growth in growths for suffix in growth.suffixes}


def survey(model_dir: Path) -> Artifact:
    """Looks at the folder's files: names, sizes and times alone, a few hundred microseconds.

    Links to files count as what they point to, links to folders are not followed, and the size of a sparse file is what
    reading it would give. What cannot be looked at does not count: the load itself will say what is wrong.
    """
    found: list[tuple[str, int, int, int]] = []
    bytes_by_suffix: dict[str, int] = {}
    folders = [str(model_dir)]
    while folders and len(found) < MOST_FILES:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        continue
                    if len(found) >= MOST_FILES:
                        break
                    about = _stat(entry)
                    if about is None or not stat.S_ISREG(about.st_mode):
                        continue
                    path = os.path.relpath(entry.path, model_dir)
                    found.append((path, about.st_size, about.st_mtime_ns, about.st_ino))
                    # a file without a suffix counts by its whole name; no Path per file
                    suffix = (os.path.splitext(entry.name)[1] or entry.name).lower()  # noqa: PTH122
                    bytes_by_suffix[suffix] = bytes_by_suffix.get(suffix, 0) + about.st_size
        except OSError:
            continue
    found.sort()
    # The same model, fetched and unpacked once more, takes as much as before, and has other inodes.
    identity = digest([each[:3] for each in found], 12).hex()
    return Artifact(identity, bytes_by_suffix, tuple(found))


def digest(files: Sequence[object], size: int) -> bytes:
    """So many bytes that are the same for the same ``files``."""
    return hashlib.blake2b(repr(files).encode("utf-8", "surrogateescape"), digest_size=size).digest()


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        return None
