"""A server's private folder: made anew at each start, and removed by others where its server was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mme import runtime_dir

# Makes a folder, says where, and ends when its standard input does.
HOLDER = "from mme import runtime_dir; print(runtime_dir.make()[0], flush=True); input()"


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def server() -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A running process with such a folder, and the folder."""
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir(), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield Path(process.stdout.readline().strip()), process
        finally:
            process.kill()


@contextmanager
def made() -> Iterator[Path]:
    """A folder of this process, removed in the end."""
    folder, locks = runtime_dir.make()
    try:
        yield folder
    finally:
        runtime_dir.remove(folder)
        for lock in locks:
            os.close(lock)


def test_a_start_removes_the_folder_of_a_server_that_was_killed_and_not_that_of_one_that_runs() -> None:
    with server() as (killed_ones, killed), server() as (others, _):
        assert killed_ones.is_dir()
        killed.kill()
        killed.wait()
        with made() as ours:
            assert (killed_ones.exists(), others.is_dir(), ours.is_dir()) == (False, True, True)
            assert not runtime_dir.remove_if_abandoned(ours)


def test_the_folder_of_a_server_that_ends_while_it_is_waited_for_is_removed() -> None:
    with server() as (folder, process), ThreadPoolExecutor(1) as thread:
        removal = thread.submit(runtime_dir.remove_once_abandoned, folder, 10)
        with pytest.raises(TimeoutError):
            removal.result(0.1)
        assert (folder / "lock").exists()
        process.kill()
        removal.result(10)
        assert not folder.exists()


def test_the_folder_of_a_server_that_runs_on_is_given_up_in_time() -> None:
    with server() as (folder, _):
        runtime_dir.remove_once_abandoned(folder, 0.05)
        assert (folder / "lock").exists()


def test_folders_of_others_stay(tmp_path: Path) -> None:
    without_lock = tmp_path / "mme-packages-1"
    without_lock.mkdir()
    elsewhere = tmp_path / "mme-2"
    elsewhere.mkdir()
    (elsewhere / "lock").symlink_to(tmp_path / "somewhere")
    (tmp_path / "somewhere").touch()
    with made():
        pass
    runtime_dir.remove_once_abandoned(without_lock, 10)
    assert without_lock.is_dir()
    assert elsewhere.is_dir()


# ---- what is in memory ----


def memory_of(folder: Path) -> Path:
    """The folder in memory of the server with ``folder``."""
    memory = runtime_dir.in_memory(folder)
    assert memory.resolve().parent == Path("/dev/shm"), "this system has no /dev/shm"
    return memory.resolve()


def test_the_part_in_memory_comes_and_goes_with_the_folder() -> None:
    with made() as folder:
        memory = memory_of(folder)
        (memory / "file").touch()
        assert (folder, memory) in runtime_dir.all_in_memory()
    assert not memory.exists()
    assert not folder.exists()


def test_the_part_in_memory_of_a_server_that_was_killed_is_removed_with_its_folder() -> None:
    with server() as (folder, process):
        memory = memory_of(folder)
        process.kill()
        process.wait()
        runtime_dir.remove_once_abandoned(folder, 10)
        assert not memory.exists()


def test_a_start_removes_the_part_in_memory_whose_folder_somebody_has_removed() -> None:
    with server() as (folder, process):
        memory = memory_of(folder)
        shutil.rmtree(folder)
        with made():
            assert memory.exists(), "its server runs"
        process.kill()
        process.wait()
        with made():
            assert not memory.exists()


def test_without_shared_memory_all_is_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dir, "_SHARED_MEMORY", tmp_path / "missing")
    with made() as folder:
        assert runtime_dir.in_memory(folder) == folder
    assert not folder.exists()


def test_a_link_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "mme-elsewhere"
    elsewhere.mkdir()
    with made() as folder:
        memory = memory_of(folder)
        (folder / "memory").unlink()
        (folder / "memory").symlink_to(elsewhere)
    assert elsewhere.is_dir()
    shutil.rmtree(memory)
