"""Model archives as SageMaker expects them: a gzip tar with the model's files at its top level, nothing but files and
folders in it, and the same bytes every time for the same folder."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from mme.frameworks.description import MACOS_PREFIX
from scripts.programs.console import Failure

# What editors, notebooks and file managers leave behind, and no model needs.
LITTER = {".DS_Store", "__pycache__", ".ipynb_checkpoints", ".git", "Thumbs.db", "__MACOSX"}
MANIFEST = Path("MAR-INF", "MANIFEST.json")  # of a model that names a handler of its own
COMPRESSION_LEVEL = 6  # weights shrink by 7 % at any level, and level 6 is no slower on them than 1 (measured)
CHUNK_BYTES = 1 << 20
# Of a packed model: as deep as FOLDER/code/inference.py, and as much as a registry asks for, or serving.properties has.
OUTLINE_DEPTH, OUTLINE_BYTES = 3, 4096


class Entry(NamedTuple):
    """One file or folder of a model. ``name`` is relative to the model's folder, with forward slashes."""

    path: Path
    name: str
    size_bytes: int
    is_folder: bool


class Archive(NamedTuple):
    """A written archive."""

    path: Path
    size_bytes: int
    sha256: str


def entries(folder: Path) -> tuple[list[Entry], list[str]]:
    """Everything in ``folder`` that belongs into its archive, sorted by name, and the names of the litter left out.

    Raises ``Failure`` for symbolic links (SageMaker fails the deployment of an archive that holds one), devices,
    pipes and sockets, names that no archive may hold, and unreadable files.
    """
    kept: list[Entry] = []
    litter: list[str] = []

    def scan(inner: Path) -> None:
        for each in sorted(os.scandir(inner), key=lambda item: item.name):
            path = Path(each.path)
            name = path.relative_to(folder).as_posix()
            mode = each.stat(follow_symlinks=False).st_mode
            if each.name in LITTER or each.name.startswith(MACOS_PREFIX):
                litter.append(name)
            elif stat.S_ISLNK(mode):
                raise Failure(
                    f"{path} is a symbolic link (to {path.readlink()}), and SageMaker refuses archives with links: "
                    "put the file itself there."
                )
            elif any(ord(character) < 32 for character in name) or "\\" in name:
                raise Failure(f"{str(path)!r} has a control character or backslash in its name: rename it.")
            elif stat.S_ISDIR(mode):
                kept.append(Entry(path, name, 0, True))
                scan(path)
            elif not stat.S_ISREG(mode):
                raise Failure(f"{path} is neither a file nor a folder (a device, pipe or socket): remove it.")
            elif not os.access(path, os.R_OK):
                raise Failure(f"{path} cannot be read: chmod u+r {path}")
            else:
                kept.append(Entry(path, name, each.stat(follow_symlinks=False).st_size, False))

    scan(folder)
    return sorted(kept, key=lambda entry: entry.name), litter


def write_archive(
    members: list[Entry], out: Path, *, advance: Callable[[int], object] = lambda _bytes: None
) -> Archive:
    """Writes ``members`` to ``out``, which appears complete or not at all. ``advance`` is told every byte packed.

    The bytes depend on names, contents and nothing else: sorted, owner 0, time 0, mode 0644 or 0755.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            # no file name and no time in the gzip header
            with (
                gzip.GzipFile("", "wb", COMPRESSION_LEVEL, raw, mtime=0) as packed,
                tarfile.open(fileobj=cast(BinaryIO, packed), mode="w", format=tarfile.GNU_FORMAT) as tar,
            ):
                for entry in members:
                    _add(tar, entry, advance)
            raw.flush()
            os.fsync(raw.fileno())
        part.chmod(0o644)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Archive(out, out.stat().st_size, sha256_of(out))


def _add(tar: tarfile.TarFile, entry: Entry, advance: Callable[[int], object]) -> None:
    about = tarfile.TarInfo(entry.name)
    if entry.is_folder:
        about.type = tarfile.DIRTYPE
        about.mode = 0o755
        tar.addfile(about)
        return
    about.mode = 0o644
    about.size = entry.size_bytes
    with entry.path.open("rb") as file:
        tar.addfile(about, _Counted(file, advance))
        if file.read(1):
            raise Failure(f"{entry.path} grew while it was packed: pack a folder that nothing writes to.")


class _Counted:
    """A file that says how much was read of it, and never comes up short in silence."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], object]) -> None:
        self._file = file
        self._advance = advance

    def read(self, size_bytes: int = -1) -> bytes:
        data = self._file.read(size_bytes)
        if len(data) < size_bytes:
            raise Failure(f"{self._file.name} shrank while it was packed: pack a folder that nothing writes to.")
        self._advance(len(data))
        return data


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_outline(archive: Path, folder: Path) -> list[str]:
    """Writes to ``folder`` what tells of which framework a packed model is: the beginning of each file near the top.

    Returns the names of all members. Raises what ``tarfile`` raises for what is no whole tar.gz, and ``OSError``.
    """
    names = []
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            names.append(member.name)
            parts = PurePosixPath(member.name).parts
            file = tar.extractfile(member) if member.isreg() else None
            if file is None or not 0 < len(parts) <= OUTLINE_DEPTH or {"/", ".."} & set(parts):
                continue
            path = folder.joinpath(*parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read(OUTLINE_BYTES))
            except (FileExistsError, IsADirectoryError, NotADirectoryError):
                continue  # a file and a folder of one name: the endpoint will say so
    return names
