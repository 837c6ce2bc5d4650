"""The private folder of a server: configuration, sockets, pid file, named pipes; below the folder for temporary files.

What each load writes lies in a second folder, in memory (``in_memory``): on a disk that is busy, as one is that models
are being downloaded to, a file that replaces another (``rename``) waits for the disk, and each load waited for it.

A server removes its folders when it stops. Those of a server that was killed are removed by its zygote, which outlives
it for a moment (``remove_once_abandoned``). Where that was killed, too, the next server's start does it: it removes
each folder whose lock nobody holds any more. (A container that is started again has the files of its last run.)
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

logger = logging.getLogger("mme.runtime_dir")

_PREFIX = "mme-"
_LOCK = "lock"
_MEMORY = "memory"  # a symlink to the folder in memory
_SERVER = "server"  # a symlink from there to the server's folder
_SHARED_MEMORY = Path("/dev/shm")
_POLL_S = 0.01


def make() -> tuple[Path, list[int]]:
    """Makes a new folder, which is ours while the returned descriptors are open. Raises ``OSError``."""
    temporary = Path(tempfile.gettempdir())
    for other in [*temporary.glob(f"{_PREFIX}*"), *_SHARED_MEMORY.glob(f"{_PREFIX}*")]:
        if remove_if_abandoned(other):
            logger.info("removed %s, left by a server that was killed", other)
    folder, lock = _make_locked(temporary)
    try:
        memory, memory_lock = _make_locked(_SHARED_MEMORY)
    except OSError as error:
        logger.info("%s cannot be used: what loads write goes to %s (%s)", _SHARED_MEMORY, folder, error.strerror)
        return folder, [lock]
    (memory / _SERVER).symlink_to(folder)
    (folder / _MEMORY).symlink_to(memory)
    return folder, [lock, memory_lock]


def in_memory(folder: Path) -> Path:
    """Where small files of server folder ``folder`` are to be written while others wait; itself if there is no such."""
    memory = folder / _MEMORY
    return memory if memory.is_dir() else folder


def _make_locked(parent: Path) -> tuple[Path, int]:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        # It gets its name when it is locked, so that nobody sees it without.
        unnamed = folder / f"{_LOCK}.new"
        lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(folder / _LOCK)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, lock


def remove(folder: Path) -> None:
    """Removes ``folder``, and what it has in memory."""
    memory = (folder / _MEMORY).resolve()
    if memory.parent == _SHARED_MEMORY and memory.name.startswith(_PREFIX):
        shutil.rmtree(memory, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def all_in_memory() -> list[tuple[Path, Path]]:
    """The folders in memory of all servers of this machine, or container: (the server's folder, the one in memory)."""
    found = []
    for memory in _SHARED_MEMORY.glob(f"{_PREFIX}*"):
        try:
            found.append(((memory / _SERVER).readlink(), memory))
        except OSError:
            pass  # another's
    return found


def remove_if_abandoned(folder: Path) -> bool:
    """Removes ``folder`` if it is one of these, of our user, and of a server that has gone. Returns whether it was."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # not such a folder, or not ours
    try:
        if os.fstat(lock).st_uid != os.geteuid():
            return False
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(folder)
        return True
    except BlockingIOError:
        return False  # a server that runs
    finally:
        os.close(lock)


def remove_once_abandoned(folder: Path, timeout_s: float) -> None:
    """As ``remove_if_abandoned``, for a server that may just be about to end: waits for that, ``timeout_s`` at most."""
    deadline_s = time.monotonic() + timeout_s
    while (folder / _LOCK).exists() and not remove_if_abandoned(folder) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
