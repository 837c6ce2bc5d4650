"""A real server in a process of its own, as ``dockerd-entrypoint.py serve`` starts it on a machine without Docker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
import requests

from tests.harness.container_client import ContainerClient
from tests.harness.ports import free_port
from tests.harness.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRYPOINT = REPOSITORY / "container" / "dockerd-entrypoint.py"
# How workers are made; the whole contract holds for each.
WORKER_MODES = ("fork", "spawn")
# A server under test ends before what the JVM's second compiler does for it has paid.
JVM_ARGUMENTS = "-XX:-UseContainerSupport -XX:TieredStopAtLevel=1"  # the first is the default
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
# Set in the server's environment, inherited by all that it starts: survivors are found by it.
MARK = "MME_TEST_SERVER"


def marked_processes(mark: str) -> list[psutil.Process]:
    """Every living process with ``MARK=mark`` in its environment, wherever it was re-parented to."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


class ServerProcess(ContainerClient):
    """Starts in ``with``, on a free port and with folders of its own; leaves nothing behind, and fails if it would.

    ``settings`` are environment variables on top of the test run's own. ``before_start`` is called in the new process.
    """

    before_start: Callable[[], None] | None = None

    def __init__(self, *, single_model_dir: Path | None = None, port: int | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mt-"))  # short: Unix sockets live below it
        self.base_dir = self.folder / "ml"
        self.models_dir = self.base_dir / "models"
        self.models_dir.mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        if single_model_dir is not None:
            shutil.copytree(single_model_dir, self.base_dir / "model")
        self.log_file = self.folder / "server.log"
        self.port = port or free_port()
        self.mark = uuid.uuid4().hex
        self.settings = {
            "SAGEMAKER_MULTI_MODEL": "false" if single_model_dir is not None else "true",
            "SAGEMAKER_BASE_DIR": str(self.base_dir),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "MME_HOST": "127.0.0.1",
            "SAGEMAKER_MODEL_SERVER_VMARGS": JVM_ARGUMENTS,
            "TMPDIR": str(self.folder / "tmp"),
            MARK: self.mark,
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        super().__init__(f"http://127.0.0.1:{self.port}")

    # ---- life ----

    def __enter__(self) -> ServerProcess:
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                exit_code = self.stop()
                assert error is not None or exit_code == 0, f"exit code {exit_code} on SIGTERM\n{self.log_tail()}"
            self.assert_nothing_survives()
        finally:
            if error is not None:
                print(self.log_tail())
            self.discard()

    def start(self) -> ServerProcess:
        """Starts the process and waits until /ping answers; fails with the log's tail if it dies before."""
        self.launch()
        wait_until(self._answers, lambda: f"the server answers\n{self.log_tail()}", START_TIMEOUT_S)
        return self

    def launch(self) -> None:
        """Starts the process and returns at once."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ENTRYPOINT), "serve"],
                env={**os.environ, **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=self.before_start,
                cwd=self.folder,
            )

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}\n{self.log_tail()}")
        try:
            return requests.get(self.url + "/ping", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks the server to stop and returns its exit code; fails if it takes more than 30 s."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code, once the server has ended."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s\n{self.log_tail()}") from None

    def discard(self) -> None:
        """Kills what is left and removes the folder; for after a failure. A clean stop leaves nothing to kill."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.Error:
                pass
        if self.process is not None:
            self.process.wait(STOP_TIMEOUT_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- looking at it ----

    def processes(self) -> list[psutil.Process]:
        """Every living process of this server, wherever it was re-parented to."""
        return marked_processes(self.mark)

    def front_end(self) -> psutil.Process:
        """The JVM."""
        return self.process_with("com.amazonaws.ml.mms.ModelServer")

    def process_with(self, argument: str) -> psutil.Process:
        """The one process with ``argument`` on its command line."""
        found = self.processes_with(argument)
        assert len(found) == 1, f"{len(found)} processes with {argument}"
        return found[0]

    def processes_with(self, argument: str) -> list[psutil.Process]:
        """All processes with ``argument`` on their command line."""
        found = []
        for process in self.processes():
            try:
                if argument in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def assert_nothing_survives(self) -> None:
        """No process and no temporary file of this server is left."""
        survivors = [f"{process.pid} {' '.join(process.cmdline())}" for process in self.processes()]
        assert not survivors, f"still alive: {survivors}\n{self.log_tail()}"
        left = list((self.folder / "tmp").iterdir())
        assert not left, f"left in the temporary folder: {left}"

    def model_url(self, name: str) -> str:
        """Where model ``name`` lies."""
        return str(self.models_dir / name / "model")

    def model_dir(self, name: str) -> Path:
        """A new folder for the artifacts of model ``name``."""
        folder = self.models_dir / name / "model"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self) -> str:
        """All that the server has written."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of the log, for the message of a failure."""
        return "\n".join(["---- server log ----", *self.log().splitlines()[-lines:]])
