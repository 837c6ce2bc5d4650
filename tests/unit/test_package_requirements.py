"""Which set of packages a model asks for, and what becomes of sets that nobody uses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mme.packages import install_set, sets
from mme.packages.requirements import requirements_of
from mme.packages.sets import PackageSet
from tests.harness.wheels import write_wheel


def model(folder: Path, text: str | None, *, place: str = "code/requirements.txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if text is not None:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(text)
    return folder


def key(folder: Path) -> str:
    found = requirements_of(folder)
    assert found is not None
    return found.key


@pytest.mark.parametrize("text", [None, "", "# nothing\n\n"])
def test_a_model_that_asks_for_nothing_has_no_set(tmp_path: Path, text: str | None) -> None:
    assert requirements_of(model(tmp_path, text)) is None


def test_the_same_requirements_are_one_set_wherever_they_stand(tmp_path: Path) -> None:
    one = key(model(tmp_path / "one", "a==1\nb\n"))
    assert one == key(model(tmp_path / "two", "# comment\n  a==1  \n\nb"))
    assert one == key(model(tmp_path / "three", "a==1\nb", place="requirements.txt"))
    assert one != key(model(tmp_path / "four", "a==2\nb"))


def test_what_a_file_includes_and_the_wheels_beside_it_belong_to_the_set(tmp_path: Path) -> None:
    folder = model(tmp_path / "one", "-r more.txt\n")
    (folder / "code/more.txt").write_text("a==1")
    before = key(folder)
    (folder / "code/more.txt").write_text("a==2")
    assert key(folder) != before
    before = key(folder)
    write_wheel(folder / "code/wheels", "a", "X = 1", version="2")
    with_wheel = key(folder)
    assert with_wheel != before
    shutil.copytree(folder, tmp_path / "copy")
    assert key(tmp_path / "copy") == with_wheel
    write_wheel(folder / "code/wheels", "a", "X = 2", version="2")
    assert key(folder) != with_wheel


@pytest.mark.parametrize(
    ("text", "has_hashes"),
    [
        ("a==1 --hash=sha256:0\n", True),
        ("a==1 \\\n  --hash sha256:0\n", True),
        ("a @ https://a.example/a.zip#egg=a --hash=sha256:0\n", True),
        ("a==1  # --hash=sha256:0\n", False),
        ("# a==1 --hash=sha256:0\na==1\n", False),
        ("a==1\n", False),
    ],
)
@pytest.mark.parametrize("file", ["requirements.txt", "more.txt"])
def test_hashes_are_seen_in_a_file_and_in_those_that_it_names(
    tmp_path: Path, text: str, has_hashes: bool, file: str
) -> None:
    folder = model(tmp_path, "-r more.txt\n")
    (folder / "code" / file).write_text(text)
    found = requirements_of(folder)
    assert found is not None and found.has_hashes is has_hashes


def test_a_wheel_of_a_test_is_the_same_bytes_whenever_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = write_wheel(tmp_path / "now", "a", "X = 1").read_bytes()
    monkeypatch.setattr("zipfile.time.time", lambda: 1_000_000_000.0)
    monkeypatch.setattr("zipfile.time.localtime", lambda *_: (2001, 9, 9, 1, 46, 40, 6, 252, 0))
    assert write_wheel(tmp_path / "then", "a", "X = 1").read_bytes() == now


def test_a_package_of_the_models_own_folder_is_shared_with_nobody(tmp_path: Path) -> None:
    assert key(model(tmp_path / "one", "./mine")) != key(model(tmp_path / "two", "./mine"))


def test_a_pipe_and_a_file_that_includes_itself_end_the_look_at_once(tmp_path: Path) -> None:
    folder = model(tmp_path, "-r requirements.txt\na")
    os.mkfifo(folder / "requirements.txt")
    assert requirements_of(folder) is not None


def test_sets_that_nobody_uses_make_room_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PackageSet(tmp_path, "used").site.mkdir(parents=True)
    PackageSet(tmp_path, "used").use()
    for age, name in enumerate(("new", "used", "old", "kept")):
        package_set = PackageSet(tmp_path, name)
        package_set.site.mkdir(parents=True, exist_ok=True)
        os.utime(package_set.folder, (1000 - age * (name != "kept"), 1000 - age * (name != "kept")))
    os.utime(tmp_path / "kept", (2000, 2000))
    free = iter((0, 0, 0, 0, 10))
    monkeypatch.setattr(sets.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    assert sets.make_room(tmp_path, 10) == ["old", "new"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["kept", "used"]


def test_the_reason_is_what_uv_says_without_its_frames_and_our_folder() -> None:
    said = ["  × No solution found:", "  ╰─▶ Because a==3 is not in /somewhere/resolved.txt, all fails.", "hint: none"]
    assert install_set.reason(said, Path("/somewhere")) == (
        "No solution found: Because a==3 is not in resolved.txt, all fails"
    )


def test_the_reason_of_a_build_that_fails_is_the_end_of_what_it_says_without_its_stack() -> None:
    said = ["  × Failed to build `a==1`", "  ╰─▶ Call to `b.build_wheel` failed (exit status: 1)", "      [stdout]"]
    said += [f"      running step {number}" for number in range(9)]
    said += ["      [stderr]", "      Traceback (most recent call last):", '        File "b.py", line 1, in <module>']
    said += ["      FileNotFoundError: [Errno 2] No such file or directory: 'cc'", "      hint: none"]
    assert install_set.reason(said, Path("/somewhere")) == (
        "Failed to build `a==1` Call to `b.build_wheel` failed (exit status: 1) "
        "FileNotFoundError: [Errno 2] No such file or directory: 'cc'"
    )
