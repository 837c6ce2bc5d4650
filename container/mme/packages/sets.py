"""Package sets: what models have asked for, installed once and shared by all models that ask for the same.

MME_PACKAGES_DIR/
  KEY/                 a set that is complete: it was renamed when it was
    site/              what comes first on the search path of its models' workers
    modules.json       what the first model imported, for the template to import before it forks
    in-use             locked as long as a template has the set
  KEY.lock             held while it is installed, by whichever server does it
  KEY.new-*/           a set that is being installed, or whose installation was killed
  cache/               uv's: sets share the files of equal packages (hard links)
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import site
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mme.settings import Settings

PACKAGES = "packages"  # in the server's private folder, where MME_PACKAGES_DIR names no other
SITE = "site"
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

    def is_complete(self) -> bool:
        """Whether it is installed."""
        return self.site.is_dir()

    def enter(self, position: int = 0) -> None:
        """Puts it on this process's search path, ``.pth`` files and all, first or behind ``position`` other folders."""
        before = list(sys.path)
        site.addsitedir(str(self.site))
        new = [entry for entry in sys.path if entry not in before]
        sys.path[:] = [*before[:position], *new, *before[position:]]

    def use(self) -> None:
        """Keeps it from being removed (``make_room``) as long as this process lives."""
        try:
            descriptor = os.open(self.folder / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(self.folder)
        except OSError:
            pass  # on a disk that cannot be written to nothing is removed either

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


def make_room(packages_dir: Path, least_free_bytes: int = LEAST_FREE_BYTES) -> list[str]:
    """Removes sets that no template uses, least recently used first, until the disk has room. Returns their keys."""
    removed = []
    sets = [each.parent for each in packages_dir.glob(f"*/{SITE}")]
    for folder in sorted(sets, key=lambda each: each.stat().st_mtime):
        if shutil.disk_usage(packages_dir).free >= least_free_bytes:
            break
        try:
            descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
        except BlockingIOError:
            pass  # it is in use
        finally:
            os.close(descriptor)
    return removed


def remove_abandoned(packages_dir: Path, key: str) -> None:
    """Removes what killed installations of the set have left. To be called with its lock held."""
    for folder in packages_dir.glob(f"{key}.new-*"):
        shutil.rmtree(folder, ignore_errors=True)
