"""A template: the process that the workers of one framework's models are forked from. It has their sockets, too.

Lifetime   from the first model of its framework, or from the start (``MME_PRELOAD``); ends with the root.
Prepared   by ``template_preparation.py``: the framework imported, a sample model run, its objects immortal. One thread.
Does       listens for all of its models (``model_slot.py``), forks a worker per connection of MMS, and sees to what
           comes of that: answers in the place of a worker that was killed, and holds its memory for the next one. Has
           the connections of sessions that sleep, and forks a worker when one gets a request (``nursery.py``).
Ends       if the root dies or it is asked to (SIGTERM), leaving models as they are for the next template to take on;
           if the supervisor is gone, with all of its models and workers.
"""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from mme.capacity.admission import KEPT_S, Admission
from mme.errors import MmeError, Refusal, is_lack_of_resources
from mme.settings import Settings
from mme.zygote import protocol
from mme.zygote.event_loop import EventLoop
from mme.zygote.hang_up import HangUps
from mme.zygote.launcher import Launch, start_time
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.model_slot import ModelSlot, SessionHandle, WorkerHandle, was_listened_for
from mme.zygote.nursery import Nursery
from mme.zygote.processes import close_from, kill, kill_group, name_process, reap
from mme.zygote.session_records import MOST_SESSIONS, SessionRecords, WorkerState
from mme.zygote.shared_kernels import SharedKernels
from mme.zygote.template_preparation import PartFailed, prepare
from mme.zygote.worker_exit import classify_exit
from mme.zygote.worker_process import Inherited, run_worker

logger = logging.getLogger("mme.zygote")

# How often, and at which distance, holding memory is tried while other processes have the reservations.
_HOLD_TRIES = 20
_HOLD_AGAIN_S = 0.05
# How long until something is tried again that another process, or a lack of descriptors, is in the way of.
_AGAIN_S = 1.0
# How long a template without models is kept for those to come; how often it looks whether memory is short meanwhile.
_IDLE_S = 300.0
_LOOK_AT_MEMORY_S = 5.0
_SIGNALS = {signal.SIGTERM, signal.SIGCHLD}


def run_template(
    name: str,
    left_out: frozenset[str],
    settings: Settings,
    runtime_dir: Path,
    *,
    link: socket.socket,
    supervisor: int,
    records_descriptor: int,
    server_pid: int,
) -> None:
    """Runs in a child of the root: prepares, says so on ``link``, and serves. ``name``: see ``split_name``.

    Raises ``StartError`` where it cannot be prepared.
    """
    framework, key = split_name(name)
    _reset_after_fork({link.fileno(), supervisor, records_descriptor})
    name_process(f"template {name or 'plain'}")
    started_ticks = int(start_time(os.getppid()))

    def say(line: str) -> None:
        try:
            link.sendall(line.encode() + b"\n")
        except OSError:
            pass  # the root has died, which the loop sees

    inherited = None
    if not key:  # else it takes more than a moment, and is done beside all else
        try:
            inherited = prepare(framework, left_out, settings, runtime_dir, lambda part: say(f"preparing {part}"))
        except PartFailed as error:
            say(f"failed {error.part}")
            raise
    open_files_limit = _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    template_class: type[Template] = Template
    if key:
        from mme.zygote.package_template import PackageTemplate

        template_class = PackageTemplate
    template = template_class(
        name,
        settings,
        runtime_dir,
        say=say,
        open_files_limit=open_files_limit,
        link=link,
        supervisor=supervisor,
        records=SessionRecords(records_descriptor),
        zygote_started_ticks=started_ticks,
        inherited=inherited,
        admission=Admission(settings, runtime_dir, server_pid=server_pid),
        load_policy=LoadPolicy.for_server(settings, runtime_dir, settings.python_path),
    )
    say("ready")
    template.run()


def split_name(name: str) -> tuple[str, str]:
    """Framework ("" for none) and key of the package set ("" for none) of a template called ``FRAMEWORK[@KEY]``."""
    framework, _, key = name.partition("@")
    return framework, key


def _reset_after_fork(keep: set[int]) -> None:
    """Nothing of the root's loop stays: signals, descriptors."""
    signal.set_wakeup_fd(-1)
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    first = 3
    for number in sorted(keep):
        os.closerange(first, number)
        first = number + 1
    close_from(first)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


