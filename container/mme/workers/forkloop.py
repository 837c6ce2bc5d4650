"""The fork server's process: one loop that waits for launchers, connections, ends and deaths, and forks.

    python -m mme.workers.forkloop RUNTIME_DIR ALIVE_FD READY_FD

It listens on the sockets of all models itself and forks one worker per accepted connection. It has one thread, never
blocks but in its selector, and does nothing between events. What its workers are made of is in ``template.py``, what
becomes of a forked process in ``child.py``.
"""

from __future__ import annotations

import logging
import mmap
import os
import resource
import select
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mme.errors import MmeError
from mme.logs import configure_logging
from mme.settings import Settings
from mme.workers import protocol
from mme.workers.child import HIGHEST_OOM_SCORE, Inherited, raise_oom_score, run_worker
from mme.workers.launcher import ALIVE, LAUNCHES, Launch
from mme.workers.service import Busy
from mme.workers.template import warm_up

logger = logging.getLogger("mme.forkserver")

# Half way between the front end and a worker, should the kernel have to kill.
OOM_SCORE_ABOVE_FRONT_END = 100
_BACKLOG = 128  # as MMS's worker
_MOST_WORKERS = 65536
# How long a model whose launcher was killed is kept for its front end to come back; MMS does after 1 s.
_ORPHAN_GRACE_S = 10.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
assert HIGHEST_OOM_SCORE > OOM_SCORE_ABOVE_FRONT_END


@dataclass
class Model:
    """What a launcher stands for: a socket to listen on, and the workers of its connections."""

    launch: Launch
    listener: socket.socket
    standard_input: int  # -1 once the launcher is gone
    workers: dict[int, Worker] = field(default_factory=dict)


@dataclass
class Worker:
    """A forked process. The copy of its connection is kept to answer in its place if it is killed."""

    pid: int
    model: Model
    connection: socket.socket
    slot: int  # its byte in the shared page of states
    ended_by_us: bool = False


