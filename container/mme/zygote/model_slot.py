"""A model as the zygote has it: its launcher, the socket that it is listened for on, its workers.

What is done with them between two forks is done with few objects: each costs the next worker a page (``eventloop.py``).
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from mme.zygote import protocol
from mme.zygote.launcher import Launch

logger = logging.getLogger("mme.zygote")

_BACKLOG = 128  # as MMS's worker
_PYTHON_VERSION = ".".join(map(str, sys.version_info[:3])).encode()


@dataclass
class ModelSlot:
    """What a launcher stands for: a socket to listen on, and the workers of its connections."""

    launch: Launch
    listener: socket.socket
    standard_input: int  # -1 once the launcher is gone
    process: int = -1  # readable once the launcher has ended; -1 from then on, or where the kernel has no such thing
    workers: dict[int, Worker] = field(default_factory=dict)
    has_loaded: bool = False  # in any worker, at any time
    taken_bytes: int = 0  # by a worker, as far as is known
    kept: list[str] = field(default_factory=list)  # keys of memory that is kept for next workers (Admission.keep)
    refused: list[tuple[socket.socket, int]] = field(default_factory=list)  # answered when the launcher is gone

    @classmethod
    def of_launcher(cls, pid: int) -> ModelSlot:
        """Listens for the model of launcher ``pid``, and tells MMS so in the launcher's stead.

        Raises ``OSError``, ``ValueError`` or ``KeyError`` if that is no launcher, or no more.
        """
        launch = Launch.of_process(pid)
        standard_input = launch.open_standard_input()
        try:
            listener = _listen(launch)
        except OSError:
            os.close(standard_input)
            raise
        _tell_mms(launch)
        return cls(launch, listener, standard_input, _open_process(pid))

    def close(self) -> None:
        """Closes and removes the socket; the launcher's descriptors are closed apart."""
        self.listener.close()
        for connection, _ in self.refused:
            connection.close()
        if self.launch.socket_path:
            Path(self.launch.socket_path).unlink(missing_ok=True)

    def end_workers(self) -> None:
        """Kills all workers and what they have started."""
        for worker in self.workers.values():
            worker.ended_by_us = True
            kill_group(worker.pid)

    def is_orphaned(self) -> bool:
        """Whether the launcher has ended although the front end still holds a connection of the model."""
        return not self.launch.is_alive() and not all(worker.is_hung_up() for worker in self.workers.values())


@dataclass
class Worker:
    """A forked process. The copy of its connection is kept to answer in its place if it is killed."""

    pid: int
    model: ModelSlot
    connection: socket.socket
    slot: int  # of its session's record
    ended_by_us: bool = False

    def is_hung_up(self) -> bool:
        """Whether the front end has closed the connection."""
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def hang_up(self) -> None:
        """Ends the connection, also where a worker that is just being forked still has a copy of it."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the front end was first
        self.connection.close()

    def report(self, code: int) -> None:
        """Logs the death of a worker that was not meant to end; ``code`` is negative for a signal."""
        what = f"worker {self.pid} of model {self.model.launch.model_name}"
        if code > 0:
            logger.warning("%s ended with exit code %d", what, code)
        elif -code == signal.SIGIO:
            logger.warning("%s was killed: the front end had given up on it", what)
        elif -code == signal.SIGKILL:
            logger.error("%s was killed, probably for lack of memory", what)
        elif code < 0:
            logger.error("%s crashed: %s", what, signal.Signals(-code).name)


def _listen(launch: Launch) -> socket.socket:
    path = launch.socket_path
    if path is None:
        listener = socket.socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", launch.port))
    else:
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            os.unlink(path)  # noqa: PTH108 (of a zygote that was killed)
            listener.bind(path)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _tell_mms(launch: Launch) -> None:
    """Writes the lines that WorkerLifeCycle.java waits for."""
    lines = b"[PID] %d\nMMS worker started.\nPython runtime: %s\n" % (launch.pid, _PYTHON_VERSION)
    try:
        descriptors = launch.open_output()
    except OSError:
        return  # it has died since, which the loop will hear of
    try:
        os.set_blocking(descriptors[0], False)
        os.write(descriptors[0], lines)
    except OSError:
        pass  # full or closed: then the launcher has announced itself anew, and MMS knows it already
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def remove_log_files(folder: Path) -> None:
    """Removes what MMS has made where it expected the log pipes of a worker."""
    for path in [*folder.glob("*-stdout"), *folder.glob("*-stderr")]:
        if path.is_file():
            path.unlink(missing_ok=True)


def _open_process(pid: int) -> int:
    """A descriptor that is readable once the process has ended; -1 on Linux before 5.3."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def is_launcher(pid: int) -> bool:
    """Whether process ``pid`` is a launcher."""
    try:
        Launch.of_process(pid)
    except (OSError, ValueError, KeyError):
        return False
    return True


def send_at_once(connection: socket.socket, response: list[protocol.Buffer]) -> None:
    """Sends a few bytes; nobody waits for them if that cannot be done at once."""
    try:
        connection.setblocking(False)
        protocol.send(connection, response)
    except (OSError, protocol.Disconnected):
        pass


def kill(pid: int) -> None:
    """Kills a process, unless it has ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_group(leader: int) -> None:
    """Kills a worker, unless it has ended, and what it has started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass
