"""A server that is measured: started on a free port with folders of its own, ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from benchmarks import memory
from benchmarks.connection import Connection
from benchmarks.failure import BenchmarkError
from benchmarks.report import ROOT
from tests.harness.marked_process import MarkedProcess
from tests.harness.ports import free_port

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
# What would change a server's behaviour is not taken over from whoever runs the benchmark.
_NOT_INHERITED = ("SAGEMAKER_", "MMS_", "MXNET_", "OMP_", "KMP_", "DNNL_", "ONEDNN_")


def clean_environment() -> dict[str, str]:
    """This process's environment without what configures servers, MXNet or OpenMP. ``MME_`` settings stay."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}


class Server(ABC):
    """Started by ``with``. ``connection`` talks to it."""

    name: str

    def __init__(self) -> None:
        # Two folders: that for sockets and logs has a short path, that for models is beside the models, so that
        # installing one is a hard link.
        self.folder = Path(tempfile.mkdtemp(prefix="mb-"))
        (self.folder / "tmp").mkdir()
        cache = ROOT / ".cache" / "benchmarks"
        cache.mkdir(parents=True, exist_ok=True)
        self.base_dir = Path(tempfile.mkdtemp(prefix="run-", dir=cache))
        self.base_dir.chmod(0o755)
        self.models_dir = self.base_dir / "models"
        self.models_dir.mkdir()
        self.log_file = self.folder / "server.log"
        self.port = free_port()
        self.connection = Connection(self.port)
        self.program = MarkedProcess(self.log_file)

    @abstractmethod
    def command(self) -> list[str]:
        """What is started."""

    def environment(self) -> dict[str, str]:
        """The server's environment."""
        return {
            **clean_environment(),
            "SAGEMAKER_MULTI_MODEL": "true",
            "SAGEMAKER_BASE_DIR": str(self.base_dir),
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "TMPDIR": str(self.folder / "tmp"),
        }

    # ---- life ----

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when /ping answers. Raises ``BenchmarkError`` with the log's end."""
        self.program.spawn(self.command(), environment=self.environment(), cwd=self.folder)
        try:
            self.program.wait_until_ready(self._answers, timeout_s=START_TIMEOUT_S)
        except AssertionError as error:
            raise BenchmarkError(f"{self.name}: {error}") from None

    def _answers(self) -> bool:
        try:
            return self.connection.ping().status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Ends the server and all that it started, and removes its folders. Ctrl-C is not listened to meanwhile."""
        with _uninterrupted():
            self.connection.close()
            if self.program.process is not None:
                self.program.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.program.process.wait(STOP_TIMEOUT_S)
                self.program.kill()
            self.remove_folders()

    def remove_folders(self) -> None:
        """Removes all files of this server."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.base_dir, ignore_errors=True)

    # ---- models ----

    def install(self, model: Path, name: str, *, copy: bool = False) -> None:
        """Puts a model where ``load`` expects it: hard links, or with ``copy`` files of its own."""
        folder = self.models_dir / name / "model"
        folder.parent.mkdir()
        shutil.copytree(model, folder, copy_function=shutil.copyfile if copy else os.link)

    def remove(self, name: str) -> None:
        """Removes an installed model."""
        shutil.rmtree(self.models_dir / name)

    def model_url(self, name: str) -> str:
        """Where an installed model is, as the server sees it."""
        return str(self.models_dir / name / "model")

    # ---- looking at it ----

    def root_process(self) -> psutil.Process:
        """The process that all others descend from."""
        assert self.program.process is not None
        return psutil.Process(self.program.process.pid)

    def memory(self) -> memory.TreeMemory:
        """What the whole server holds now."""
        return memory.of_tree(self.root_process())

    def descendants(self) -> dict[int, psutil.Process]:
        """All processes below the first, by pid."""
        return {process.pid: process for process in self.root_process().children(recursive=True)}


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def running(servers: Sequence[Server]) -> Iterator[dict[str, Server]]:
    """Starts these servers and ends them; yields them by name."""
    with contextlib.ExitStack() as stack:
        for server in servers:  # folders exist already, also of those that are never started
            stack.callback(server.remove_folders)
        yield {server.name: stack.enter_context(server) for server in servers}


def python(*arguments: str) -> list[str]:
    """A command line for this interpreter."""
    return [sys.executable, "-P", *arguments]
