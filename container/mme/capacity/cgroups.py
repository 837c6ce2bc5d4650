"""Where the control groups of this process are mounted: every level that limits it, of v1 and of v2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mme.capacity.kernel_files import read_text


@dataclass(frozen=True)
class _Mount:
    """A mounted hierarchy: ``root`` is the part of it that ``point`` shows, "/" for all."""

    root: str
    point: Path


@dataclass(frozen=True)
class CgroupLevel:
    """A folder with the files of a controller; ``path`` is its place in the hierarchy, ``own`` our process's own."""

    folder: Path
    path: str
    unified: bool  # v2
    own: bool


def levels(root: Path, controller: str) -> Iterator[CgroupLevel]:
    """Every level from our own cgroup upwards, in v2 and in v1's hierarchy: both exist on hybrid systems."""
    v1, v2 = _mounts(root, controller)
    for path, controllers in _own_cgroups(root):
        unified = controllers == ""
        mounts = v2 if unified else v1 if controller in controllers.split(",") else []
        if mounts:
            for at, (folder, shown) in enumerate(_upwards(mounts, path)):
                yield CgroupLevel(folder, shown, unified, own=at == 0)


def _own_cgroups(root: Path) -> Iterator[tuple[str, str]]:
    """(path, controllers) per line of /proc/self/cgroup: ``4:memory:/a/b``, or ``0::/a/b`` for v2."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield parts[2], parts[1]


def _mounts(root: Path, controller: str) -> tuple[list[_Mount], list[_Mount]]:
    """Where v1's ``controller`` and v2 are mounted, from /proc/self/mountinfo (proc(5)):

    ``32 31 0:29 ROOT POINT rw,relatime [optional …] - TYPE source SUPER_OPTIONS``
    """
    v1, v2 = [], []
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kinds) < 3:
            continue
        mount = _Mount(_unescaped(fields[3]), root / _unescaped(fields[4]).lstrip("/"))
        if kinds[0] == "cgroup2":
            v2.append(mount)
        elif kinds[0] == "cgroup" and controller in kinds[2].split(","):
            v1.append(mount)
    return v1, v2


def _unescaped(text: str) -> str:
    """mountinfo writes blanks and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _upwards(mounts: list[_Mount], path: str) -> Iterator[tuple[Path, str]]:
    """(folder, its name) of our cgroup and of every level above it that is visible.

    A container may be shown only its own part of the hierarchy, under the path that it has outside; or /proc may name
    a path that is not there at all ("/../x" outside a cgroup namespace). The mount itself is then our own level.
    """
    mount, below = mounts[0], ""
    for each in mounts:
        prefix = each.root.rstrip("/")
        if path == each.root or path.startswith(prefix + "/"):
            mount, below = each, path[len(prefix) :].strip("/")
            break
    parts = [part for part in below.split("/") if part]
    if ".." in parts or not mount.point.joinpath(*parts).is_dir():
        parts = []
    while True:
        yield mount.point.joinpath(*parts), "/" + "/".join(parts)
        if not parts:
            return
        parts.pop()
