"""Which room of the local endpoint may import which: only those below it. The container imports none of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "local_endpoint"
# From the bottom up. Rooms of one level do not know each other.
LEVELS = (
    {"configuration"},
    {"errors"},
    {"events", "validation", "container_client"},
    {"storage", "access"},
    {"model_cache"},
    {"hosting"},
    {"control_plane", "data_plane"},
    {"http"},
    {"app"},
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


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


def rooms_imported(file: Path) -> set[str]:
    parts = (name.split(".") for name in imported_modules(file))
    return {each[1] for each in parts if each[0] == PACKAGE and len(each) > 1}


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def test_every_room_has_its_level() -> None:
    assert {room_of(file) for file in FILES} - {"__init__"} == set(LEVEL_OF)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_room_imports_only_from_those_below_it(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        return
    too_high = {each for each in rooms_imported(file) if each != room and LEVEL_OF[each] >= LEVEL_OF[room]}
    assert not too_high


def test_the_container_knows_nothing_of_the_local_endpoint() -> None:
    for file in (ROOT / "container").rglob("*.py"):
        assert not [name for name in imported_modules(file) if name.split(".")[0] == PACKAGE], file
