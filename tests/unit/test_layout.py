"""Which package may import which: only those below it; and by which words things are called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"mme": ROOT / "container" / "mme", "local_endpoint": ROOT / "local_endpoint"}
# From the bottom up. Packages of one level do not know each other.
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


def part_of(package: str, file: Path) -> str:
    return file.relative_to(FOLDERS[package]).parts[0].removesuffix(".py")


@pytest.mark.parametrize("package", FOLDERS)
def test_every_package_has_its_level(package: str) -> None:
    rooms = {part_of(package, file) for owner, file in FILES if owner == package}
    assert rooms - {"__init__"} == set(LEVEL_OF[package])


@pytest.mark.parametrize(("package", "file"), FILES, ids=lambda each: str(each).removeprefix(f"{ROOT}/"))
def test_a_package_imports_only_from_those_below_it(package: str, file: Path) -> None:
    room, levels = part_of(package, file), LEVEL_OF[package]
    if room == "__init__":
        return
    parts = (name.split(".") for name in imported_modules(file))
    imported = {each[1] for each in parts if each[0] == package and len(each) > 1}
    assert not {each for each in imported if each != room and levels[each] >= levels[room]}


def names_in(file: Path) -> list[str]:
    """The module's own, and those of what it defines and assigns."""
    return [file.stem, *re.findall(r"^ *(?:(?:async )?def |class )?(\w+) *(?:[(:=]|$)", file.read_text(), re.MULTILINE)]


def test_names_are_of_the_vocabulary() -> None:
    """One thing has one name: docs/architecture.md lists them. What these words named has a better one."""
    foreign = re.compile(r"(^|_)(gate|guard|ledger|book|practice|rehears\w+|mischief|buried)(s?)(_|$)")
    files = [
        file for folder in ("container", "local_endpoint", "tests", "benchmarks", "scripts") for file in source(folder)
    ]
    assert not [f"{file}: {name}" for file in files for name in names_in(file) if foreign.search(_snake(name))]


def source(folder: str) -> Iterator[Path]:
    return (file for file in (ROOT / folder).rglob("*.py") if "__pycache__" not in file.parts)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def test_the_container_knows_nothing_of_the_local_endpoint() -> None:
    for file in (ROOT / "container").rglob("*.py"):
        assert not [name for name in imported_modules(file) if name.split(".")[0] == "local_endpoint"], file