class Template:
    """The loop and all that it knows. ``run`` returns when the root or the supervisor has gone, or on SIGTERM."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        runtime_dir: Path,
        *,
        say: Callable[[str], None],
        open_files_limit: tuple[int, int],
        link: socket.socket,
        supervisor: int,
        records: SessionRecords,
        zygote_started_ticks: int,
        inherited: Inherited | None,
        admission: Admission,
        load_policy: LoadPolicy,
    ) -> None:
        """``say`` tells the root; ``open_files_limit`` is what workers go back to. ``inherited``: None until ready."""
        self._name = name
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._say = say
        self._open_files_limit = open_files_limit
        self._launchers = 0  # that the root has handed over
        self._link = link
        self._supervisor = supervisor
        self._records = records
        self._hang_ups = HangUps(records)
        self._zygote_started_ticks = zygote_started_ticks
        self._inherited = inherited
        self._admission = admission
        self._load_policy = load_policy
        self._multi_model = settings.multi_model
        self._sessions_to_load = settings.default_workers_per_model or 1
        self._loop = EventLoop()
        self._received = b""
        self._models: dict[int, ModelSlot] = {}  # by launcher
        self._workers: dict[int, WorkerHandle] = {}  # by process
        framework, _ = split_name(name)
        self._kernels = SharedKernels(self._loop, framework, settings, load_policy, admission.room_bytes)
        self._nursery = Nursery(self._loop, wake=self._wake, end=self._end_sleeper)
        self._free_records: list[int] = []  # claimed, and without a session
        self._spare_descriptor = -1  # given up to be able to refuse a load where there is no other

    # ---- life ----

    def run(self) -> None:
        """Serves; see the class."""
        self._link.setblocking(False)
        self._loop.watch(self._link.fileno(), self.on_root_message)
        # The root reads what the supervisor writes; its end is for all.
        self._loop.watch(self._supervisor, self.on_supervisor_end, select.EPOLLHUP)
        self._loop.watch(self._hang_ups.fileno(), self._hang_ups.handle)
        self._loop.on_signals({signal.SIGCHLD: self.on_child_exits, signal.SIGTERM: self._loop.stop})
        self._take_spare_descriptor()
        self._loop.run()

    def on_supervisor_end(self) -> None:
        """The supervisor stops us, or was killed: all ends."""
        for model in list(self._models.values()):
            model.drop()
        while self._workers:
            self.on_worker_exit(*os.waitpid(-1, 0))
        self._loop.stop()

    def on_root_message(self) -> None:
        """Launchers of new models, or the end of the root: another one starts templates that take the models on."""
        try:
            received = self._link.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            if _has_ended(self._supervisor):
                self.on_supervisor_end()
            self._loop.stop()
            return
        *lines, self._received = (self._received + received).split(b"\n")
        for line in lines:
            self._launchers += 1
            self._loop.cancel("idle")
            self.on_launcher(int(line))

    # ---- models ----

    def on_launcher(self, pid: int) -> None:
        """A launcher has announced itself: listen for its model."""
        known = self._models.get(pid)
        if known is not None:
            if known.launch.is_alive():
                return
            known.drop()
        launch = None
        try:
            launch = Launch.of_process(pid)
            self._add(launch)
        except Exception as error:
            logger.error("process %d announced itself in vain: %s", pid, error, exc_info=not isinstance(error, OSError))
            self._models.pop(pid, None)
            if launch is None and isinstance(error, FileNotFoundError | ProcessLookupError | ValueError):
                return  # it has ended, and its number may be another process's by now
            # The front end sees the launcher end, and answers 507 where it was killed (MMS-6), else 500.
            kill(pid, signal.SIGKILL if is_lack_of_resources(error) else signal.SIGTERM)

    def _add(self, launch: Launch) -> None:
        model = ModelSlot(
            launch,
            self._loop,
            sessions_to_load=self._sessions_to_load,
            adopted=was_listened_for(launch, self._zygote_started_ticks),
            multi_model=self._multi_model,
            on_connection=self.on_connection,
            on_end_of_sleeper=self._end_sleeper,
            on_gone=self.on_model_gone,
        )
        model.listen()
        self._models[launch.pid] = model

    def on_model_gone(self, model: ModelSlot) -> None:
        """Nothing is left of a model but what was held for it."""
        self._models.pop(model.launch.pid, None)
        for key in list(model.kept):
            self._release_memory(model, key)
        if not self._models:
            ends_at_s = time.monotonic() + _IDLE_S
            self._loop.after(_LOOK_AT_MEMORY_S, "idle", lambda: self._look_whether_to_end(ends_at_s))

    def _look_whether_to_end(self, ends_at_s: float) -> None:
        """It has no model: at ``ends_at_s``, or where memory is short, it may end.

        The root decides, as it may just have sent another one.
        """
        if self._models:
            return
        if time.monotonic() >= ends_at_s or self._is_memory_short():
            self._say(f"idle {self._launchers}")
        else:
            self._loop.after(_LOOK_AT_MEMORY_S, "idle", lambda: self._look_whether_to_end(ends_at_s))

    def _is_memory_short(self) -> bool:
        try:
            return self._admission.is_memory_short()
        except (OSError, MmeError):  # others have the reservations just now: it is looked at again
            return False

    # ---- workers ----

    def on_connection(self, model: ModelSlot) -> None:
        """MMS has connected for a session of ``model``: fork a worker for it."""
        try:
            connection = model.accept()
        except OSError as error:
            self._refuse_without_resources(model, error)
            return
        if connection is None:
            return
        slot = self._free_records.pop() if self._free_records else self._records.claim(os.getpid())
        if slot is None:
            reason = f"no worker can be started for model {model.name!r}: there are {MOST_SESSIONS}"
            logger.error("%s (507)", reason)
            session = SessionHandle(model, connection, -1, self._records[0])
            model.on_load_refused(session, Refusal(507, f"{reason}. Unload other models."))
            return
        session = SessionHandle(model, connection, slot, self._records.take(slot))
        try:
            self._start_worker(session)
        except OSError as error:
            self._free_records.append(slot)
            model.on_load_refused(session, self._refusal_without_process(session, error))
            return
        model.on_session_start(session)  # first: should the next step fail, the model is dropped with this worker
        self._hang_ups.add(session)
        self._kernels.on_load(session)

    def _start_worker(self, session: SessionHandle) -> None:
        """Raises ``OSError`` where there is no process for it."""
        worker = WorkerHandle(session)
        worker.pid = self._fork(session)
        session.worker = self._workers[worker.pid] = worker

    def _refusal_without_process(self, session: SessionHandle, error: OSError) -> Refusal:
        reason = f"no process can be forked for model {session.model.name!r}: {error.strerror}"
        logger.error("%s (507); %s", reason, self._memory())
        return Refusal(507, f"{reason}. Unload other models, or use a larger instance.")

    def _refuse_without_resources(self, model: ModelSlot, error: OSError) -> None:
        """A connection that cannot be accepted for lack of descriptors or memory is refused (507) with a spare one."""
        if not is_lack_of_resources(error):
            raise error
        logger.error("no worker for %s (507): %s; %s", model, error, self._memory())
        if self._spare_descriptor < 0:
            self._take_spare_descriptor()
        if self._spare_descriptor >= 0:
            os.close(self._spare_descriptor)
            self._spare_descriptor = -1
            try:
                reason = f"no connection can be taken for model {model.name!r}: {error.strerror}"
                remedy = "Unload other models, or raise the limit (ulimit -n)."
                self._refuse(model, Refusal(507, f"{reason}. {remedy}"))
            except OSError:
                pass
        model.pause_listening(_AGAIN_S)
        self._loop.after(_AGAIN_S, "spare", self._take_spare_descriptor)

    def _refuse(self, model: ModelSlot, refusal: Refusal) -> None:
        """Answers a load whose connection nobody has taken yet. Raises ``OSError`` where it cannot be taken."""
        connection = model.accept()
        if connection is not None:
            model.on_load_refused(SessionHandle(model, connection, -1, self._records[0]), refusal)

    def _take_spare_descriptor(self) -> None:
        if self._spare_descriptor < 0:
            try:
                self._spare_descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._loop.after(_AGAIN_S, "spare", self._take_spare_descriptor)

    def _fork(self, session: SessionHandle) -> int:
        assert self._inherited is not None
        # The child must not run our handlers, nor put signals that are meant for it into our wakeup pipe.
        is_loaded, sessions = session.model.has_loaded, session.model.sessions
        replaces = is_loaded and not sessions
        joins = is_loaded and any(each is not session and each.has_loaded for each in sessions)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                launch, connection, slot = session.model.launch, session.connection, session.slot
                run_worker(
                    *(launch, connection, self._records, slot, self._inherited, self._admission, self._load_policy),
                    replaces=replaces,
                    joins=joins,
                )
            try:
                os.setpgid(pid, pid)  # the child does the same; whoever is first, from here on it leads a group
            except OSError:
                pass  # it has ended
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _memory(self) -> str:
        try:
            return self._admission.describe()
        except (OSError, MmeError) as error:
            return f"what is free cannot be told: {error}"

    def on_child_exits(self) -> None:
        """Reaps all workers that have ended."""
        for pid, status in reap():
            self.on_worker_exit(pid, status)

    def on_worker_exit(self, pid: int, status: int) -> None:
        """A worker has ended: what it owed is answered, and what its model took is held for the next one."""
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        kill_group(pid)  # what the handler has started
        for session in worker.sessions:
            try:
                self.on_session_end(session, os.waitstatus_to_exitcode(status))
            except Exception:
                logger.exception("%s is dropped: an error in its template", session.model)
                session.model.drop()

    def on_session_end(self, session: SessionHandle, code: int) -> None:
        """See ``on_worker_exit``; ``code`` is negative for a signal."""
        model, worker, record = session.model, session.worker, session.record
        assert worker is not None
        is_lost = bool(record.is_lost)
        ending = classify_exit(
            code,
            record.state,
            model.name,
            ended_by_us=worker.ended_by_us,
            given_up=worker.given_up,
            refusal=record.refusal,
            limit_s=record.limit_s,
        )
        self._hang_ups.remove(session)
        if record.state is WorkerState.ASLEEP and not worker.ended_by_us:
            if code:
                logger.warning("worker %d of %s %s while it fell asleep", worker.pid, model, ending.description)
            record.pid, session.worker = 0, None
            self._nursery.add(session)
            return
        self._forget_session(session)
        if ending.description:
            level = logging.WARNING if code > 0 else logging.ERROR
            logger.log(level, "worker %d of %s %s", worker.pid, model, ending.description)
        if ending.refusal is not None:
            was_loaded = model.has_loaded
            model.on_load_refused(session, ending.refusal)
            if ending.was_killed and was_loaded:  # (one that was refused has put back what was held for it)
                self._hold_memory(model)
            return
        if ending.request_error is not None:
            message, status = ending.request_error.message, ending.request_error.status
            response = protocol.predict_response(None, {}, message, status)
            lost = protocol.model_lost() if is_lost else []
            # the end first: whoever reads the answer is not to send another request
            protocol.send_at_once(session.connection, [*protocol.session_end(), *response, *lost])
        elif ending.was_idle:
            protocol.send_at_once(session.connection, protocol.session_end())
        session.hang_up()  # at once: what the front end still sends is lost
        if ending.holds_memory:
            self._hold_memory(model)

    def _forget_session(self, session: SessionHandle) -> None:
        session.model.on_session_end(session)
        session.record.state, session.record.pid = WorkerState.STARTED, 0
        self._free_records.append(session.slot)

    # ---- sleep ----

    def _wake(self, session: SessionHandle) -> None:
        """A request waits for a session that sleeps: fork a worker, which loads the model again and answers it."""
        session.record.begin_wake_up()
        try:
            self._start_worker(session)
        except OSError as error:
            refusal = self._refusal_without_process(session, error)
            response = protocol.predict_response(None, {}, refusal.message, refusal.status)
            protocol.send_at_once(session.connection, [*protocol.session_end(), *response])
            self._end_sleeper(session)
            return
        self._hang_ups.add(session)

    def _end_sleeper(self, session: SessionHandle) -> None:
        """The front end has hung up on a session that sleeps, or its model is to go."""
        self._nursery.remove(session)
        self._forget_session(session)
        session.hang_up()

    def _hold_memory(self, model: ModelSlot, tries: int = _HOLD_TRIES) -> None:
        """What a worker that has died took is for the next one of its model, which MMS asks for after a second."""
        try:
            key = self._admission.keep(model.name, model.taken_bytes)
        except (OSError, MmeError) as error:
            if tries and model.launch.pid in self._models:
                self._loop.after(_HOLD_AGAIN_S, object(), lambda: self._hold_memory(model, tries - 1))
            else:
                logger.error("nothing is held for the next worker of %s: %s", model, error)
        else:
            model.kept.append(key)
            self._loop.after(KEPT_S, key, lambda: self._release_memory(model, key))

    def _release_memory(self, model: ModelSlot, key: str) -> None:
        try:
            self._admission.forget(key)
        except (OSError, MmeError) as error:
            logger.warning("what is held for %s stays held for a moment: %s", model, error)
            self._loop.after(_AGAIN_S, key, lambda: self._release_memory(model, key))
        else:
            self._loop.cancel(key)
            model.kept.remove(key)


def _has_ended(pipe: int) -> bool:
    """Whether nobody can write to ``pipe`` any more."""
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))
