"""MMS's part towards the zygote, without a JVM: starts launchers, connects to what they stand for, speaks to it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import uuid
from pathlib import Path

import psutil

from mme.supervisor.own_programs import PACKAGE_DIR
from mme.zygote import protocol
from tests.harness.scripted_handler import HANDLER


class FrontEnd:
    """MMS's part: starts launchers as WorkerLifeCycle.java does, connects to what they stand for, speaks to it."""

    def __init__(self, runtime_dir: Path, environment: dict[str, str]) -> None:
        self.runtime_dir = runtime_dir
        self.environment = environment
        self.mark = uuid.uuid4().hex[:8]  # in the names of its files: one before it may have used the same runtime_dir
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.held: list[Connection] = []  # that are to stay open to the end

    def launch(self, model_dir: Path, name: str = "m") -> subprocess.Popen[bytes]:
        program = self.runtime_dir / "home" / "mms" / "model_service_worker.py"
        options = ["--sock-type", "unix", "--sock-name", self.socket_path(name), "--handler", HANDLER]
        options += ["--model-path", str(model_dir), "--model-name", name, "--preload-model", "false"]
        options += ["--tmp-dir", str(self.runtime_dir)]
        launcher = subprocess.Popen(
            [str(self.runtime_dir / "home" / "bin" / "python"), str(program), *options],
            env={**self.environment, "PYTHONPATH": f"{HANDLER}:{PACKAGE_DIR}:{model_dir}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=model_dir,
        )
        self.launchers.append(launcher)
        return launcher

    def socket_path(self, name: str) -> str:
        return str(self.runtime_dir / f"{self.mark}-{name}.sock")

    def wait_until_started(self, launcher: subprocess.Popen[bytes]) -> None:
        assert launcher.stdout is not None
        lines = [launcher.stdout.readline().decode() for _ in range(2)]
        assert lines == [f"[PID] {launcher.pid}\n", "MMS worker started.\n"]

    def connect(self, name: str = "m") -> Connection:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(self.socket_path(name))
        return Connection(connection, self.runtime_dir / self.mark)

    def reap(self, launcher: subprocess.Popen[bytes]) -> None:
        """What the JVM does when a launcher has died: it closes the pipes."""
        launcher.wait(20)
        for pipe in (launcher.stdin, launcher.stdout):
            if pipe:
                pipe.close()

    def reap_after_start(self, launcher: subprocess.Popen[bytes]) -> None:
        """What the JVM does with a launcher whose load is refused."""
        self.wait_until_started(launcher)
        self.reap(launcher)

    def stop(self) -> None:
        for launcher in self.launchers:
            launcher.kill()
            self.reap(launcher)


ASLEEP, AWAKE = -2, -3


class Connection:
    """One of MMS's worker threads."""

    def __init__(self, connection: socket.socket, files: Path) -> None:
        """The names of its log's pipes begin with ``files``."""
        self.socket = connection
        self.files = files
        self.pipes: list[int] = []
        self.sleeps = 0  # that the session has told, up to the last answer

    def load(self, model_dir: Path, pipes: str, request: str | None = None) -> tuple[int, str]:
        """``request``: the body of the first one, which is sent already."""
        self.send_load(model_dir, pipes)
        if request is not None:
            self.send(request)
        status, message = self.receive_load()
        # RandomAccessFile(…, "rw")
        names = [f"{self.files}-{pipes}-{name}" for name in ("stdout", "stderr")]
        self.pipes = [os.open(name, os.O_RDWR | os.O_CREAT) for name in names]
        return status, message

    def send_load(self, model_dir: Path, pipes: str) -> None:
        self.socket.sendall(protocol.encode_load("m", str(model_dir), HANDLER, log_files=f"{self.files.name}-{pipes}"))

    def receive_load(self) -> tuple[int, str]:
        status, message = self._int(), self._field().decode()
        assert self._int() == -1
        return status, message

    def invoke(self, body: str) -> tuple[int, bytes]:
        self.send(body)
        return self.receive()

    def send(self, body: str) -> None:
        self.socket.sendall(protocol.encode_predict(body.encode(), "application/octet-stream"))

    def receive_head(self) -> tuple[int, str]:
        """Status and message of an answer without predictions."""
        status, message = self._status(), self._field().decode()
        assert self._int() == -1
        return status, message

    def receive(self) -> tuple[int, bytes]:
        status, _ = self._status(), self._field()
        predictions = []
        while (length := self._int()) != -1:
            self._bytes(length), self._field(), self._int(), self._field()
            for _ in range(self._int()):
                self._field(), self._field()
            predictions.append(self._field())
        return status, b"".join(predictions)

    def _status(self) -> int:
        while (status := self._int()) in (ASLEEP, AWAKE):
            assert (self._field(), self._int()) == (b"", -1)
            self.sleeps += status == ASLEEP
        return status

    def close(self) -> None:
        self.socket.close()
        for pipe in self.pipes:
            os.close(pipe)

    def is_closed_by_worker(self) -> bool:
        told = b"".join(protocol.asleep())  # it may have slept before
        try:
            while (received := self.socket.recv(len(told))) == told:
                pass
            return received == b""
        except ConnectionResetError:  # it had not read all
            return True

    def _bytes(self, length: int) -> bytes:
        received = b""
        while len(received) < length:
            part = self.socket.recv(length - len(received))
            assert part, "the worker has hung up"
            received += part
        return received

    def _int(self) -> int:
        return struct.unpack("!i", self._bytes(4))[0]

    def _field(self) -> bytes:
        return self._bytes(self._int())


def worker_of(loaded: tuple[int, str]) -> psutil.Process:
    status, message = loaded
    assert status == 200
    return psutil.Process(int(message.rpartition("[PID]:")[2]))
