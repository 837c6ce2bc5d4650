"""A real server in a process of its own, as ``dockerd-entrypoint.py serve`` starts it on a machine without Docker."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
import requests

from mme import runtime_dir
from tests.harness.container_client import ContainerClient
from tests.harness.marked_process import MarkedProcess
from tests.harness.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRYPOINT = REPOSITORY / "container" / "dockerd-entrypoint.py"
# A server under test ends before what the JVM's second compiler does for it has paid. Class files are verified where a
# test has the JVM's own defaults (tests/image/test_serving.py).
JVM_ARGUMENTS = (
    "-XX:-UseContainerSupport "  # the default
    "-XX:TieredStopAtLevel=1 -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
START_TIMEOUT_S = 120.0


class ServerProcess(MarkedProcess, ContainerClient):
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
        self.port = port or free_port()
        self.settings = {
            "SAGEMAKER_MULTI_MODEL": "false" if single_model_dir is not None else "true",
            "SAGEMAKER_BASE_DIR": str(self.base_dir),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "MME_HOST": "127.0.0.1",
            "SAGEMAKER_MODEL_SERVER_VMARGS": JVM_ARGUMENTS,
            "TMPDIR": str(self.folder / "tmp"),
            "MME_PRELOAD": os.environ.get("MME_PRELOAD", "mxnet"),  # each framework costs seconds of a processor
            **settings,
        }
        MarkedProcess.__init__(self, self.folder / "server.log")
        ContainerClient.__init__(self, f"http://127.0.0.1:{self.port}")

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
        self.wait_until_ready(self._answers, timeout_s=START_TIMEOUT_S)
        return self

    def launch(self) -> None:
        """Starts the process and returns at once."""
        self.spawn(
            [sys.executable, str(ENTRYPOINT), "serve"],
            environment={**os.environ, **self.settings},
            cwd=self.folder,
            before_start=self.before_start,
        )

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=2).close()  # a hundredth of a request's time
            return requests.get(self.url + "/ping", timeout=2).status_code == 200
        except (OSError, requests.RequestException):
            return False

    def discard(self) -> None:
        """Kills what is left and removes the folder; for after a failure. A clean stop leaves nothing to kill."""
        self.kill()
        for folder in (self.folder / "tmp").glob("mme-*"):
            runtime_dir.remove(folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- looking at it ----

    @property
    def runtime_dir(self) -> Path:
        """The server's private folder."""
        (folder,) = (self.folder / "tmp").glob("mme-*")
        return folder

    def processes(self) -> list[psutil.Process]:
        """Every living process of this server, wherever it was re-parented to."""
        return self.survivors()

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
        super().assert_nothing_survives()
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
