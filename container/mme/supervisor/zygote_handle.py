"""The zygote as its supervisor sees it: start, environment, restart, stop.

    zygote = ZygoteHandle(settings, runtime_dir)
    zygote.start()                      # returns at once; it warms up while the front end starts
    environment = zygote.environment_for(environment)   # what the front end is to be started with
    zygote.wait_until_ready()           # raises StartError
    zygote.kill_on_end(front_end_pid)   # dies, too, should this process be killed
    ...
    if pid == zygote.pid: zygote.restart()         # it was reaped: models stay, loads wait for the new one
    ...
    zygote.stop(deadline_s)

The two are tied by a pipe, one for all zygotes of the server's life. The supervisor writes ``<pid>\\n`` of what is to
be killed with it; its end, by ``stop`` or by the supervisor's death, ends the zygote's root and its templates, which
kill workers and launchers first. The process itself is ``zygote/root.py``; how launchers find it is told in
``zygote/launcher.py``.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mme import threads
from mme.errors import StartError
from mme.settings import Settings
from mme.supervisor.own_programs import start_module
from mme.zygote.launcher import LAUNCHES, write_home
from mme.zygote.session_records import SessionRecords, make_shared

logger = logging.getLogger("mme.zygote")

_POLL_S = 0.005


class ZygoteHandle:
    """One zygote at a time, below the process that makes this object and has to reap its children itself."""

    def __init__(self, settings: Settings, runtime_dir: Path) -> None:
        """``runtime_dir`` is the server's private folder; the model server's home is made in it."""
        self.settings = settings
        self.runtime_dir = runtime_dir
        self.pid: int | None = None
        self.status: int | None = None  # as of os.waitpid, where this object reaped it
        self._front_end_variables = write_home(runtime_dir, "fork", "")
        # Kept open: announcements of launchers wait in it while there is no zygote to read them.
        self._launches = os.open(runtime_dir / LAUNCHES, os.O_RDWR | os.O_CLOEXEC)
        self._shared = make_shared()
        self._records = SessionRecords(self._shared)  # of all zygotes: workers outlive theirs
        # Both ends are kept: the end of this pipe is to mean that the supervisor has gone, never that a zygote has.
        self._alive_read, self._alive_write = os.pipe2(os.O_CLOEXEC)
        self._ready_read = -1
        self._killed_on_end: list[int] = []

    def environment_for(self, environment: Mapping[str, str]) -> dict[str, str]:
        """``environment`` with what makes MMS use the zygote."""
        path = self._front_end_variables["PATH"] + os.pathsep + environment.get("PATH", os.defpath)
        return {**environment, **self._front_end_variables, "PATH": path}

    def start(self) -> None:
        """Starts the process and returns at once. Raises ``StartError`` if it cannot be started at all."""
        self._ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        descriptors = (self._alive_read, ready_write, self._shared)
        try:
            self.pid = start_module(
                "mme.zygote.root",
                [str(self.runtime_dir), *map(str, descriptors)],
                self.settings,
                name="zygote",
                inherited=descriptors,
                variables=threads.environment_of_template(),
            )
        except OSError as error:
            raise StartError(f"the zygote cannot be started: {error}") from error
        finally:
            os.close(ready_write)
        self.status = None
        for pid in self._killed_on_end:
            self._tell(pid)

    def wait_until_ready(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Returns when it can fork, or is not to be waited for any more (``cancelled``, which is asked now and then).

        Raises ``StartError`` if it ended, or took too long, instead.
        """
        deadline_s = time.monotonic() + self.settings.startup_timeout_s
        while not select.select([self._ready_read], [], [], 0.1)[0]:
            if cancelled():
                return
            if time.monotonic() >= deadline_s:
                raise StartError(f"the zygote was not ready within {self.settings.startup_timeout_s} s.")
        if not self.note_ready():
            raise StartError("the zygote ended while it warmed up; its last lines in the log say why.")

    @property
    def ready_descriptor(self) -> int:
        """Can be read once the process is ready or has ended; -1 once ``note_ready`` has been called."""
        return self._ready_read

    def note_ready(self) -> bool:
        """Called when ``ready_descriptor`` can be read: whether it is ready. Else it has ended."""
        ready = os.read(self._ready_read, 1)
        os.close(self._ready_read)
        self._ready_read = -1
        return bool(ready)

    def kill_on_end(self, pid: int) -> None:
        """Has the zygote kill ``pid`` if this process dies without stopping it."""
        self._killed_on_end = [pid]
        self._tell(pid)

    @property
    def records_descriptor(self) -> int:
        """Of the session records."""
        return self._shared

    def is_busy(self) -> bool:
        """Whether a worker loads its model or works on a request."""
        return self._records.is_any_busy()

    def has_loaded_worker(self) -> bool:
        """Whether a worker has its model."""
        return self._records.is_any_loaded()

    def _tell(self, pid: int) -> None:
        os.write(self._alive_write, b"%d\n" % pid)

    def is_alive(self) -> bool:
        """Whether it runs; reaps it if it has ended."""
        if self.pid is None or self.status is not None:
            return False
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self.pid = None  # somebody else has reaped it
            return False
        if pid:
            self.status = status
        return not pid

    def restart(self) -> None:
        """Starts another one after the last has been reaped. Raises ``StartError``."""
        self._close("_ready_read")
        self.start()

    def stop(self, deadline_s: float) -> None:
        """Ends it, its workers and launchers; kills it at ``deadline_s`` (time.monotonic())."""
        self._killed_on_end = []
        self._close("_alive_write")
        while self.is_alive():
            if time.monotonic() >= deadline_s and self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        for name in ("_alive_read", "_ready_read", "_launches", "_shared"):
            self._close(name)

    def _close(self, name: str) -> None:
        descriptor = getattr(self, name)
        if descriptor >= 0:
            os.close(descriptor)
            setattr(self, name, -1)