class ForkServer:
    """The loop and all that it knows. ``run`` returns when the supervisor has gone or asked for the end."""

    def __init__(self, runtime_dir: Path, alive: int, inherited: Inherited) -> None:
        self._runtime_dir = runtime_dir
        self._inherited = inherited
        self._alive = alive
        self._guarded: dict[int, float] = {}
        self._models: dict[int, Model] = {}  # by launcher
        self._workers: dict[int, Worker] = {}  # by process
        # Models without launcher and without worker, by launcher: when to drop them, in time.monotonic().
        self._orphans: dict[int, float] = {}
        self._states = memoryview(mmap.mmap(-1, _MOST_WORKERS))
        self._free_slots = list(range(_MOST_WORKERS - 1, -1, -1))
        self._selector = selectors.DefaultSelector()
        self._ending = False

    # ---- life ----

    def run(self, ready: int) -> None:
        """Opens what others wait for, says so on ``ready``, and serves."""
        os.set_blocking(self._alive, False)
        self._watch(self._alive, self.handle_supervisor)
        launches = os.open(self._runtime_dir / LAUNCHES, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._watch(launches, lambda: self.handle_launches(launches))
        # From here on launchers get past opening it.
        os.open(self._runtime_dir / ALIVE, os.O_RDWR | os.O_CLOEXEC)
        self._install_signal_handlers()
        os.write(ready, b"\n")
        os.close(ready)
        try:
            while not self._ending:
                for key, _ in self._selector.select(self._timeout_s()):
                    key.data()
                self.drop_orphans()
        finally:
            signal.set_wakeup_fd(-1)
            self.end_everything()

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, handler)

    def _install_signal_handlers(self) -> None:
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wakeup descriptor has it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._watch(wakeup_read, lambda: self.handle_signals(wakeup_read))
        self.handle_deaths()

    def handle_supervisor(self) -> None:
        """A process number to guard, or the end of the pipe: the supervisor stops us, or was killed."""
        received = os.read(self._alive, 4096)
        if not received:
            self._ending = True
            return
        for pid in map(int, received.split()):
            self._guarded[pid] = _started(pid)

    def handle_signals(self, wakeup: int) -> None:
        """SIGCHLD: reap. SIGTERM: end."""
        numbers = os.read(wakeup, 4096)
        if signal.SIGCHLD in numbers:
            self.handle_deaths()
        if signal.SIGTERM in numbers:
            self._ending = True

    def end_everything(self) -> None:
        """Kills guarded processes, launchers and workers, and removes the sockets."""
        for pid, started in self._guarded.items():
            if _started(pid) == started:
                _kill(pid)
        for model in list(self._models.values()):
            self._drop(model)
        while self._workers:
            pid, status = os.waitpid(-1, 0)
            self._bury(pid, status)

    # ---- models ----

    def handle_launches(self, launches: int) -> None:
        """Launchers have announced themselves: listen for each, and tell MMS so in its stead."""
        for pid in map(int, os.read(launches, 65536).split()):
            known = self._models.get(pid)
            if known is not None:
                if known.launch.is_alive():
                    continue
                self._drop(known)
            try:
                self._add(Launch.of_process(pid))
            except (OSError, ValueError, KeyError) as error:
                # MMS sees the launcher die and fails the load at once.
                logger.error("process %d announced itself in vain: %s", pid, error)
                if _is_launcher(pid):
                    _kill(pid)

    def _add(self, launch: Launch) -> None:
        standard_input = launch.open_standard_input()
        try:
            listener = _listen(launch)
        except OSError:
            os.close(standard_input)
            raise
        model = Model(launch, listener, standard_input)
        self._models[launch.pid] = model
        self._watch(listener.fileno(), lambda: self.handle_connection(model))
        self._watch(standard_input, lambda: self.handle_launcher_end(model))
        output, errors = launch.open_output()
        # The lines that WorkerLifeCycle.java waits for; one write each is atomic, and the pipe is empty.
        os.write(output, b"[PID] %d\nMMS worker started.\nPython runtime: %s\n" % (launch.pid, _PYTHON_VERSION))
        os.close(output)
        os.close(errors)
        logger.debug("listening for model %s", launch.model_name)

    def handle_launcher_end(self, model: Model) -> None:
        """The launcher has been reaped, or the front end is gone: the model's workers end at once, and so does it.

        Unless somebody else killed the launcher: the front end still holds its connections then. It would never start
        another launcher (WorkerThread.java fails with a NullPointerException at this point) but its workers' threads
        connect anew to the same socket, so that stays open for them.
        """
        orphaned = not model.launch.is_alive() and not all(map(_hung_up, model.workers.values()))
        self._end_workers(model)
        if orphaned:
            logger.error("the launcher of model %s was killed; its workers are replaced", model.launch.model_name)
            self._forget_launcher(model)
            self._orphans[model.launch.pid] = time.monotonic() + _ORPHAN_GRACE_S
        else:
            self._drop(model)

    def _end_workers(self, model: Model) -> None:
        for worker in model.workers.values():
            worker.ended_by_us = True
            _kill_group(worker.pid)

    def _forget_launcher(self, model: Model) -> None:
        if model.standard_input >= 0:
            self._selector.unregister(model.standard_input)
            os.close(model.standard_input)
            model.standard_input = -1

    def _timeout_s(self) -> float | None:
        return max(min(self._orphans.values()) - time.monotonic(), 0.0) if self._orphans else None

    def drop_orphans(self) -> None:
        """Drops models that have neither launcher nor worker, and to which nobody has come back."""
        now_s = time.monotonic()
        for launcher in [launcher for launcher, drop_at_s in self._orphans.items() if drop_at_s <= now_s]:
            self._drop(self._models[launcher])

    def _drop(self, model: Model) -> None:
        """Nothing of the model stays."""
        del self._models[model.launch.pid]
        self._orphans.pop(model.launch.pid, None)
        self._end_workers(model)
        self._forget_launcher(model)
        self._selector.unregister(model.listener)
        model.listener.close()
        if model.launch.socket_path:
            Path(model.launch.socket_path).unlink(missing_ok=True)
        if model.launch.is_alive():
            _kill(model.launch.pid)

    # ---- workers ----

    def handle_connection(self, model: Model) -> None:
        """MMS has connected for a worker of ``model``: fork it."""
        try:
            connection, _ = model.listener.accept()
        except BlockingIOError:
            return  # it has gone again
        connection.setblocking(True)
        if not self._free_slots:
            logger.error("no worker for model %s: there are %d", model.launch.model_name, _MOST_WORKERS)
            connection.close()
            return
        slot = self._free_slots.pop()
        self._states[slot] = Busy.IDLE
        try:
            pid = self._fork(model, connection, slot)
        except OSError as error:
            logger.error("no worker for model %s (507): %s", model.launch.model_name, error)
            self._free_slots.append(slot)
            _send(connection, protocol.load_response(507, "System out of memory"))
            connection.close()
            return
        model.workers[pid] = self._workers[pid] = Worker(pid, model, connection, slot)
        self._orphans.pop(model.launch.pid, None)

    def _fork(self, model: Model, connection: socket.socket, slot: int) -> int:
        # The child must not run our handlers, nor put signals that are meant for it into our wakeup pipe.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                run_worker(model.launch, connection, self._states[slot : slot + 1], self._inherited)
            os.setpgid(pid, pid)  # the child does the same; whoever is first, from here on it leads a group
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def handle_deaths(self) -> None:
        """Reaps all workers that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._bury(pid, status)

    def _bury(self, pid: int, status: int) -> None:
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        del worker.model.workers[pid]
        launcher = worker.model.launch.pid
        if worker.model.standard_input < 0 and not worker.model.workers and launcher in self._models:
            self._orphans[launcher] = time.monotonic() + _ORPHAN_GRACE_S
        _kill_group(pid)  # what the handler has started
        self._report(worker, os.waitstatus_to_exitcode(status))
        worker.connection.close()
        self._free_slots.append(worker.slot)

    def _report(self, worker: Worker, code: int) -> None:
        """Logs a worker's death and, where the kernel may have killed it in a request, answers 507 in its place."""
        model = worker.model.launch.model_name
        if worker.ended_by_us or code == 0:
            return
        if code > 0:
            logger.warning("worker %d of model %s ended with exit code %d", worker.pid, model, code)
            return
        name = signal.Signals(-code).name
        state = self._states[worker.slot]
        if -code == signal.SIGIO:
            logger.warning("worker %d of model %s was killed: the front end had given up on it", worker.pid, model)
        elif -code == signal.SIGKILL:
            logger.error("worker %d of model %s was killed, probably for lack of memory", worker.pid, model)
            if state == Busy.PREDICTING:
                _send(worker.connection, protocol.predict_response(None, {}, "Out of resources", 507))
        else:
            logger.error("worker %d of model %s crashed: %s", worker.pid, model, name)


