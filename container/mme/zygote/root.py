"""The zygote's root: sees which framework a new model needs, and hands its launcher to the template of that.

    python -m mme.zygote.root RUNTIME_DIR SUPERVISOR_FD READY_FD RECORDS_FD

Lifetime   that of the server; if it crashes, the supervisor starts another, and the launchers announce themselves anew.
Holds      no framework and no NumPy, so that a template begins with nothing that it does not need.
Children   one template per framework (``template.py``), and one without (``PLAIN``) for models of no known framework,
           if no template of scripts stands ready, which has none either. Preloaded ones (the one without, if there
           are none) are forked at the start, others when the first model asks for them.
Ends       on SIGTERM, leaving models as they are; or with the supervisor, and then all ends with it: the front end,
           the models, and at last the server's private folder.

A template that dies is replaced. The launchers of its models announce themselves again
(``launcher.replace_alive_pipe``), and the next template takes the models on; their workers go on meanwhile, and the
root ends those that the front end has given up (``orphans.py``). What cannot be prepared (a framework that starts a
thread, a handler that crashes) is left out: the template without it serves these models, and each worker imports it
itself.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import NoReturn

from mme.errors import StartError, is_lack_of_resources
from mme.frameworks import registry
from mme.logs import configure_logging
from mme.packages.requirements import requirements_of
from mme.runtime_dir import remove_once_abandoned
from mme.settings import Settings
from mme.zygote.event_loop import EventLoop
from mme.zygote.launcher import (
    LAUNCHERS_OPEN_S,
    LAUNCHES,
    Launch,
    forget_closed_descriptors,
    is_process,
    replace_alive_pipe,
    start_time,
)
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.orphans import Orphans
from mme.zygote.processes import describe_exit, kill, name_process, raise_oom_score, reap
from mme.zygote.session_records import SessionRecords

logger = logging.getLogger("mme.zygote")

PLAIN = ""  # the template without a framework
# Half way between the front end and a worker, should the kernel have to kill.
OOM_SCORE_ABOVE_FRONT_END = 100
# Templates that die more often than this are not going to recover.
_MOST_DEATHS = 5
_PER_S = 60.0
# How long templates may take to end everything once the supervisor has gone.
_END_S = 5.0
# A supervisor that was killed lets go of its folder within milliseconds; one that stops removes it itself.
_LET_GO_S = 0.5
_POLL_S = 0.01
_HAND_OVER_AGAIN_S = 0.05
# A launcher that is older announces itself anew, as all do at once: what is done for new ones takes 8 ms with 800
# models, and would hold up the loop.
_NEW_S = 5.0
# A new launcher's model is loaded after so long, as a rule.
_LOADED_S = 0.5
_LOOK_AGAIN_S = 0.5
_SIGNALS = {signal.SIGTERM, signal.SIGCHLD}


class TemplateState(Enum):
    """PREPARING → READY; either ends with the process."""

    PREPARING = auto()
    READY = auto()


@dataclass
class TemplateHandle:
    """A template as the root has it. The two talk in lines over ``link``.

    root → template    <pid>              the launcher of a model, which is the template's from now on
    template → root    preparing <part>   what it imports or warms next: to be left out, should it die of it
                       failed <part>      <part> cannot be prepared; the template goes on to end
                       ready              it forks from now on
                       idle <n>           it has had no model for a while, after <n> launchers: it may be ended
    """

    name: str
    pid: int
    link: socket.socket
    state: TemplateState = TemplateState.PREPARING
    part: str | None = None  # that it is preparing
    waiting: list[int] = field(default_factory=list)  # launchers that have not been handed over
    handed: int = 0  # launchers that have
    received: bytes = b""

    def __str__(self) -> str:
        framework, _, key = self.name.partition("@")
        about = f"for {framework}" if framework else "without a framework"
        return f"the template {about}{f' with package set {key}' if key else ''} (process {self.pid})"


class Root:
    """The loop and all that it knows, which is no model: what it loses with its life, launchers tell the next one."""

    def __init__(self, settings: Settings, runtime_dir: Path, supervisor: int, records_descriptor: int) -> None:
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._supervisor = supervisor
        self._records_descriptor = records_descriptor
        self._records = SessionRecords(records_descriptor)
        self._server_pid = os.getppid()
        self._loop = EventLoop()
        self._alive = -1
        self._ready = -1
        self._templates: dict[str, TemplateHandle] = {}
        self._left_out: set[str] = set()
        self._kill_on_end: dict[int, bytes] = {}  # process → when it was started
        self._deaths_s: deque[float] = deque(maxlen=_MOST_DEATHS + 1)
        self._preloaded = self._templates_to_preload()
        # What stands ready with no framework: broken models must not make us prepare a template of its own for them.
        self._for_models_of_none = next((each for each in (PLAIN, "script") if each in self._preloaded), PLAIN)
        self._load_policy = LoadPolicy.for_server(settings, runtime_dir, settings.python_path)
        self._orphans = Orphans(self._records, settings.worker_response_timeout_s)

    # ---- life ----

    def run(self, ready: int) -> None:
        """Preloads, says so on ``ready``, and serves until the supervisor has gone, or until SIGTERM."""
        self._ready = ready
        os.set_blocking(self._supervisor, False)
        self._loop.watch(self._supervisor, self.on_supervisor_message)
        launches = os.open(self._runtime_dir / LAUNCHES, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop.watch(launches, lambda: self.on_launches(launches))
        self._have_launchers_announce_themselves()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._loop.on_signals({signal.SIGCHLD: self.on_child_exits, signal.SIGTERM: self._loop.stop})
        for name in self._preloaded:
            self._start_template(name)
        self._say_ready()
        if self._records.used_records:  # there was another root, whose templates ended with it
            self._look_after_orphans()
        self._loop.run()

    def _templates_to_preload(self) -> tuple[str, ...]:
        frameworks = registry.frameworks_to_preload(self._settings)
        # With a handler of one's own, models may be of any kind.
        return (*frameworks, PLAIN) if self._settings.handler or not frameworks else frameworks

    def _say_ready(self) -> None:
        if self._ready < 0 or any(each.state is TemplateState.PREPARING for each in self._templates.values()):
            return
        os.write(self._ready, b"\n")
        os.close(self._ready)
        self._ready = -1

    def on_supervisor_message(self) -> None:
        """A process to kill with us, or the end of the pipe: the supervisor stops us, or was killed."""
        received = os.read(self._supervisor, 4096)
        if not received:
            self._end_everything()
            self._loop.stop()
            return
        for pid in map(int, received.split()):
            try:
                self._kill_on_end[pid] = start_time(pid)
            except (OSError, ValueError):
                pass  # it has ended

    def _end_everything(self) -> None:
        """Kills what the supervisor has named; templates see its end themselves, and end their models.

        Where the supervisor was killed, its private folder goes last.
        """
        for pid, started in self._kill_on_end.items():
            if is_process(pid, started):
                kill(pid)
        for template in self._templates.values():
            if template.state is TemplateState.PREPARING:
                kill(template.pid)  # it looks at nothing else meanwhile
        deadline_s = time.monotonic() + _END_S
        while self._has_child():
            if time.monotonic() >= deadline_s:
                for template in self._templates.values():
                    kill(template.pid)
            time.sleep(_POLL_S)
        for record in self._records.living():  # of templates that have died
            kill(record.pid)
        # The front end is not our child, and must not write to the folder any more.
        while any(is_process(*each) for each in self._kill_on_end.items()) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        remove_once_abandoned(self._runtime_dir, _LET_GO_S)

    @staticmethod
    def _has_child() -> bool:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    # ---- models ----

    def on_launches(self, launches: int) -> None:
        """Launchers have announced themselves: hand each to the template of its model's framework."""
        self._hand_out(int(word) for word in os.read(launches, 65536).split() if word.isdigit())

    def _have_launchers_announce_themselves(self) -> None:
        """All do, also those whose template lives on, which ignores them."""
        before = self._alive
        self._alive, old = replace_alive_pipe(self._runtime_dir)
        if before >= 0:
            os.close(before)
        self._loop.after(LAUNCHERS_OPEN_S, object(), lambda: os.close(old))

    def _hand_out(self, launchers: Iterable[int]) -> None:
        for pid in launchers:
            try:
                launch = Launch.of_process(pid)
            except (OSError, ValueError) as error:
                logger.error("process %d announced itself in vain: %s", pid, error)
                if is_lack_of_resources(error):  # it may be a launcher, and wait
                    self._loop.after(_LOOK_AGAIN_S, (pid, "launcher"), lambda pid=pid: self._hand_out([pid]))  # type: ignore[misc]
                continue
            name = self._template_for(launch.working_dir)
            try:
                template = self._templates.get(name) or self._start_template(name)
            except OSError as error:
                logger.error("no template for process %d, which is killed (507): %s", pid, error)
                kill(pid)
                continue
            template.waiting.append(pid)
            self._hand_over(template)
            if launch.age_s() < _NEW_S:
                self._loop.after(_LOADED_S, (pid, "descriptors"), lambda pid=pid: forget_closed_descriptors(pid))  # type: ignore[misc]

    def _template_for(self, model_dir: str) -> str:
        """``FRAMEWORK[@KEY]``: by the files of the model, and the packages that it asks for."""
        framework = registry.framework_of(model_dir, self._settings) or self._for_models_of_none
        name = PLAIN if framework in self._left_out else framework
        if not self._load_policy.installs or not self._load_policy.is_below_root(Path(model_dir)):
            return name
        try:
            wanted = requirements_of(model_dir)
        except OSError as error:
            logger.warning("what %s asks for cannot be read: %s", model_dir, error)
            return name
        return f"{name}@{wanted.key}" if wanted else name

    def _hand_over(self, template: TemplateHandle) -> None:
        if template.state is not TemplateState.READY or not template.waiting:
            return
        try:
            while template.waiting:
                template.link.send(b"%d\n" % template.waiting[0])
                del template.waiting[0]
                template.handed += 1
        except BlockingIOError:
            self._loop.after(_HAND_OVER_AGAIN_S, template.pid, lambda: self._hand_over(template))
        except OSError:
            pass  # it has died, and its launchers announce themselves anew

    # ---- templates ----

    def _start_template(self, name: str) -> TemplateHandle:
        """Raises ``OSError`` if it cannot be forked."""
        ours, theirs = socket.socketpair()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_template(name, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            theirs.close()
        ours.setblocking(False)
        template = self._templates[name] = TemplateHandle(name, pid, ours)
        self._loop.watch(ours.fileno(), lambda: self.on_template_message(template))
        return template

    def _become_template(self, name: str, link: socket.socket) -> NoReturn:
        code = 1
        try:
            from mme.zygote.template import run_template

            run_template(
                name,
                frozenset(self._left_out),
                self._settings,
                self._runtime_dir,
                link=link,
                supervisor=self._supervisor,
                records_descriptor=self._records_descriptor,
                server_pid=self._server_pid,
            )
            code = 0
        except StartError as error:
            logger.error("%s", error)
        except BaseException:
            logger.exception("a template ended")
        finally:
            os._exit(code)

    def on_template_message(self, template: TemplateHandle) -> None:
        """How far a template is; its end is seen by ``on_child_exits``."""
        try:
            received = template.link.recv(4096)
        except OSError:
            received = b""
        if not received:
            self._loop.unwatch(template.link.fileno())
            return
        *lines, template.received = (template.received + received).split(b"\n")
        for line in lines:
            word, _, part = line.decode().partition(" ")
            template.part = part or None
            if word == "idle":
                template.part = None
                self._end_idle(template, int(part))
                return
            if word == "failed":
                self._leave_out(part)
            elif word == "ready":
                template.state = TemplateState.READY
                self._hand_over(template)
                self._say_ready()

    def _end_idle(self, template: TemplateHandle, launchers: int) -> None:
        """Ends a template that has no model, unless one is on its way to it, or it was to be there from the start."""
        if template.handed != launchers or template.waiting or template.name in self._preloaded:
            return
        logger.info("%s ends: it has had no model for a while", template)
        del self._templates[template.name]
        self._loop.unwatch(template.link.fileno())
        self._loop.cancel(template.pid)
        template.link.close()  # it ends by that

    def _leave_out(self, part: str) -> None:
        self._left_out.add(part)
        logger.error("%s is left out of what workers are forked from; each of its models' workers imports it", part)

    def on_child_exits(self) -> None:
        """Reaps every template that has ended."""
        for pid, status in reap():
            for template in [each for each in self._templates.values() if each.pid == pid]:
                self.on_template_exit(template, status)

    def on_template_exit(self, template: TemplateHandle, status: int) -> None:
        """Replaces a template, without what it died of while it prepared. Raises ``StartError`` if they keep dying."""
        self._drain(template)
        logger.error("%s ended (%s)", template, describe_exit(status))
        del self._templates[template.name]
        self._loop.cancel(template.pid)
        template.link.close()
        if template.state is TemplateState.PREPARING and template.part is not None:
            if template.part not in self._left_out:
                self._leave_out(template.part)
        elif "@" not in template.name:  # what users bring may break the templates of its own models, and no others
            self._deaths_s.append(time.monotonic())
            if len(self._deaths_s) > _MOST_DEATHS and self._deaths_s[-1] - self._deaths_s[0] < _PER_S:
                raise StartError(f"templates ended {len(self._deaths_s)} times within {_PER_S:g} s; the log says why.")
        if template.state is TemplateState.READY:
            self._have_launchers_announce_themselves()
            self._look_after_orphans()
        if template.name not in self._left_out and template.name not in self._templates:
            self._start_template(template.name)
        self._hand_out(template.waiting)
        self._say_ready()

    def _look_after_orphans(self) -> None:
        self._orphans.end_given_up()
        self._loop.after(self._orphans.look_s, "orphans", self._look_after_orphans)

    def _drain(self, template: TemplateHandle) -> None:
        """Reads what it has said last, and forgets its descriptor."""
        descriptor = template.link.fileno()
        while self._loop.is_watched(descriptor):
            self.on_template_message(template)


def main() -> int:
    """Exit code 1 where it cannot serve; the log says why."""
    runtime_dir = Path(sys.argv[1])
    supervisor, ready, records = map(int, sys.argv[2:5])
    settings = Settings.from_environment()
    configure_logging(settings)
    raise_oom_score(OOM_SCORE_ABOVE_FRONT_END)
    name_process("zygote")
    try:
        Root(settings, runtime_dir, supervisor, records).run(ready)
    except StartError as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
