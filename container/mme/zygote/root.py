"""The zygote's process: one loop that waits for launchers, connections, ends and deaths, and forks.

    python -m mme.zygote.root RUNTIME_DIR ALIVE_FD READY_FD SHARED_FD

It listens on the sockets of all models itself and forks one worker per accepted connection. It has one thread, and
does nothing between events. What its workers are made of is in ``template.py``, what becomes of a forked process in
``child.py``.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from mme.capacity.admission import Admission
from mme.capacity.memory import MIB
from mme.errors import MmeError
from mme.logs import configure_logging
from mme.settings import Settings
from mme.zygote import protocol
from mme.zygote.event_loop import EventLoop
from mme.zygote.launcher import ALIVE, LAUNCHES, is_process, start_time
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.model_slot import ModelSlot, Worker, is_launcher, kill, kill_group, remove_log_files, send_at_once
from mme.zygote.session import EXIT_NO_MEMORY, EXIT_REFUSED
from mme.zygote.session_records import MOST_SESSIONS, SessionRecords, WorkerState
from mme.zygote.template import warm_up
from mme.zygote.worker_process import Inherited, raise_oom_score, run_worker

logger = logging.getLogger("mme.zygote")

# Half way between the front end and a worker, should the kernel have to kill.
OOM_SCORE_ABOVE_FRONT_END = 100
# How long a model whose launcher was killed is kept for its front end to come back; MMS does after 1 s.
_ORPHAN_GRACE_S = 10.0
# How long MMS may take to close its end of a launcher's pipes once that has ended.
_REAPED_S = 0.3
# How long MMS may take to make the log files of a worker that it believes to have answered.
_FILES_MADE_S = 1.0
# How long the memory of a worker that has died is kept for the next one.
_KEPT_S = 10.0
_SIGNALS = {signal.SIGTERM, signal.SIGCHLD}
# What a load is answered by the exit code of its worker.
_REFUSALS = {EXIT_NO_MEMORY: 507, EXIT_REFUSED: 400}


class Zygote:
    """The loop and all that it knows. ``run`` returns when the supervisor has gone, or on SIGTERM.

    Only where the supervisor has gone, all ends with it. A zygote that ends otherwise, or fails, leaves models and
    workers as they are: the supervisor starts another, which takes the models on.
    """

    def __init__(
        self,
        runtime_dir: Path,
        alive: int,
        shared: int,
        inherited: Inherited,
        admission: Admission,
        load_policy: LoadPolicy,
        *,
        multi_model: bool,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._alive = alive
        self._inherited = inherited
        self._admission = admission
        self._load_policy = load_policy
        self._multi_model = multi_model
        self._loop = EventLoop()
        self._guarded: dict[int, bytes] = {}  # process → when it was started
        self._models: dict[int, ModelSlot] = {}  # by launcher
        self._workers: dict[int, Worker] = {}  # by process
        self._records = SessionRecords(shared)
        self._started_ticks = int(start_time(os.getpid()))
        self._free_slots = list(range(MOST_SESSIONS - 1, -1, -1))

    # ---- life ----

    def run(self, ready: int) -> None:
        """Opens what others wait for, says so on ``ready``, and serves."""
        os.set_blocking(self._alive, False)
        self._loop.watch(self._alive, self.handle_supervisor)
        launches = os.open(self._runtime_dir / LAUNCHES, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop.watch(launches, lambda: self.handle_launches(launches))
        # From here on launchers get past opening it.
        os.open(self._runtime_dir / ALIVE, os.O_RDWR | os.O_CLOEXEC)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._loop.on_signals({signal.SIGCHLD: self.handle_deaths, signal.SIGTERM: self._loop.stop})
        os.write(ready, b"\n")
        os.close(ready)
        self._loop.run()

    def handle_supervisor(self) -> None:
        """A process number to guard, or the end of the pipe: the supervisor stops us, or was killed."""
        received = os.read(self._alive, 4096)
        if not received:
            self.end_everything()
            self._loop.stop()
            return
        for pid in map(int, received.split()):
            try:
                self._guarded[pid] = start_time(pid)
            except (OSError, ValueError):
                pass  # it has ended

    def end_everything(self) -> None:
        """Kills guarded processes, launchers and workers, and removes the sockets."""
        for pid, started in self._guarded.items():
            if is_process(pid, started):
                kill(pid)
        for model in list(self._models.values()):
            self._drop(model)
        while self._workers:
            pid, status = os.waitpid(-1, 0)
            self.on_worker_exit(pid, status)

    # ---- models ----

    def handle_launches(self, launches: int) -> None:
        """Launchers have announced themselves: listen for each, and tell MMS so in its stead."""
        for word in os.read(launches, 65536).split():
            pid = int(word) if word.isdigit() else -1
            known = self._models.get(pid)
            if known is not None:
                if known.launch.is_alive():
                    continue
                self._drop(known)
            try:
                self._add(ModelSlot.of_launcher(pid))
            except (OSError, ValueError, KeyError) as error:
                # MMS sees the launcher die and fails the load at once.
                logger.error("process %d announced itself in vain: %s", pid, error)
                if is_launcher(pid):
                    kill(pid)

    def _add(self, model: ModelSlot) -> None:
        self._models[model.launch.pid] = model
        # Its launcher is older than this process: it was another one's model, and its workers may still serve.
        model.has_loaded = int(model.launch.started) < self._started_ticks
        if model.process >= 0:
            self._loop.watch(model.process, lambda: self.handle_launcher_death(model))
        self._loop.watch(model.listener.fileno(), lambda: self.handle_connection(model))
        self._loop.watch(model.standard_input, lambda: self.handle_launcher_end(model))

    def handle_launcher_death(self, model: ModelSlot) -> None:
        """The launcher has ended. Workers write to its pipes, and until these are closed the JVM tells us nothing.

        Where the model was unregistered they end at once, else we end them.
        """
        self._forget_process(model)
        self._loop.after(_REAPED_S, (model.launch.pid, "end"), lambda: self._end_launched(model))

    def _forget_process(self, model: ModelSlot) -> None:
        if model.process >= 0:
            self._loop.unwatch(model.process)
            os.close(model.process)
            model.process = -1

    def handle_launcher_end(self, model: ModelSlot) -> None:
        """The launcher has been killed or reaped, or the front end is gone: the model and its workers end at once.

        Unless the front end still holds connections. It closes them a moment after it has killed the launcher itself.
        """
        self._answer_refused(model)
        self._forget_launcher(model)
        if model.is_orphaned():
            self._loop.after(_REAPED_S, (model.launch.pid, "end"), lambda: self._end_launched(model))
        else:
            self._drop(model)

    def _end_launched(self, model: ModelSlot) -> None:
        """What came of a launcher goes, the model too, unless it was somebody else who killed the launcher.

        Then the front end would never start another (WorkerThread.java fails with a NullPointerException at this point)
        but its workers' threads connect anew to the same socket, so that stays open for them.
        """
        self._answer_refused(model)
        orphaned = model.is_orphaned()
        model.end_workers()
        if orphaned:
            logger.error("the launcher of model %s was killed; its workers are replaced", model.launch.model_name)
            self._forget_launcher(model)
            self._loop.after(_ORPHAN_GRACE_S, model.launch.pid, lambda: self._drop(model))
        else:
            self._drop(model)

    def _answer_refused(self, model: ModelSlot) -> None:
        for connection, status in model.refused:
            self._answer_load(model, connection, status)
        model.refused.clear()

    def _forget_launcher(self, model: ModelSlot) -> None:
        self._forget_process(model)
        self._loop.cancel((model.launch.pid, "end"))
        if model.standard_input >= 0:
            self._loop.unwatch(model.standard_input)
            os.close(model.standard_input)
            model.standard_input = -1

    def _drop(self, model: ModelSlot) -> None:
        """Nothing of the model stays."""
        del self._models[model.launch.pid]
        self._loop.cancel(model.launch.pid)
        model.end_workers()
        for key in list(model.kept):
            self._forget_memory(model, key)
        self._forget_launcher(model)
        self._loop.unwatch(model.listener.fileno())
        model.close()
        if model.launch.is_alive():
            kill(model.launch.pid)

    # ---- workers ----

    def handle_connection(self, model: ModelSlot) -> None:
        """MMS has connected for a worker of ``model``: fork it."""
        try:
            connection, _ = model.listener.accept()
        except BlockingIOError:
            return  # it has gone again
        connection.setblocking(True)
        if not self._free_slots:
            logger.error("no worker for model %s: there are %d", model.launch.model_name, MOST_SESSIONS)
            connection.close()
            return
        worker = Worker(-1, model, connection, self._free_slots.pop())
        self._records.take(worker.slot)
        try:
            worker.pid = self._fork(worker)
        except OSError as error:
            logger.error("no worker for model %s (507): %s; %s", model.launch.model_name, error, self._memory())
            self._free_slots.append(worker.slot)
            self.refuse_load(model, worker, 507)
            return
        model.workers[worker.pid] = self._workers[worker.pid] = worker
        self._loop.cancel(model.launch.pid)

    def _fork(self, worker: Worker) -> int:
        # The child must not run our handlers, nor put signals that are meant for it into our wakeup pipe.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                launch, connection, slot = worker.model.launch, worker.connection, worker.slot
                run_worker(launch, connection, self._records, slot, self._inherited, self._admission, self._load_policy)
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

    def handle_deaths(self) -> None:
        """Reaps all workers that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.on_worker_exit(pid, status)

    def on_worker_exit(self, pid: int, status: int) -> None:
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        del worker.model.workers[pid]
        model = worker.model
        if model.standard_input < 0 and not model.workers and model.launch.pid in self._models:
            self._loop.after(_ORPHAN_GRACE_S, model.launch.pid, lambda: self._drop(model))
        kill_group(pid)  # what the handler has started
        code = os.waitstatus_to_exitcode(status)
        record = self._records[worker.slot]
        state = record.state
        record.state = WorkerState.STARTED
        if state >= WorkerState.READY:
            model.has_loaded = True
            model.taken_bytes = record.taken_mib * MIB
        self._free_slots.append(worker.slot)
        if not worker.ended_by_us:
            worker.report(code)
            killed = code == -signal.SIGKILL  # by the kernel, as far as can be told
            refusal = 507 if killed else _REFUSALS.get(code)
            if state == WorkerState.LOADING and refusal:
                self.refuse_load(model, worker, refusal)
                if killed and model.has_loaded:  # (one that was refused has put back what was kept for it)
                    self.keep_memory(model)
                return
            if state == WorkerState.PREDICTING and killed:
                send_at_once(worker.connection, protocol.predict_response(None, {}, "Out of resources", 507))
        worker.hang_up()  # at once: what the front end still sends is lost
        if state >= WorkerState.READY and code != 0 and not worker.ended_by_us:  # 0: the front end has hung up
            self.keep_memory(model)

    def keep_memory(self, model: ModelSlot) -> None:
        """What a worker that has died took is for the next one of its model, which MMS asks for after a second."""
        try:
            key = self._admission.keep(model.launch.model_name, model.taken_bytes)
        except (OSError, MmeError) as error:
            logger.error("nothing is kept for the next worker of model %s: %s", model.launch.model_name, error)
        else:
            model.kept.append(key)
            self._loop.after(_KEPT_S, key, lambda: self._forget_memory(model, key))

    def _forget_memory(self, model: ModelSlot, key: str) -> None:
        self._loop.cancel(key)
        model.kept.remove(key)
        try:
            self._admission.forget(key)
        except (OSError, MmeError) as error:
            logger.error("what is kept for model %s stays kept: %s", model.launch.model_name, error)

    def refuse_load(self, model: ModelSlot, worker: Worker, status: int) -> None:
        """Answers ``status`` to a load, and closes the connection.

        MMS unregisters the model then, but in a thread that it has interrupted itself: if the launcher lives, waiting
        for its end fails, and MMS puts the model back (ModelManager.unregisterModel), so that the platform's next try
        to load it is answered 409. So the launcher ends before the answer.

        Where the model has been loaded before there is no answer: after that MMS would send this connection a request
        that waits, as if it could be served there. It tries again, and GuardedManager.java unloads what is hopeless.
        """
        if model.has_loaded or any(
            self._records[other.slot].state >= WorkerState.READY for other in model.workers.values()
        ):
            worker.hang_up()
        elif self._multi_model and model.standard_input >= 0:
            model.refused.append((worker.connection, status))
            kill(model.launch.pid)
        else:
            self._answer_load(model, worker.connection, status)

    def _answer_load(self, model: ModelSlot, connection: socket.socket, status: int) -> None:
        send_at_once(connection, protocol.load_response(status, "The reason is in the log of the worker."))
        connection.close()
        folder = Path(model.launch.temporary_dir)
        self._loop.after(_FILES_MADE_S, folder, lambda: remove_log_files(folder))


def main() -> int:
    """Warms up, then serves. Exit code 1 if it cannot; the log says why."""
    runtime_dir = Path(sys.argv[1])
    alive, ready, shared = map(int, sys.argv[2:5])
    settings = Settings.from_environment()
    configure_logging(settings)
    raise_oom_score(OOM_SCORE_ABOVE_FRONT_END)
    try:
        inherited = warm_up(settings, settings.python_path)
    except MmeError as error:
        logger.error("%s", error)
        return 1
    _, hard = inherited.open_files_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    admission = Admission(settings, runtime_dir, server_pid=os.getppid())
    load_policy = LoadPolicy.for_server(settings, runtime_dir, settings.python_path)
    server = Zygote(
        *(runtime_dir, alive, shared, inherited, admission, load_policy),
        multi_model=settings.multi_model,
    )
    server.run(ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
