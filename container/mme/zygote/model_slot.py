"""A model as its template has it: the launcher, the socket that is listened on, the sessions, and what state it is in.

STARTING → SERVING → ORPHANED → GONE        the loop tells it what happens (``on_…``); what follows is decided here
   ├─────→ REFUSING ──────────→ GONE
   └─────→ ORPHANED, GONE
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

from mme.capacity.memory import MIB
from mme.errors import Refusal
from mme.zygote import protocol
from mme.zygote.event_loop import EventLoop
from mme.zygote.hang_up import has_ended
from mme.zygote.launcher import Launch
from mme.zygote.processes import kill, kill_group
from mme.zygote.session_records import SessionRecord, model_key

logger = logging.getLogger("mme.zygote")

_BACKLOG = 128  # as MMS's worker
_PYTHON_VERSION = ".".join(map(str, sys.version_info[:3])).encode()
# How long a model whose launcher was killed is kept for its front end to come back; MMS does after 1 s.
_ORPHAN_GRACE_S = 10.0
# How long MMS may take to close its end of a launcher's pipes once that has ended.
_REAPED_S = 0.3
# How long MMS may take to make the log files of a worker that it believes to have answered.
_FILES_MADE_S = 1.0


class SlotState(Enum):
    """What becomes of a registered model."""

    STARTING = auto()  # the load is under way: fewer sessions than MMS asked for have their model
    SERVING = auto()  # loaded; sessions that end are replaced
    REFUSING = auto()  # the load failed: the launcher was killed, and answers wait until MMS has reaped it
    ORPHANED = auto()  # somebody else killed the launcher: MMS keeps the model, and connects to the same socket
    GONE = auto()  # nothing is left


_NEXT_STATES = {
    SlotState.STARTING: {SlotState.SERVING, SlotState.REFUSING, SlotState.ORPHANED, SlotState.GONE},
    SlotState.SERVING: {SlotState.ORPHANED, SlotState.GONE},
    SlotState.REFUSING: {SlotState.GONE},
    SlotState.ORPHANED: {SlotState.GONE},
    SlotState.GONE: set(),
}


class WorkerHandle:
    """A worker process as its template has it. It has one session; it could have many."""

    def __init__(self, session: SessionHandle) -> None:
        self.pid = -1
        self.sessions = [session]
        self.ended_by_us = False
        self.given_up = False  # killed because the front end had hung up on it

    def end(self) -> None:
        """Kills it, and what it has started."""
        self.ended_by_us = True
        kill_group(self.pid)


class SessionHandle:
    """A connection of MMS that a worker process serves ``model`` on; none while it sleeps.

    Our copy of the connection is kept to see its end, to answer in the worker's place should that be killed, and to
    see the request that wakes it.
    """

    def __init__(self, model: ModelSlot, connection: socket.socket, slot: int, record: SessionRecord) -> None:
        self.model = model
        self.connection = connection
        self.slot = slot  # of the record
        self.record = record
        if slot >= 0:
            record.model = model.key
        self.worker: WorkerHandle | None = WorkerHandle(self)  # None: it sleeps

    @property
    def has_loaded(self) -> bool:
        return self.record.state.has_loaded

    def is_hung_up(self) -> bool:
        """Whether the front end has closed the connection."""
        return has_ended(self.connection)

    def give_up(self) -> None:
        """Kills the worker: the front end has hung up during a load or a request (``HangUps``)."""
        if self.worker is not None:
            self.worker.given_up = True
            kill_group(self.worker.pid)

    def end(self) -> None:
        """Kills the worker; a session that sleeps is over at once."""
        if self.worker is not None:
            self.worker.end()
        else:
            self.model.on_end_of_sleeper(self)

    def hang_up(self) -> None:
        """Ends the connection, also where a worker that is just being forked still has a copy of it."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the front end was first
        self.connection.close()


