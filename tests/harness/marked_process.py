"""A program that runs beside the test, found again with all that it starts by a mark in its environment.

Used by every test and benchmark that starts a server; ``tests/harness/server.py`` adds what the container needs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.harness.waiting import wait_until

# Set in the environment, inherited by all that the program starts.
MARK = "MME_TEST_PROCESS"
STOP_TIMEOUT_S = 30.0


def processes_with_mark(variable: str, value: str) -> list[psutil.Process]:
    """Every living process with ``variable=value`` in its environment, wherever it was re-parented to.

    Tests wait for what it says, and so call it often: it reads one file of each process.
    """
    wanted, found = f"{variable}={value}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        with contextlib.suppress(OSError, psutil.Error):
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
                environment = file.read()
            if wanted in environment.split(b"\0"):
                process = psutil.Process(int(pid))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


class MarkedProcess:
    """``start``, ``stop``, ``survivors``, ``log_tail``. Output and errors go to ``log_file``.

    The program leads a session of its own, so that a signal to its group reaches nobody else.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self.mark = uuid.uuid4().hex
        self.process: subprocess.Popen[bytes] | None = None

    # ---- life ----

    def spawn(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        before_start: Callable[[], None] | None = None,
    ) -> None:
        """Starts ``command`` and returns at once. ``environment`` is the whole of it; this process's if left out."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                list(command),
                env={**(os.environ if environment is None else environment), MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=before_start,
                cwd=cwd,
            )

    def wait_until_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Returns once ``ready()``. Raises AssertionError with the log's tail if the program ends or time is up."""
        wait_until(lambda: self.has(ready), lambda: f"it is not ready\n{self.log_tail()}", timeout_s)

    def has(self, condition: Callable[[], bool]) -> bool:
        """What ``condition()`` says; raises AssertionError with the log's tail where the program has ended before."""
        assert self.process is not None
        exit_code = self.process.poll()
        if exit_code is not None:
            raise AssertionError(f"ended with {exit_code}\n{self.log_tail()}")
        return condition()

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Sends a signal and returns the exit code; raises AssertionError if the program does not end in time."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait(timeout_s)

    def interrupt_group(self, number: signal.Signals = signal.SIGINT, *, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """As a terminal does it: the signal goes to the whole group. Returns the exit code."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code, once the program has ended; raises AssertionError with the log's tail if it does not."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s:g} s\n{self.log_tail()}") from None

    def kill(self) -> None:
        """Ends all that is left, and waits for the first process. After a clean stop there is nothing to do."""
        for process in self.survivors():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait(STOP_TIMEOUT_S)

    # ---- looking at it ----

    def survivors(self) -> list[psutil.Process]:
        """Every living process that the program has started, itself included."""
        return processes_with_mark(MARK, self.mark)

    def assert_nothing_survives(self) -> None:
        """No process of it is left."""
        left = [f"{process.pid} {' '.join(process.cmdline())}" for process in self.survivors()]
        assert not left, f"still alive: {left}\n{self.log_tail()}"

    def log(self) -> str:
        """All that it has written."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of the log, for the message of a failure."""
        return "\n".join([f"---- {self.log_file.name} ----", *self.log().splitlines()[-lines:]])
