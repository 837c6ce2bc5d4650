"""What the tests do around themselves: a run that leaves something behind is red, and says what it cost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
LEAVES_SOMETHING = """
import pathlib, subprocess, tempfile

def test_that_is_green(tmp_path):
    tempfile.mkdtemp(prefix="forgotten-")
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    pathlib.Path({pid_file!r}).write_text(str(process.pid))
"""
LEAVES_NOTHING = """
import tempfile

def test_that_is_green(tmp_path):
    with tempfile.TemporaryDirectory(prefix="remembered-"):
        pass
"""


def run_tests(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """A run of pytest with our conftest, over one file with this source."""
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    ci: \n    quick: \n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.ci  # waits for what a run leaves
def test_a_process_and_a_folder_that_are_left_fail_the_run_and_are_removed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    done = run_tests(tmp_path, LEAVES_SOMETHING.format(pid_file=str(pid_file)))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    pid = int(pid_file.read_text())
    assert f"process {pid}: sleep 1000" in done.stdout
    assert re.search(r"file forgotten-\w+ in the temporary folder", done.stdout)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_run_that_leaves_nothing_is_green(tmp_path: Path) -> None:
    done = run_tests(tmp_path, LEAVES_NOTHING)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left behind" not in done.stdout