class ModelSlot:
    """What a launcher stands for. ``listen`` makes it; ``on_gone`` is called once, when nothing is left of it."""

    def __init__(
        self,
        launch: Launch,
        loop: EventLoop,
        *,
        sessions_to_load: int,
        adopted: bool,
        multi_model: bool,
        on_connection: Callable[[ModelSlot], None],
        on_end_of_sleeper: Callable[[SessionHandle], None],
        on_gone: Callable[[ModelSlot], None],
    ) -> None:
        """``adopted``: another template had it before. ``sessions_to_load``: how many MMS asks for at a load.

        ``on_end_of_sleeper`` is called to end a session that has no process.
        """
        self.launch = launch
        self.name = launch.model_name
        self.key = model_key(self.name)
        self.state = SlotState.SERVING if adopted else SlotState.STARTING
        self.sessions: list[SessionHandle] = []
        self.taken_bytes = 0  # by a session's model, as far as is known
        self.kept: list[str] = []  # keys of memory that is kept for next sessions (Admission.keep)
        self._loop = loop
        self._sessions_to_load = sessions_to_load
        self._loaded_and_ended = 0
        self._was_loaded = False  # before it was orphaned
        self._multi_model = multi_model
        self._on_connection = on_connection
        self.on_end_of_sleeper = on_end_of_sleeper
        self._on_gone = on_gone
        self._listener: socket.socket | None = None
        self._standard_input = -1  # ends when MMS has reaped the launcher
        self._process = -1  # can be read once the launcher has ended
        self._refused: list[tuple[socket.socket, Refusal]] = []

    def __str__(self) -> str:
        return f"model {self.name}"

    # ---- events ----

    def listen(self) -> None:
        """Listens on the model's socket, and tells MMS so in the launcher's stead. Raises ``OSError``."""
        self._standard_input = self.launch.open_standard_input()
        try:
            self._listener = _listen(self.launch)
            _tell_mms(self.launch)
        except BaseException:
            self._close()
            raise
        self._process = _open_process(self.launch.pid)
        if self._process >= 0:
            self._loop.watch(self._process, self.guarded(self.on_launcher_exit))
        self._loop.watch(self._standard_input, self.guarded(self.on_launcher_reaped))
        self.resume_listening()

    def accept(self) -> socket.socket | None:
        """The next connection of MMS; None where there is none, or none is wanted. Raises ``OSError``."""
        if self._listener is None:
            return None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None  # it has gone again
        connection.setblocking(True)
        if self.state is SlotState.REFUSING:
            connection.close()
            return None
        return connection

    def resume_listening(self) -> None:
        """Looks at the listener (again)."""
        if self._listener is not None and not self._loop.is_watched(self._listener.fileno()):
            self._loop.watch(self._listener.fileno(), self.guarded(lambda: self._on_connection(self)))

    def hold(self) -> None:
        """Does not look at the listener until ``resume_listening``: connections wait."""
        if self._listener is not None and self._loop.is_watched(self._listener.fileno()):
            self._loop.unwatch(self._listener.fileno())

    def pause_listening(self, delay_s: float) -> None:
        """Does not look at the listener for a moment: what it has cannot be accepted."""
        if self._listener is not None and self._loop.is_watched(self._listener.fileno()):
            self.hold()
            self._loop.after(delay_s, (self.launch.pid, "listen"), self.guarded(self.resume_listening))

    def on_session_start(self, session: SessionHandle) -> None:
        """A worker process serves a connection."""
        self.sessions.append(session)
        self._loop.cancel(self.launch.pid)

    def on_session_end(self, session: SessionHandle) -> None:
        """A session has ended, and its worker process, if it had one."""
        if session.has_loaded:
            self._loaded_and_ended += 1
            self.taken_bytes = session.record.taken_mib * MIB
        self._look_whether_loaded(also=session)
        self.sessions.remove(session)
        if self.state is SlotState.ORPHANED and not self.sessions:
            self._wait_for_front_end()

    def on_load_refused(self, session: SessionHandle, refusal: Refusal) -> None:
        """Answers a load with ``refusal``, and closes the connection (MMS-20).

        MMS unregisters the model then, but in a thread that it has interrupted itself: if the launcher lives, waiting
        for its end fails, and MMS puts the model back (ModelManager.unregisterModel), so that the platform's next try
        to load it is answered 409. So the launcher ends before the answer.

        Where the model has been loaded before there is no answer: after that MMS would send this connection a request
        that waits, as if it could be served there. It tries again, and LostModels.java unloads what is hopeless.
        """
        if self.has_loaded:
            session.hang_up()
        elif self._multi_model and self._standard_input >= 0:
            self._enter(SlotState.REFUSING)
            self._refused.append((session.connection, refusal))
            kill(self.launch.pid)
        else:
            self._answer_load(session.connection, refusal)

    def on_launcher_exit(self) -> None:
        """The launcher has ended. Workers write to its pipes, and until these are closed the JVM tells us nothing.

        Where the model was unregistered they end at once, else we end them.
        """
        self._forget_process()
        self._loop.after(_REAPED_S, (self.launch.pid, "end"), self.guarded(self._on_launcher_end))

    def on_launcher_reaped(self) -> None:
        """The launcher has been killed or reaped, or the front end is gone: the model and its workers end at once.

        Unless the front end still holds connections. It closes them a moment after it has killed the launcher itself.
        """
        self._answer_refused()
        self._forget_launcher()
        if self.state is not SlotState.REFUSING and self._is_wanted():
            self._loop.after(_REAPED_S, (self.launch.pid, "end"), self.guarded(self._on_launcher_end))
        else:
            self.drop()

    def _on_launcher_end(self) -> None:
        """What came of a launcher goes, the model too, unless it was somebody else who killed the launcher.

        Then the front end would never start another (WorkerThread.java fails with a NullPointerException at this point)
        but its workers' threads connect anew to the same socket, so that stays open for them.
        """
        self._answer_refused()
        if self.state is SlotState.REFUSING or not self._is_wanted():
            self.drop()
            return
        logger.error("the launcher of %s was killed; its workers are replaced", self)
        self._forget_launcher()
        self._enter(SlotState.ORPHANED)
        for session in list(self.sessions):
            session.end()
        self._wait_for_front_end()

    def _wait_for_front_end(self) -> None:
        self._loop.after(_ORPHAN_GRACE_S, self.launch.pid, self.guarded(self.drop))

    def drop(self) -> None:
        """Nothing of the model stays."""
        if self.state is SlotState.GONE:
            return
        self._enter(SlotState.GONE)
        for session in list(self.sessions):
            session.end()
        self._forget_launcher()
        for key in (self.launch.pid, (self.launch.pid, "listen")):
            self._loop.cancel(key)
        if self._listener is not None and self._loop.is_watched(self._listener.fileno()):
            self._loop.unwatch(self._listener.fileno())
        self._close()
        if self.launch.is_alive():
            kill(self.launch.pid)
        self._on_gone(self)

    def guarded(self, handler: Callable[[], None]) -> Callable[[], None]:
        """``handler`` for the loop: what it raises costs this model, and no other."""

        def call() -> None:
            try:
                handler()
            except Exception:
                logger.exception("%s is dropped: an error in its template", self)
                self.drop()

        return call

    # ---- state ----

    @property
    def has_loaded(self) -> bool:
        """Whether MMS has been told that the model is loaded, now or by an earlier template."""
        self._look_whether_loaded()
        return self.state is SlotState.SERVING or (self.state is SlotState.ORPHANED and self._was_loaded)

    def _look_whether_loaded(self, also: SessionHandle | None = None) -> None:
        loaded = self._loaded_and_ended + sum(each.has_loaded for each in self.sessions if each is not also)
        if self.state is SlotState.STARTING and loaded >= self._sessions_to_load:
            self._enter(SlotState.SERVING)

    def _enter(self, state: SlotState) -> None:
        if state is self.state:
            return
        if state not in _NEXT_STATES[self.state]:
            raise ValueError(f"{self} cannot be {state.name} after {self.state.name}")
        self._was_loaded = self._was_loaded or self.state is SlotState.SERVING
        self.state = state

    def _is_wanted(self) -> bool:
        """Whether the launcher has ended although the front end still holds a connection of the model."""
        return not self.launch.is_alive() and not all(session.is_hung_up() for session in self.sessions)

    # ---- what is done ----

    def _answer_refused(self) -> None:
        for connection, refusal in self._refused:
            self._answer_load(connection, refusal)
        self._refused.clear()

    def _answer_load(self, connection: socket.socket, refusal: Refusal) -> None:
        protocol.send_at_once(connection, protocol.load_response(refusal.status, refusal.message))
        connection.close()
        folder = Path(self.launch.temporary_dir)
        self._loop.after(_FILES_MADE_S, object(), lambda: remove_log_files(folder))

    def _forget_process(self) -> None:
        if self._process >= 0:
            self._loop.unwatch(self._process)
            os.close(self._process)
            self._process = -1

    def _forget_launcher(self) -> None:
        self._forget_process()
        self._loop.cancel((self.launch.pid, "end"))
        if self._standard_input >= 0:
            self._loop.unwatch(self._standard_input)
            os.close(self._standard_input)
            self._standard_input = -1

    def _close(self) -> None:
        """Closes and removes the socket."""
        if self._standard_input >= 0:
            os.close(self._standard_input)
            self._standard_input = -1
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if self.launch.socket_path:
                Path(self.launch.socket_path).unlink(missing_ok=True)
        for connection, _ in self._refused:
            connection.close()
        self._refused.clear()


def was_listened_for(launch: Launch, since_ticks: int) -> bool:
    """Whether an earlier template has listened for the launcher's model.

    It left the socket behind. Where there is none to leave (TCP) launchers older than the zygote (``since_ticks``)
    count.
    """
    return Path(launch.socket_path).exists() if launch.socket_path else int(launch.started) < since_ticks


def _listen(launch: Launch) -> socket.socket:
    path = launch.socket_path
    listener = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    try:
        if path is None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", launch.port))
        else:
            try:
                listener.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                os.unlink(path)  # noqa: PTH108 (of a template that was killed)
                listener.bind(path)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _tell_mms(launch: Launch) -> None:
    """Writes the lines that WorkerLifeCycle.java waits for. Raises ``OSError`` where that cannot be tried."""
    lines = b"[PID] %d\nMMS worker started.\nPython runtime: %s\n" % (launch.pid, _PYTHON_VERSION)
    descriptors = launch.open_output()
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
