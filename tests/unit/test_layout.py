"""Which room may import which: only those below it. The container knows nothing of the local endpoint."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"mme": ROOT / "container" / "mme", "local_endpoint": ROOT / "local_endpoint"}
# From the bottom up. Rooms of one level do not know each other.
LEVELS = {
    "mme": (
        {"errors"},
        {"settings"},
        {"before_import", "imports", "libc", "logs", "threads", "front_end", "runtime_dir"},
        {"frameworks"},
        {"capacity", "handler", "packages"},
        {"zygote"},
        {"supervisor"},
        {"metrics"},
    ),
    "local_endpoint": (
        {"configuration"},
        {"errors"},
        {"events", "validation", "container_client", "protocols"},
        {"storage", "access"},
        {"model_cache", "telemetry"},
        {"hosting"},
        {"training"},
        {"control_plane", "data_plane"},
        {"http"},
        {"app"},
    ),
}
LEVEL_OF = {
    package: {room: level for level, rooms in enumerate(levels) for room in rooms} for package, levels in LEVELS.items()
}
FILES = sorted((package, file) for package, folder in FOLDERS.items() for file in folder.rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    """Whatever a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found.update(f"{node.module}.{each.name}" for each in node.names)
    return found


def room_of(package: str, file: Path) -> str:
    return file.relative_to(FOLDERS[package]).parts[0].removesuffix(".py")


@pytest.mark.parametrize("package", FOLDERS)
def test_every_room_has_its_level(package: str) -> None:
    rooms = {room_of(package, file) for owner, file in FILES if owner == package}
    assert rooms - {"__init__"} == set(LEVEL_OF[package])


@pytest.mark.parametrize(("package", "file"), FILES, ids=lambda each: str(each).removeprefix(f"{ROOT}/"))
def test_a_room_imports_only_from_those_below_it(package: str, file: Path) -> None:
    room, levels = room_of(package, file), LEVEL_OF[package]
    if room == "__init__":
        return
    parts = (name.split(".") for name in imported_modules(file))
    imported = {each[1] for each in parts if each[0] == package and len(each) > 1}
    assert not {each for each in imported if each != room and levels[each] >= levels[room]}


def test_the_container_knows_nothing_of_the_local_endpoint() -> None:
    for file in (ROOT / "container").rglob("*.py"):
        assert not [name for name in imported_modules(file) if name.split(".")[0] == "local_endpoint"], file
