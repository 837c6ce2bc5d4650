"""A server that is measured: started on a free port with folders of its own, ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from benchmarks import memory
from benchmarks.connection import Connection
from benchmarks.failure import BenchmarkError
from benchmarks.report import ROOT
from tests.harness.ports import free_port

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
_POLL_S = 0.05
_LOG_TAIL_LINES = 30
# In the environment of all that a target starts: what is left of it is found by it.
_MARK = "MME_BENCHMARK"
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
        self._mark = uuid.uuid4().hex
        self._process: subprocess.Popen[bytes] | None = None

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
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                env={**self.environment(), _MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we end the server in order
                cwd=self.folder,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self.name}: ended with {self._process.returncode}\n{self.log_tail()}")
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f"{self.name}: no answer within {START_TIMEOUT_S:.0f} s\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def _answers(self) -> bool:
        try:
            return self.connection.ping().status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """Ends the server and all that it started, and removes its folders. Ctrl-C is not listened to meanwhile."""
        with _uninterrupted():
            self.connection.close()
            if self._process is not None:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_TIMEOUT_S)
                for process in self._survivors():
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                self._process.wait()
            self.remove_folders()

    def remove_folders(self) -> None:
        """Removes all files of this server."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.base_dir, ignore_errors=True)

    def _survivors(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(_MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

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
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def memory(self) -> memory.TreeMemory:
        """What the whole server holds now."""
        return memory.of_tree(self.root_process())

    def descendants(self) -> dict[int, psutil.Process]:
        """All processes below the first, by pid."""
        return {process.pid: process for process in self.root_process().children(recursive=True)}

    def log_tail(self) -> str:
        """The last lines of the log, for error messages."""
        lines = self.log_file.read_text(errors="replace").splitlines() if self.log_file.exists() else []
        return "\n".join(f"  | {line}" for line in lines[-_LOG_TAIL_LINES:])


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
def running(targets: Sequence[Server]) -> Iterator[dict[str, Server]]:
    """Starts these targets and ends them; yields them by name."""
    with contextlib.ExitStack() as stack:
        for target in targets:  # folders exist already, also of those that are never started
            stack.callback(target.remove_folders)
        yield {target.name: stack.enter_context(target) for target in targets}


def python(*arguments: str) -> list[str]:
    """A command line for this interpreter."""
    return [sys.executable, "-P", *arguments]
