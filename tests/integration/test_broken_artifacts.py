"""Broken artifacts: the load fails with 500 and a reason in the log, is forgotten, and the server serves on."""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.models import multiplier
from tests.harness.server import REPOSITORY, ServerProcess
from tests.harness.waiting import wait_until

ONE_ROW = b"[[1.0, 2.0, 3.0, 4.0]]"
PARAMS, SYMBOL = "model-0000.params", "model-symbol.json"
LIBC = ctypes.CDLL(None)
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2  # linux/prctl.h, linux/capability.h
_ARRAY_MAGIC = struct.pack("<I", 0xF993FAC9)  # src/ndarray/ndarray.cc: NDARRAY_V2_MAGIC


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    server = ServerProcess()
    server.before_start = heed_modes
    with server as running:
        multiplier(running.model_dir("healthy"), factor=2)
        assert running.load("healthy").status_code == 200
        yield running


def heed_modes() -> None:
    """Takes from root, in a process that is about to start a program, what lets it read whatever the modes say."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def claim_ten_gigabytes(folder: Path) -> None:
    data = bytearray((folder / PARAMS).read_bytes())
    shape = data.index(_ARRAY_MAGIC) + 12  # magic, storage type, number of dimensions
    struct.pack_into("<q", data, shape, 10 * 2**30 // 4)
    (folder / PARAMS).write_bytes(data)


def name_an_unknown_operator(folder: Path) -> None:
    graph = json.loads((folder / SYMBOL).read_text())
    for node in graph["nodes"]:
        node["op"] = node["op"] if node["op"] == "null" else "Frobnicate"
    (folder / SYMBOL).write_text(json.dumps(graph))


def put_a_folder_in_its_place(folder: Path) -> None:
    (folder / PARAMS).unlink()
    (folder / PARAMS).mkdir()


def lead_nowhere(folder: Path) -> None:
    (folder / PARAMS).unlink()
    (folder / PARAMS).symlink_to("/nowhere")


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda folder: os.truncate(folder / PARAMS, 100),
    "empty parameters": lambda folder: os.truncate(folder / PARAMS, 0),
    "ten gigabytes claimed": claim_ten_gigabytes,
    "garbage for JSON": lambda folder: (folder / SYMBOL).write_bytes(os.urandom(1000)),
    "JSON without end": lambda folder: (folder / SYMBOL).write_text("[" * 100_000),
    "unknown operator": name_an_unknown_operator,
    "folder for file": put_a_folder_in_its_place,
    "dangling link": lead_nowhere,
    "unreadable": lambda folder: (folder / PARAMS).chmod(0),
    "empty folder": remove_all,
    "labels that are no text": lambda folder: (folder / "synset.txt").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_artifact_fails_clearly_and_alone(server: ServerProcess, breakage: str) -> None:
    name = uuid.uuid4().hex
    folder = multiplier(server.model_dir(name))
    BREAKAGES[breakage](folder)

    assert server.load(name).status_code == 500
    wait_until(lambda: f"Model {name} did not load (500)" in server.log(), "the log says why")
    assert server.describe(name).status_code == 404

    for path in folder.iterdir():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    multiplier(folder, factor=3)
    assert server.load(name).status_code == 200, server.log_tail()
    assert server.invoke(name, ONE_ROW).json() == {"predictions": [[3.0, 6.0, 9.0, 12.0]]}
    assert server.invoke("healthy", ONE_ROW).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
    assert server.unload(name).status_code == 200


def test_a_model_folder_that_is_not_there(server: ServerProcess) -> None:
    assert server.load(uuid.uuid4().hex).status_code == 404
    assert server.ping().status_code == 200


def test_a_model_folder_that_the_server_cannot_open(server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    folder = multiplier(server.model_dir(name))
    folder.chmod(0)
    try:
        answer = server.load(name)
        assert answer.status_code == 500
        assert answer.elapsed.total_seconds() < 10
        assert "cannot be opened" in answer.json()["message"]
        assert server.describe(name).status_code == 404
    finally:
        folder.chmod(0o755)
    assert server.load(name).status_code == 200
    assert server.unload(name).status_code == 200


def tar_bomb(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        zeros = tarfile.TarInfo("zeros")
        zeros.size = 20_000_000
        with Path("/dev/zero").open("rb") as source:
            tar.addfile(zeros, source)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as zeros:
        for _ in range(20):
            zeros.write(bytes(1_000_000))


@pytest.mark.parametrize(("name", "make"), [("bomb.tar.gz", tar_bomb), ("bomb.zip", zip_bomb), ("bomb.npz", zip_bomb)])
def test_packing_unpacks_nothing(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """A tar or zip bomb among a model's files goes into the archive as it is; as a model it is refused."""
    folder = multiplier(tmp_path / "model")
    bomb = folder / name
    make(bomb)
    assert package(folder, tmp_path / "out.tar.gz") == 0
    with tarfile.open(tmp_path / "out.tar.gz") as packed:
        assert sum(member.size for member in packed) < 100_000
        kept = packed.extractfile(name)
        assert kept is not None and kept.read() == bomb.read_bytes()
    assert package(bomb, tmp_path / "other.tar.gz") == 2
    assert not (tmp_path / "other.tar.gz").exists()


def package(folder: Path, out: Path) -> int:
    command = [sys.executable, "-P", "-m", "scripts.programs.package_model", "--no-load", str(folder), str(out)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, check=False).returncode