_PYTHON_VERSION = ".".join(map(str, sys.version_info[:3])).encode()


def _listen(launch: Launch) -> socket.socket:
    path = launch.socket_path
    if path is None:
        listener = socket.socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", launch.port))
    else:
        listener = socket.socket(socket.AF_UNIX)
        if Path(path).is_socket():
            Path(path).unlink()  # of a fork server that was killed
        listener.bind(path)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _is_launcher(pid: int) -> bool:
    try:
        Launch.of_process(pid)
    except (OSError, ValueError, KeyError):
        return False
    return True


def _send(connection: socket.socket, response: list[protocol.Buffer]) -> None:
    """Sends a few bytes; nobody waits for them if that cannot be done at once."""
    try:
        connection.setblocking(False)
        protocol.send(connection, response)
    except (OSError, protocol.Disconnected):
        pass


def _hung_up(worker: Worker) -> bool:
    """Whether the front end has closed the worker's connection."""
    poll = select.poll()
    poll.register(worker.connection, select.POLLRDHUP)
    return bool(poll.poll(0))


def _started(pid: int) -> float:
    """When the process started, in clock ticks since boot; -1 if there is none."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except OSError:
        return -1.0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_group(leader: int) -> None:
    """Kills a worker, unless it has ended, and what it has started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main() -> int:
    """Warms up, then serves. Exit code 1 if it cannot; the log says why."""
    runtime_dir, alive, ready = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    settings = Settings.from_environment()
    configure_logging(settings)
    raise_oom_score(OOM_SCORE_ABOVE_FRONT_END)
    try:
        inherited = warm_up(settings, os.environ.get("PYTHONPATH", ""))
    except MmeError as error:
        logger.error("%s", error)
        return 1
    _, hard = inherited.open_files_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ForkServer(runtime_dir, alive, inherited).run(ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
