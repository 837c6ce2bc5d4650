"""Unpacks model archives (tar.gz) from strangers: nothing leaves the folder, only files and folders come out."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

COPY_BYTES = 1024 * 1024


class BadArchive(Exception):
    """The archive is broken, or holds what it may not hold. The text says which member and why."""


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


def extract(archive: IO[bytes], folder: Path, limit_bytes: int, limit_members: int = 100_000) -> int:
    """Unpacks ``archive`` into ``folder`` (made here) and returns the bytes of all files.

    Modes, owners and times of the archive are not kept: files are 0644, or 0755 where their owner may execute them.
    Raises ``BadArchive``; what has been unpacked by then stays in ``folder``, for the caller to remove.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    try:
        # a stream: a member that lies about its size cannot make us seek or allocate
        with tarfile.open(fileobj=archive, mode="r|gz") as tar:
            for count, member in enumerate(tar, 1):
                if count > limit_members:
                    raise BadArchive(f"it has more than {limit_members:,} members")
                path = _place(member)
                if path is None:
                    continue
                target = folder / path
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                total += member.size
                if total > limit_bytes:
                    raise BadArchive(f"it unfolds to more than {limit_bytes:,} bytes")
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None  # a regular file has one
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file, COPY_BYTES)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
                if target.stat().st_size != member.size:
                    raise BadArchive(f"member {member.name!r} is cut short")
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise BadArchive(f"it is not a valid tar.gz archive ({error})") from None
    except (OSError, UnicodeError, ValueError) as error:
        # a file where a folder should be, a name too long or not encodable
        raise BadArchive(f"it cannot be unpacked ({error})") from None
    return total
