"""Unpacks model archives (tar.gz) from strangers: nothing leaves the folder, only files and folders come out."""

from __future__ import annotations

import errno
import gzip
import shutil
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

COPY_BYTES = 256 * 1024
# What a write says where the disk, or what this user may have of it, is used up.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What tar itself needs: a member's headers and padding, and the end of the archive with one long name.
MEMBER_OVERHEAD_BYTES = 4 * 1024
ARCHIVE_OVERHEAD_BYTES = 1024 * 1024
# tarfile reads a header of more than 512 bytes (a long name, PAX) into memory, more than once.
LONGEST_HEADER_BYTES = 64 * 1024
LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class BadArchive(Exception):
    """The archive is broken, or holds what it may not hold. The text says which member and why."""


class _Member(tarfile.TarInfo):
    """A member whose headers are small. (``_proc_member`` is the method that tarfile's source names for overriding.)

    Maps of sparse files have no bound: such files are refused.
    """

    def _proc_member(self, archive: Any) -> Any:
        if self.type in LONG_HEADERS and self.size > LONGEST_HEADER_BYTES:
            raise BadArchive(
                f"a header in it has {self.size:,} bytes: names and attributes may have {LONGEST_HEADER_BYTES:,}"
            )
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise sparse()
        return super()._proc_member(archive)  # type: ignore[misc]  # not in the stub

    def _proc_gnusparse_10(self, *_: Any) -> None:
        raise sparse()


class _Unzipped:
    """The archive without its gzip, read piece by piece: neither the bytes nor the time may pass what is allowed."""

    def __init__(self, archive: IO[bytes], limit_bytes: int, check: Callable[[], None]) -> None:
        self.allowed_bytes = ARCHIVE_OVERHEAD_BYTES + limit_bytes
        self._limit_bytes = limit_bytes
        self._file = gzip.GzipFile(fileobj=archive, mode="rb")
        self._check = check
        self._read_bytes = 0

    def read(self, size: int) -> bytes:
        self._check()
        piece = self._file.read(size)
        self._read_bytes += len(piece)
        if self._read_bytes > self.allowed_bytes:
            raise too_large(self._limit_bytes)
        return piece


def too_large(limit_bytes: int) -> BadArchive:
    return BadArchive(f"it unfolds to more than {limit_bytes:,} bytes")


def sparse() -> BadArchive:
    return BadArchive("it holds a sparse file: pack it without holes (GNU tar without --sparse)")


def _place(member: tarfile.TarInfo) -> PurePosixPath | None:
    """The member's path inside the folder; None for the folder itself. Raises ``BadArchive``."""
    if "\0" in member.name or "\\" in member.name:
        raise BadArchive(f"member {member.name!r} has a name that is not allowed")
    path = PurePosixPath(member.name)
    if path.is_absolute():
        raise BadArchive(f"member {member.name!r} has an absolute path")
    if ".." in path.parts:
        raise BadArchive(f"member {member.name!r} climbs out of the archive")
    if member.issym() or member.islnk():
        raise BadArchive(f"member {member.name!r} is a link: archives with links are not allowed")
    if not (member.isreg() or member.isdir()):
        raise BadArchive(f"member {member.name!r} is neither a file nor a folder")
    return path if path.parts else None


def extract(
    archive: IO[bytes],
    folder: Path,
    limit_bytes: int,
    limit_members: int = 100_000,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Unpacks ``archive`` into ``folder`` (made here) and returns the bytes of all files.

    Modes, owners and times of the archive are not kept: files are 0644, or 0755 where their owner may execute them.
    ``check`` is called all the while and ends the work by raising. Raises ``BadArchive``, and ``OSError`` of
    ``DISK_FULL``; what has been unpacked by then stays in ``folder``, for the caller to remove.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    unzipped = _Unzipped(archive, limit_bytes, check)
    try:
        # a stream: a member that lies about its size cannot make us seek or allocate
        stream: Any = unzipped
        with tarfile.open(fileobj=stream, mode="r|", bufsize=COPY_BYTES, tarinfo=_Member) as tar:
            for count, member in enumerate(tar, 1):
                if count > limit_members:
                    raise BadArchive(f"it has more than {limit_members:,} members")
                unzipped.allowed_bytes += MEMBER_OVERHEAD_BYTES
                # it would keep all of them, with their headers
                tar.members.clear()  # type: ignore[attr-defined]  # not in the stub
                path = _place(member)
                if path is None:
                    continue
                target = folder / path
                if member.isdir():
                    _make_folder(target)
                    continue
                total += member.size
                if total > limit_bytes:
                    raise too_large(limit_bytes)
                _make_folder(target.parent)
                source = tar.extractfile(member)
                assert source is not None  # a regular file has one
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file, COPY_BYTES)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
                if target.stat().st_size != member.size:
                    raise BadArchive(f"member {member.name!r} is cut short")
    except TimeoutError:  # an OSError, but not the archive's fault
        raise
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RecursionError) as error:
        # (tarfile calls itself for every header before a member's own)
        raise BadArchive(f"it is not a valid tar.gz archive ({error})") from None
    except (OSError, UnicodeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # not the archive's fault either
            raise
        # a file where a folder should be, a name too long or not encodable
        raise BadArchive(f"it cannot be unpacked ({error})") from None
    return total


def _make_folder(path: Path) -> None:
    """With its parents. All may be read by whatever user the container has, whatever the umask."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
