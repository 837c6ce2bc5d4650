"""A server's private folder: made anew at each start, and removed by the next one where its server was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mme import runtime_dir

# Makes a folder, says where, and ends when its standard input does.
HOLDER = "from mme import runtime_dir; print(runtime_dir.make()[0], flush=True); input()"


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_folder_of_a_server_that_was_killed_is_removed_and_that_of_one_that_runs_is_not(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        ours, lock = runtime_dir.make()
        assert theirs.is_dir()
        other.kill()
        other.wait()
        runtime_dir.remove_abandoned()
        assert (theirs.exists(), ours.is_dir()) == (False, True)
        os.close(lock)


def test_folders_of_others_stay(tmp_path: Path) -> None:
    without_lock = tmp_path / "mme-packages-1"
    without_lock.mkdir()
    elsewhere = tmp_path / "mme-2"
    elsewhere.mkdir()
    (elsewhere / "lock").symlink_to(tmp_path / "somewhere")
    (tmp_path / "somewhere").touch()
    runtime_dir.remove_abandoned()
    assert without_lock.is_dir()
    assert elsewhere.is_dir()
