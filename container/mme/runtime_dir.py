"""The private folder of a server: configuration, sockets, pid file, named pipes; below the folder for temporary files.

A server removes its folder when it stops. That of a server that was killed is removed by its zygote, which outlives it
for a moment (``remove_once_abandoned``). Where that was killed, too, the next server's start does it: it removes each
folder whose lock nobody holds any more. (A container that is started again has the files of its last run.)
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
_POLL_S = 0.01


def make() -> tuple[Path, int]:
    """Makes a new folder, which is ours while the returned descriptor is open. Raises ``OSError``."""
    for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if remove_if_abandoned(other):
            logger.info("removed %s, left by a server that was killed", other)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
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
        shutil.rmtree(folder, ignore_errors=True)
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
