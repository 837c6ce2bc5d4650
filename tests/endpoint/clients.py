"""Programs of users of other SDKs, each with its SDK in an environment of its own, told against a local endpoint."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.endpoint.local import KEYS, ROLE, Local

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".venv-uv" / "bin" / "uv"
CACHE = ROOT / ".cache"
FETCH_S = 240
"""How long the one download of an environment may take."""
with_time_to_fetch = pytest.mark.timeout(420)


def python_with(*requirements: str, name: str, python: str = "3.11") -> Path:
    """A Python that has ``requirements``. Made once and kept; skips the test where they cannot be fetched."""
    folder = CACHE / name
    executable = folder / "bin" / "python"
    complete = folder / "complete"
    if complete.exists():
        return executable
    if not UV.exists():
        pytest.skip("needs .venv-uv, which ./scripts/setup makes")
    for arguments in (
        ["venv", "--quiet", "--clear", "--python", python, str(folder)],
        ["pip", "install", "--quiet", "--python", str(executable), *requirements],
    ):
        _fetch([str(UV), "--no-config", *arguments], f"{requirements[0]} from the Python package index")
    complete.touch()
    return executable


def node_modules(lock: Path, name: str) -> Path:
    """The packages of ``lock`` (a package-lock.json) for Node. Made once and kept; skips where they cannot be had."""
    folder = CACHE / name
    complete = folder / "complete"
    if complete.exists() and (folder / lock.name).read_bytes() == lock.read_bytes():
        return folder / "node_modules"
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"needs {program} on the PATH")
    folder.mkdir(parents=True, exist_ok=True)
    complete.unlink(missing_ok=True)
    for file in (lock, lock.with_name("package.json")):
        shutil.copy(file, folder)
    _fetch(
        ["npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"],
        "packages from the registry of npm",
    )
    complete.touch()
    return folder / "node_modules"


def _fetch(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"needs {what}: not there within {FETCH_S} s")
    if done.returncode:
        pytest.skip(f"needs {what}: {done.stderr.strip()[-300:]}")


def tell(local: Local, command: list[str], bucket: str, folder: Path, **environment: str) -> str:
    """Runs ``command`` with a role, ``bucket`` and ``folder``, in which the archives of models are.

    Returns what it printed; the test fails where the story does not end well.
    """
    done = subprocess.run(
        [*command, ROLE, bucket, str(folder)],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON", "NODE_"))},
            "AWS_ENDPOINT_URL": local.url,
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": KEYS["region_name"],
            "AWS_REGION": KEYS["region_name"],
            "HOME": str(folder),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the story is told" in done.stdout
    return done.stdout
