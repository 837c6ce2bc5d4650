"""Requests that are too much: each gets a clear 4xx from a worker that lives on, and takes no memory to speak of."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.harness.models import multiplier, tiny_classifier
from tests.harness.server import ServerProcess

MIB = 2**20
ONE_ROW = b"[[1.0, 2.0, 3.0, 4.0]]"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(SAGEMAKER_MAX_PAYLOAD_IN_MB="110") as server:
        server.timeout_s = 90.0
        multiplier(server.model_dir("rows"), factor=2)
        tiny_classifier(server.model_dir("images"))
        for name in ("rows", "images"):
            assert server.load(name).status_code == 200, server.log_tail()
        yield server


@pytest.fixture
def worker(server: ServerProcess) -> Iterator[psutil.Process]:
    """The worker of the model of rows: the same one after the test, and it answers."""
    worker = worker_of(server, "rows")
    yield worker
    assert worker_of(server, "rows") == worker
    response = server.invoke("rows", ONE_ROW, content_type="application/json")
    assert response.json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}


def worker_of(server: ServerProcess, model: str) -> psutil.Process:
    found = [process for process in server.processes() if process.name() == f"mme {model}"]
    assert len(found) == 1, found
    return found[0]


def peak_mib(process: psutil.Process) -> float:
    """The most memory that the process has ever had."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the kernel does not say")


def png(width: int, height: int) -> bytes:
    """A black image of that size, in about a thousandth of its pixels' bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_an_image_bomb_is_400_and_is_never_unfolded(server: ServerProcess) -> None:
    worker = worker_of(server, "images")
    assert server.invoke("images", png(28, 28), content_type="image/png").status_code == 200
    before_mib = peak_mib(worker)
    bomb = png(10_000, 10_000)
    assert len(bomb) < 110_000
    response = server.invoke("images", bomb, content_type="image/png")
    assert response.status_code == 400, response.text
    assert "megapixels" in response.json()["message"].lower()
    assert peak_mib(worker) < before_mib + 20
    assert worker_of(server, "images") == worker
    assert server.invoke("images", png(28, 28), content_type="image/png").status_code == 200


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 10_000 + b"]" * 10_000, id="nested 10,000 deep"),
        pytest.param(b'{"instances":' * 10_000 + b"1" + b"}" * 10_000, id="objects nested 10,000 deep"),
        pytest.param(b"[[1e999, 1, 1, 1]]", id="infinite"),
        pytest.param(b"[[-1e999, 1, 1, 1]]", id="minus infinite"),
        pytest.param(b"[[1e39, 1, 1, 1]]", id="over what float32 holds"),
        pytest.param(b"[[" + b"9" * 100_000 + b", 1, 1, 1]]", id="a number of 100,000 digits"),
        pytest.param(b"[[NaN, 1, 1, 1]]", id="not a number"),
        pytest.param(b"[" * MIB, id="a million brackets"),
    ],
)
def test_json_beyond_reason_is_400(server: ServerProcess, body: bytes) -> None:
    response = server.invoke("rows", body, content_type="application/json")
    assert response.status_code == 400, response.text
    assert len(response.content) < 2000
    json.loads(response.content)


@pytest.mark.parametrize(
    ("piece", "count"),
    [
        pytest.param(b"1,", 50 * MIB, id="one line of numbers", marks=pytest.mark.ci),
        pytest.param(b"1", 100 * MIB, id="one number", marks=pytest.mark.ci),
        pytest.param(b"1,2\n", 25 * MIB, id="many short lines", marks=pytest.mark.ci),
        pytest.param(b",", 100 * MIB, id="commas", marks=pytest.mark.ci),
        pytest.param(b",", 20 * MIB, id="fewer commas"),
    ],
)
def test_much_csv_of_no_use_is_400(server: ServerProcess, worker: psutil.Process, piece: bytes, count: int) -> None:
    response = server.invoke("rows", piece * count, content_type="text/csv")
    assert response.status_code == 400, response.text
    assert len(response.content) < 2000


@pytest.mark.usefixtures("worker")
def test_a_body_over_the_limit_is_413_whoever_it_is_for(server: ServerProcess) -> None:
    body = b" " * (111 * MIB)
    assert server.invoke("rows", body, content_type="application/json").status_code == 413
    assert server.invoke("not-there", body, content_type="application/json").status_code == 413
