"""The program ``local_endpoint`` as a process: uploads, memory, its end."""

from __future__ import annotations

import ctypes
import hashlib
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.endpoint.program import Program, deploy_real
from tests.harness.program_calls import call
from tests.harness.waiting import wait_until

MIB = 1024 * 1024
UPLOAD_BYTES = 250 * MIB


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One program for all tests that leave it as it was."""
    running = Program(tmp_path_factory.mktemp("program"))
    yield running
    running.kill()


@pytest.fixture
def ending_program(tmp_path: Path) -> Iterator[Program]:
    """A program to be ended."""
    running = Program(tmp_path)
    yield running
    running.kill()


class Peak:
    """The largest resident memory of a process from ``with`` to its end, above what it was before."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.growth_bytes = 0

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.growth_bytes = max(self.growth_bytes, self._process.memory_info().rss - self._before)

    def __enter__(self) -> Peak:
        self._before = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="module")
def large_file() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile() as file:
        block = bytes(range(256)) * (MIB // 256)
        for number in range(UPLOAD_BYTES // MIB):
            file.write(number.to_bytes(8, "big") + block[8:])
        file.flush()
        yield Path(file.name)


@pytest.mark.ci
def test_a_large_upload_is_in_memory_at_most_once_and_comes_back_as_it_was(program: Program, large_file: Path) -> None:
    s3 = program.client("s3")
    s3.create_bucket(Bucket="large")
    with Peak(program.ps) as peak:
        s3.upload_file(str(large_file), "large", "in-parts")
    assert peak.growth_bytes < 0.8 * UPLOAD_BYTES
    with Peak(program.ps) as peak, large_file.open("rb") as body:
        s3.put_object(Bucket="large", Key="at-once", Body=body)
    assert peak.growth_bytes < 1.3 * UPLOAD_BYTES
    with large_file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    for key in ("in-parts", "at-once"):
        with Peak(program.ps) as peak:
            received = hashlib.sha256()
            for piece in s3.get_object(Bucket="large", Key=key)["Body"].iter_chunks(MIB):
                received.update(piece)
        assert received.hexdigest() == digest
        assert peak.growth_bytes < 0.2 * UPLOAD_BYTES
    part = s3.get_object(Bucket="large", Key="in-parts", Range=f"bytes={3 * MIB}-{3 * MIB + 7}")["Body"].read()
    assert int.from_bytes(part, "big") == 3


def test_uploads_of_every_kind_arrive(program: Program, tmp_path: Path) -> None:
    s3 = program.client("s3")
    s3.create_bucket(Bucket="kinds")
    data = bytes(range(256)) * 3000
    for algorithm in ("CRC32", "SHA256"):
        s3.put_object(Bucket="kinds", Key=algorithm, Body=data, ChecksumAlgorithm=algorithm)
        assert s3.get_object(Bucket="kinds", Key=algorithm, ChecksumMode="ENABLED")["Body"].read() == data
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as body:
        s3.put_object(Bucket="kinds", Key="file", Body=body, Metadata={"with_underscore": "1", "with-dash": "2"})
    head = s3.head_object(Bucket="kinds", Key="file")
    assert head["Metadata"] == {"with_underscore": "1", "with-dash": "2"}
    assert head["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    s3.copy_object(Bucket="kinds", Key="copy", CopySource="kinds/file")
    assert s3.get_object(Bucket="kinds", Key="copy")["Body"].read() == data
    signed = s3.generate_presigned_url("put_object", Params={"Bucket": "kinds", "Key": "signed"})
    assert requests.put(signed, data=data, timeout=10).status_code == 200
    assert s3.get_object(Bucket="kinds", Key="signed")["Body"].read() == data
    plain = program.client("s3", request_checksum_calculation="when_required")
    plain.put_object(Bucket="kinds", Key="empty", Body=b"")
    assert s3.get_object(Bucket="kinds", Key="empty")["Body"].read() == b""


def test_a_copy_of_a_large_object_is_one_of_its_own(program: Program, large_file: Path) -> None:
    s3 = program.client("s3")
    s3.create_bucket(Bucket="copies")
    data = large_file.read_bytes()[: 9 * MIB]
    s3.put_object(Bucket="copies", Key="first", Body=data)
    s3.copy_object(Bucket="copies", Key="second", CopySource="copies/first", ChecksumAlgorithm="SHA256")
    s3.put_object(Bucket="copies", Key="first", Body=b"replaced")
    assert s3.get_object(Bucket="copies", Key="second")["Body"].read() == data


def test_it_listens_on_this_machine_only_and_says_that_it_is_up(program: Program) -> None:
    answer = requests.get(program.url, timeout=5)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/plain")
    listening = [each.laddr.ip for each in program.ps.net_connections() if each.status == psutil.CONN_LISTEN]
    assert set(listening) == {"127.0.0.1"}


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = call("local_endpoint", "--port", str(port))
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(  # a stop below sends the other
    "number",
    [pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.ci), pytest.param(signal.SIGINT, id="Ctrl-C")],
)
def test_a_signal_stops_it_whichever_thread_gets_it(ending_program: Program, number: signal.Signals) -> None:
    others = [each.id for each in ending_program.ps.threads() if each.id != ending_program.ps.pid]
    assert ctypes.CDLL(None).tgkill(ending_program.ps.pid, others[0], number) == 0
    assert ending_program.process.wait(30) == 0


def test_a_stop_ends_every_container_in_time_and_removes_its_folders(ending_program: Program) -> None:
    children = deploy_real(ending_program)
    folders = folders_of(children)
    assert len(children) >= 4
    assert folders
    started_s = time.monotonic()
    ending_program.process.terminate()
    assert ending_program.process.wait(40) == 0
    assert time.monotonic() - started_s < 35
    assert not [child for child in children if child.is_running()]
    assert not [folder for folder in folders if folder.exists()]


def test_a_kill_leaves_no_container_and_no_folder_behind(ending_program: Program) -> None:
    children = deploy_real(ending_program, instances=1)
    folders = folders_of(children)
    ending_program.process.kill()
    ending_program.process.wait()
    wait_until(lambda: not [child for child in children if child.is_running()], "containers survive", 35)
    wait_until(lambda: not [folder for folder in folders if folder.exists()], "folders are left", 10)


def folders_of(children: list[psutil.Process]) -> set[Path]:
    """The temporary folders that these processes were given."""
    found = set()
    for child in children:
        try:
            environment = child.environ()
        except psutil.NoSuchProcess:  # it looked something up and ended
            continue
        for name in ("TMPDIR", "SAGEMAKER_BASE_DIR"):
            if "SAGEMAKER_BASE_DIR" in environment and name in environment:
                found.add(Path(environment[name]))
    return {folder for folder in found if folder.exists()}
