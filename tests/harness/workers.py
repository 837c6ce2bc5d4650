"""Looking at the processes of a server that forks its workers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil

from tests.harness.server import ServerProcess

_ZYGOTE = "mme.zygote.root"
_LAUNCHER = "mms/model_service_worker.py"
_KERNEL_NAME_BYTES = 15
# Between an answer and the next request of a client that sends again and again: without it, clients take every core.
CLIENT_PAUSE_S = 0.01


def worker_name(model: str) -> str:
    """How a worker of ``model`` is called: ``mme MODEL``, as far as the kernel keeps it."""
    return f"mme {model}"[:_KERNEL_NAME_BYTES]


def workers(server: ServerProcess, model: str) -> list[psutil.Process]:
    """The workers of ``model``."""
    return [process for process in _with_argument(server, _ZYGOTE) if _name(process) == worker_name(model)]


def worker(server: ServerProcess, model: str) -> psutil.Process:
    """The one worker of ``model``."""
    (found,) = workers(server, model)
    return found


def zygotes(server: ServerProcess) -> list[psutil.Process]:
    """The zygote's root, or none while it is being replaced."""
    return [process for process in _with_argument(server, _ZYGOTE) if _name(process) == "zygote"]


def templates(server: ServerProcess) -> list[psutil.Process]:
    """The processes that workers are forked from."""
    return [process for process in _with_argument(server, _ZYGOTE) if _name(process).startswith("template ")]


def launchers(server: ServerProcess, model: str | None = None) -> list[psutil.Process]:
    """The launchers of ``model``, or of all."""
    found = []
    for process in server.processes():
        words = _command(process)
        if any(word.endswith(_LAUNCHER) for word in words) and (model is None or model in words):
            found.append(process)
    return found


def is_gone(process: psutil.Process) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def _with_argument(server: ServerProcess, argument: str) -> list[psutil.Process]:
    return [process for process in server.processes() if argument in _command(process)]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _name(process: psutil.Process) -> str:
    """What the kernel calls it; psutil's own ``name`` completes cut names from the command line."""
    try:
        with open(f"/proc/{process.pid}/comm", "rb") as comm:  # noqa: PTH123
            return comm.read().decode(errors="replace").rstrip("\n")
    except OSError:
        return ""


@dataclass
class Traffic:
    """The statuses of the requests that were sent meanwhile, each with the time that it took."""

    answers: list[tuple[int, float]] = field(default_factory=list)

    @property
    def statuses(self) -> list[int]:
        return [status for status, _ in self.answers]


@contextlib.contextmanager
def traffic(request: Callable[[], int], pause_s: float = CLIENT_PAUSE_S) -> Iterator[Traffic]:
    """Sends ``request`` over and over from a thread of its own; it returns a status."""
    sent = Traffic()
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(pause_s):
            started_s = time.monotonic()
            status = request()
            sent.answers.append((status, time.monotonic() - started_s))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()
