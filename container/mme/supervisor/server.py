"""The server's life: prepare → start → supervise → drain → stop. Runs in the container's first process.

``serve`` is what ``dockerd-entrypoint.py serve`` calls. The front end (MMS on a JVM) is started by the SageMaker
Inference Toolkit; from then on this process is its supervisor: it forwards a stop, reaps what dies, and ends with the
front end's exit status.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from mme import runtime_dir
from mme.capacity.cores import usable_cores, whole_cores
from mme.errors import MmeError, SettingError, StartError
from mme.front_end import AGENT_JAR, LOAD_POLICY, PLUGINS_FOLDER, WORKING_FOLDER
from mme.logs import configure_logging
from mme.settings import Settings
from mme.supervisor import class_archive, dry_run, mms_config, model_statistics, processes, toolkit
from mme.supervisor.agent import Agent, AgentError
from mme.supervisor.draining import Drain
from mme.supervisor.metrics_handle import MetricsHandle
from mme.supervisor.own_programs import PACKAGE_DIR
from mme.supervisor.preflight import check_start, maps_archives_in_place, trims_native_heap
from mme.supervisor.privileges import drop_credentials, switch_user
from mme.supervisor.scaling_loop import ScalingLoop
from mme.supervisor.zygote_handle import ZygoteHandle
from mme.zygote.launcher import python_for_mms, write_home
from mme.zygote.load_policy import DRY_RUN, STORE, write_store
from mme.zygote.processes import forbid_new_privileges

logger = logging.getLogger("mme.supervisor.server")

# SageMaker sends SIGKILL 30 s after SIGTERM; all must be over before.
STOP_TIMEOUT_S = 28.0
_DRAIN_POLL_S = 0.02
_LOAD_POLL_S = 0.05
# A zygote that dies more often than this is not going to recover.
MOST_ZYGOTE_RESTARTS = 5
PER_S = 60.0
EXIT_BAD_SETTING = 2


def serve() -> int:
    """Serves until told to stop or until the front end ends; returns the exit code of the process.

    0 after SIGTERM or SIGINT, 2 for a bad setting, 1 for a start that cannot work and for an error of the supervisor's
    own, else the front end's own status (128 + signal where a signal ended it).
    """
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        print(f"serve: {error}", file=sys.stderr)
        return EXIT_BAD_SETTING
    configure_logging(settings)
    try:
        drop_credentials(settings)
        switch_user(settings)
        return Server(settings).run()
    except MmeError as error:
        logger.error("%s", error)
        return 1


class Server:
    """One front end and its workers, from start to the last reap."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime_dir: Path | None = None
        self._runtime_locks: list[int] = []  # say that the folder is in use, while this process lives
        self.front_end_pid: int | None = None
        self.front_end_status: int | None = None  # as of os.waitpid
        self.agent: Agent | None = None
        self._statistics = model_statistics.make_statistics()
        self.statistics = model_statistics.ModelStatistics(self._statistics)  # what the front end counts
        self.scaling: ScalingLoop | None = None  # where workers follow traffic
        self.zygote: ZygoteHandle | None = None
        self.metrics: MetricsHandle | None = None
        self._zygote_deaths_s: deque[float] = deque(maxlen=MOST_ZYGOTE_RESTARTS + 1)
        self.stop_signal: signal.Signals | None = None
        self._stop_asked_s: float | None = None
        self.failure: Exception | None = None  # of its own, that ends it
        self._events: deque[signal.Signals] = deque()
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """The lifecycle. Raises ``StartError`` if the front end cannot be started."""
        self.install_signal_handlers()
        try:
            self.prepare()
            self.start()
            self.supervise()
            self.drain()
        except MmeError:
            raise
        except Exception as error:
            logger.exception("an error in the supervisor ends the server")
            self.failure = error
        finally:
            self.stop()
        if self.failure is not None:  # once more: what ends with it has said much meanwhile
            logger.error("the server has ended: %r in its supervisor", self.failure)
        return self.exit_code()

    # ---- prepare ----

    def prepare(self) -> None:
        """Checks what can be known beforehand and makes this server's private folder."""
        check_start(self.settings)
        processes.become_subreaper()
        forbid_new_privileges()
        try:
            self.write_files()
        except OSError as error:
            folder = tempfile.gettempdir()
            raise StartError(f"our files cannot be written to {folder} (TMPDIR): {error.strerror}.") from None

    def write_files(self) -> None:
        """Makes the private folder, and in it what the front end reads."""
        self.runtime_dir, self._runtime_locks = runtime_dir.make()
        (self.runtime_dir / "tmp").mkdir()
        # A file where the front end would make a folder to unpack archives in: none is unpacked (MMS-5).
        (self.runtime_dir / "tmp" / "models").touch()
        roots = (*self.settings.roots, self.runtime_dir / DRY_RUN)
        model_store = write_store(self.runtime_dir, roots)
        cores = usable_cores()
        (self.runtime_dir / mms_config.PROPERTIES_FILE).write_text(
            mms_config.properties(
                self.settings,
                cores=whole_cores(cores),
                model_store=model_store,
                class_archive=class_archive.archive(self.settings),
                trims_native_heap=trims_native_heap(self.settings),
                maps_archives_in_place=maps_archives_in_place(self.settings),
                hidden_variables=mms_config.own_variables(os.environ),
            ),
            encoding="latin-1",
        )
        log_config = mms_config.log_properties(self.settings)
        (self.runtime_dir / mms_config.LOG_CONFIG_FILE).write_text(log_config, encoding="latin-1")
        (self.runtime_dir / WORKING_FOLDER).mkdir()
        (self.runtime_dir / PLUGINS_FOLDER).mkdir()
        (self.runtime_dir / PLUGINS_FOLDER / AGENT_JAR.name).symlink_to(AGENT_JAR)
        load_policy = mms_config.load_policy(self.settings, roots, cores=cores)
        (self.runtime_dir / LOAD_POLICY).write_text(load_policy, encoding="latin-1")
        dry_run.prepare(self.settings, self.runtime_dir)
        self.agent = Agent(self.runtime_dir)
        if self.settings.autoscale:
            self.scaling = ScalingLoop(self.settings, self.agent, self.statistics, cores)
        model_statistics.offer(self._statistics, self.runtime_dir)
        self.metrics = MetricsHandle(self.settings, self.runtime_dir, self._statistics)

    # ---- start ----

    def start(self) -> None:
        """Starts the front end through the toolkit and returns when it serves."""
        assert self.runtime_dir is not None and self.agent is not None
        environment = mms_config.environment(
            self.settings, os.environ, runtime_dir=self.runtime_dir, package_dir=PACKAGE_DIR
        )
        started_s = time.monotonic()
        if self.settings.workers == "fork":
            self.zygote = ZygoteHandle(self.settings, self.runtime_dir)
            self.zygote.start()  # it warms up while the JVM starts
            environment = self.zygote.environment_for(environment)
        else:
            if self.settings.sleep_after_s is not None:
                logger.warning("MME_SLEEP_AFTER_S has no effect: workers that are spawned (MME_WORKERS) do not sleep")
            home = write_home(self.runtime_dir, "spawn", environment["PYTHONPATH"])
            environment = {**environment, **home, "PATH": os.pathsep.join([home["PATH"], environment["PATH"]])}
        front_end = toolkit.FrontEnd(
            self.settings,
            environment,
            runtime_dir=self.runtime_dir,
            model_store=self.runtime_dir / STORE,
            python=python_for_mms(self.runtime_dir),
            agent=self.agent,
            statistics=self._statistics,
            cancelled=self.stop_is_wanted,
            on_child_exit=self.handle_child_exit,
        )
        self.front_end_pid = front_end.start_with_retry()
        if self.front_end_pid is not None:
            if self.zygote is not None:
                self.wait_for_zygote(self.zygote)
                self.zygote.kill_on_end(self.front_end_pid)
                if not self.stop_is_wanted():
                    dry_run.run(self.settings, self.runtime_dir)
            if self.metrics is not None:
                self.metrics.front_end_serves(self.zygote)
            self.report_health(None)  # until now /ping was 503: the first load must not wait for what is imported
            if not self.settings.multi_model:
                self.wait_for_single_model()
            logger.info(
                "serving %s on %s:%d after %.1f s (front end is process %d)",
                f"models from {self.settings.models_dir}"
                if self.settings.multi_model
                else f"the model in {self.settings.single_model_dir}",
                self.settings.host,
                self.settings.port,
                time.monotonic() - started_s,
                self.front_end_pid,
            )

    def wait_for_zygote(self, zygote: ZygoteHandle) -> None:
        """Returns when it has prepared what it preloads; until then /ping is 503. Raises ``StartError``."""
        if self.settings.multi_model:  # else the front end itself says so, until the model is loaded
            self.report_health("No model can be loaded yet: the zygote prepares what it preloads.")
        zygote.wait_until_ready(self.stop_is_wanted)

    def wait_for_single_model(self) -> None:
        """Returns when the model is loaded, or when there is something else to do. Raises ``StartError`` if it is not.

        Until then the front end answers /ping with 503. It would stay up without the model, and blame the clients.
        """
        assert self.agent is not None
        while not self.stop_is_wanted() and self.front_end_status is None:
            try:
                status = self.agent.status()
            except AgentError:
                self.handle_child_exits()
                continue
            if status.startup_model == "loaded":
                return
            if status.startup_model == "failed":
                folder, reason = self.settings.single_model_dir, status.failure or "the log says why."
                raise StartError(f"the model in {folder} does not load ({status.failure_status}): {reason}")
            processes.wait_readable(self._wakeup_read, _LOAD_POLL_S)
            processes.drain(self._wakeup_read)
            if signal.SIGCHLD in self._events:
                self.handle_child_exits()

    # ---- supervise ----

    def install_signal_handlers(self) -> None:
        """Handlers only note the signal and wake the loop, which acts on it."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, _frame: object) -> None:
        self._events.append(signal.Signals(number))
        try:
            os.write(self._wakeup_write, b"\0")
        except BlockingIOError:
            pass  # the loop is to be woken already

    def stop_is_wanted(self) -> bool:
        """Whether SIGTERM or SIGINT has arrived; looked at while starting, too."""
        return any(event in (signal.SIGTERM, signal.SIGINT) for event in self._events)

    def supervise(self) -> None:
        """Waits for signals until a stop is asked for or the front end has ended."""
        self.handle_child_exits()  # what ended before the handlers' first wakeup was read
        while self.stop_signal is None and self.front_end_status is None:
            if not self._events:
                self.wait_for_event()
            processes.drain(self._wakeup_read)
            while self._events:
                event = self._events.popleft()
                if event == signal.SIGCHLD:
                    self.handle_child_exits()
                else:
                    self.handle_stop(event)

    def wait_for_event(self) -> None:
        """Returns when a signal has arrived, another zygote is ready, workers were looked at, or metrics are wanted."""
        ready = -1 if self.zygote is None else self.zygote.ready_descriptor
        scaling, metrics = self.scaling, self.metrics
        events = -1 if scaling is None else scaling.descriptor
        asked = [] if metrics is None else metrics.descriptors()
        awaited = [each for each in (self._wakeup_read, ready, events, *asked) if each >= 0]
        timeouts_s = [each.timeout_s() for each in (scaling, metrics) if each is not None]
        timeout_s = min((each for each in timeouts_s if each is not None), default=None)
        readable, _, _ = select.select(awaited, [], [], timeout_s)
        if scaling is not None:
            if events in readable:
                scaling.on_event()
            if scaling.is_due():
                scaling.look()
        if metrics is not None and (metrics.is_due() or not set(asked).isdisjoint(readable)):
            metrics.start()
        if ready in readable and self.zygote is not None and self.zygote.note_ready():
            self.report_health(None)

    def report_health(self, reason: str | None) -> None:
        """Has /ping answered 503 with ``reason``, or as ever where there is none."""
        if self.agent is None or self.front_end_pid is None:
            return  # nothing answers yet
        try:
            if reason is None:
                self.agent.report_healthy()
            else:
                self.agent.report_unhealthy(reason)
        except AgentError as error:
            logger.error("the health of the server cannot be told: %s", error)

    def handle_stop(self, event: signal.Signals) -> None:
        """SIGTERM or SIGINT: leave the loop."""
        self.stop_signal = event
        self._stop_asked_s = time.monotonic()

    def handle_child_exits(self) -> None:
        """Reaps every ended child; as first process of a container, orphans of others, too."""
        for pid, status in processes.reap():
            self.handle_child_exit(pid, status)

    def handle_child_exit(self, pid: int, status: int) -> None:
        """One child, which has been reaped."""
        if pid == self.front_end_pid:
            self.front_end_status = status
        elif self.zygote is not None and pid == self.zygote.pid:
            self.handle_zygote_exit(status)
        elif self.metrics is not None and pid == self.metrics.pid:
            self.metrics.on_exit(status)

    def handle_zygote_exit(self, status: int) -> None:
        """Models go on; another is started for the loads to come, and /ping is 503 until it is ready.

        Raises ``StartError`` if it keeps dying, or did not warm up while the front end started.
        """
        assert self.zygote is not None
        if self.front_end_pid is None and self.zygote.ready_descriptor >= 0 and not self.zygote.note_ready():
            raise StartError("the zygote ended while it warmed up; its last lines in the log say why.")
        self.report_health("No model can be loaded: the zygote has ended, and another one is starting.")
        logger.error("the zygote ended (%s), starting another", processes.describe_status(status))
        deaths_s = self._zygote_deaths_s
        deaths_s.append(time.monotonic())
        if len(deaths_s) > MOST_ZYGOTE_RESTARTS and deaths_s[-1] - deaths_s[0] < PER_S:
            raise StartError(f"the zygote ended {len(deaths_s)} times within {PER_S:g} s; its log says why.")
        self.zygote.restart()

    # ---- drain ----

    def drain(self) -> None:
        """Waits for the answers to requests that are under way, while new ones are refused.

        Ends early on a second SIGTERM or SIGINT, and where the front end ends by itself.
        """
        if self._stop_asked_s is None or self.front_end_pid is None or self.front_end_status is not None:
            return
        timeout_s = self.settings.drain_timeout_s
        give_up_s = self._stop_asked_s + timeout_s
        assert self.agent is not None
        drain = Drain(self.settings, self.agent)
        if drain.in_flight:
            logger.info("%d requests are under way, and have %d s", drain.in_flight, timeout_s)
        while not drain.is_over():
            if time.monotonic() >= give_up_s:
                logger.warning("requests are still under way after %d s, and cut off", timeout_s)
                return
            processes.wait_readable(self._wakeup_read, _DRAIN_POLL_S)
            processes.drain(self._wakeup_read)
            while self._events:
                if self._events.popleft() != signal.SIGCHLD:
                    return
                self.handle_child_exits()
            if self.front_end_status is not None:
                return

    # ---- stop ----

    def stop(self) -> None:
        """Ends every descendant within ``STOP_TIMEOUT_S`` of the signal and removes the private folder."""
        deadline_s = (self._stop_asked_s or time.monotonic()) + STOP_TIMEOUT_S
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if self.stop_signal is not None:
            logger.info("stopping on %s", self.stop_signal.name)
        elif self.front_end_status is not None:
            logger.error("the front end ended: %s", processes.describe_status(self.front_end_status))
        first = [self.front_end_pid] if self.front_end_pid is not None and self.front_end_status is None else []
        for pid, status in processes.end_descendants(first=first, deadline_s=deadline_s):
            if pid == self.front_end_pid and self.front_end_status is None:
                self.front_end_status = status
        if self.zygote is not None:
            self.zygote.stop(deadline_s)
        if self.agent is not None:
            self.agent.close()
        if self.runtime_dir is not None:
            if self.settings.management_socket is not None:
                self.settings.management_socket.unlink(missing_ok=True)
            runtime_dir.remove(self.runtime_dir)

    def exit_code(self) -> int:
        """0 after a stop that was asked for, else the front end's status as a shell words it, never 0.

        1 after an error of the supervisor's own.
        """
        if self.failure is not None:
            return 1
        if self.stop_signal is not None or self.front_end_status is None:
            return 0
        return processes.exit_code(self.front_end_status) or 1
