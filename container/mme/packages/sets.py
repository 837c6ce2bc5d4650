"""Package sets: what models have asked for, installed once and shared by all models that ask for the same.

MME_PACKAGES_DIR/
  KEY/                 a set that is complete: it was renamed when it was
    site/              what comes first on the search path of its models' workers
    modules.json       what the first model imported, for the template to import before it forks
    in-use             locked as long as a template, or a spawned worker, has the set
  KEY.lock             held while it is installed, by whichever server does it
  KEY.new-*/           a set that is being installed, or removed, or whose installation was killed
  cache/               uv's: sets share the files of equal packages (hard links)
  cache.lock           shared by installations, which use the cache; held alone by who makes room
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import site
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mme.settings import Settings

PACKAGES = "packages"  # in the server's private folder, where MME_PACKAGES_DIR names no other
SITE = "site"
CACHE = "cache"
_UNFINISHED = ".new-"  # in the names of sets that are not complete
_MODULES = "modules.json"
_IN_USE = "in-use"
LEAST_FREE_BYTES = 1 << 30  # of the disk, before an installation: unused sets go until there is so much


def packages_dir(settings: Settings, runtime_dir: Path) -> Path:
    """The folder that holds all sets."""
    return settings.packages_dir or runtime_dir / PACKAGES


class PackageSet:
    """One set. ``folder`` exists when it is complete."""

    def __init__(self, packages_dir: Path, key: str) -> None:
        self.key = key
        self.folder = packages_dir / key
        self.site = self.folder / SITE
        self._in_use = -1  # descriptor

    def is_complete(self) -> bool:
        """Whether it is installed."""
        return self.site.is_dir()

    def enter(self, position: int = 0) -> None:
        """Puts it on this process's search path, ``.pth`` files and all, first or behind ``position`` other folders."""
        before = list(sys.path)
        site.addsitedir(str(self.site))
        new = [entry for entry in sys.path if entry not in before]
        sys.path[:] = [*before[:position], *new, *before[position:]]

    def use(self) -> bool:
        """Keeps it from being removed (``make_room``) as long as this process lives. False where it is not there."""
        try:
            if self._in_use < 0:
                self._in_use = locked(self.folder / _IN_USE, fcntl.LOCK_SH)
            os.utime(self.folder)
        except OSError:
            pass  # on a disk that cannot be written to nothing is removed either
        return self.is_complete()

    def modules(self) -> tuple[str, ...]:
        """What a model of this set has imported; nothing where none has loaded yet."""
        try:
            names = json.loads((self.folder / _MODULES).read_text())
        except (OSError, ValueError):
            return ()
        return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()

    def has_modules(self) -> bool:
        """Whether a model has told what it imported."""
        return (self.folder / _MODULES).exists()

    def remember_modules(self, names: Iterable[str]) -> None:
        """Writes what a model has imported, for the templates to come; the first one to do so is right."""
        if self.has_modules():
            return
        try:
            descriptor, path = tempfile.mkstemp(dir=self.folder)
            with os.fdopen(descriptor, "w") as file:
                json.dump(sorted(names), file)
            Path(path).rename(self.folder / _MODULES)
        except OSError:
            pass  # read-only, or full: each worker imports by itself then


def failure(reason: str) -> str:
    """What the caller of a load is told."""
    return f"The packages of the model's requirements.txt cannot be installed: {reason.rstrip('.')}."


def modules_of_packages(before: Iterable[str], roots: Sequence[str]) -> list[str]:
    """Modules that were imported since ``before`` was ``sys.modules``, and lie below one of ``roots``."""
    known = set(before)
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name not in known and isinstance(file, str) and any(file.startswith(root + os.sep) for root in roots):
            found.append(name)
    return found


@contextmanager
def cache_in_use(packages_dir: Path) -> Iterator[None]:
    """Inside, uv's cache is not removed."""
    lock = locked(packages_dir / f"{CACHE}.lock", fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(lock)


def make_room(packages_dir: Path, least_free_bytes: int | None = None) -> list[str]:
    """Removes what no process uses until the disk has room: uv's cache, then sets, least recently used first.

    Waits for installations that use the cache: as long as it has a set's files too, removing the set frees nothing.
    Returns the keys of the sets that were removed.
    """
    if least_free_bytes is None:
        least_free_bytes = LEAST_FREE_BYTES
    if _free_bytes(packages_dir) >= least_free_bytes:
        return []
    lock = locked(packages_dir / f"{CACHE}.lock", fcntl.LOCK_EX)
    try:
        shutil.rmtree(packages_dir / CACHE, ignore_errors=True)
        for folder in packages_dir.glob(f"*{_UNFINISHED}*"):
            _remove_if_unlocked(folder, packages_dir / f"{folder.name.partition(_UNFINISHED)[0]}.lock")
        removed = []
        sets = [each.parent for each in packages_dir.glob(f"*/{SITE}") if _UNFINISHED not in each.parent.name]
        for folder in sorted(sets, key=lambda each: each.stat().st_mtime):
            if _free_bytes(packages_dir) >= least_free_bytes:
                break
            if _remove_if_unlocked(folder, folder / _IN_USE):
                removed.append(folder.name)
        return removed
    finally:
        os.close(lock)


def remove_abandoned(packages_dir: Path, key: str) -> None:
    """Removes what killed installations of the set have left. To be called with its lock held."""
    for folder in packages_dir.glob(f"{key}{_UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(packages_dir: Path, key: str) -> Path:
    """An empty folder for a set that is not complete yet. Raises ``OSError``."""
    return Path(tempfile.mkdtemp(prefix=f"{key}{_UNFINISHED}", dir=packages_dir))


def _remove_if_unlocked(folder: Path, lock: Path) -> bool:
    """Removes ``folder`` unless somebody has locked ``lock``. Returns whether it did."""
    try:
        descriptor = locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is in use, or this user may not remove it
        return False
    try:
        # At once no longer a set, whoever is killed: half of one would be taken for a whole.
        key = folder.name.partition(_UNFINISHED)[0]
        going = folder.rename(folder.with_name(f"{key}{_UNFINISHED}gone-{os.getpid()}-{time.monotonic_ns()}"))
        shutil.rmtree(going, ignore_errors=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def locked(path: Path, how: int) -> int:
    """A descriptor of the file, locked. Raises ``OSError``."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
