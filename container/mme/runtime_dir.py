"""The private folder of a server: configuration, sockets, pid file, named pipes; below the folder for temporary files.

A server removes its folder when it stops. One that was killed leaves it, so each start removes what is left of others:
folders whose lock nobody holds any more. (A container that is started again has the files of its last run.)
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

logger = logging.getLogger("mme.runtime_dir")

_PREFIX = "mme-"
_LOCK = "lock"


def make() -> tuple[Path, int]:
    """Makes a new folder, which is ours while the returned descriptor is open. Raises ``OSError``."""
    remove_abandoned()
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


def remove_abandoned() -> None:
    """Removes the folders of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # not such a folder, or not ours
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                logger.info("removing %s, left by a server that was killed", folder)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # a server that runs
        finally:
            os.close(lock)
