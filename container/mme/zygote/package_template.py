"""The template of a package set: it installs what its models ask for, and imports what the first of them imported.

    NEW ──► INSTALLING ──► READY          a set that is on the disk already goes from NEW to READY
     ▲          └────────► FAILED ──► INSTALLING   with the next model that asks for it

It listens for its models at once, and takes their connections when it is READY: MMS waits for the answer to a load as
long as for any other. An installation that takes longer goes on, and the load is refused with the reason.

Packages of users are not to be trusted to import, to start no thread, or to come to an end. So all that is imported is
first imported in a child; what fails there is left out here, and each worker imports it by itself.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from mme.errors import Refusal
from mme.imports import forget_shadowed_modules
from mme.packages.sets import PackageSet, failure, packages_dir
from mme.zygote.model_slot import ModelSlot
from mme.zygote.processes import describe_exit, kill, kill_group
from mme.zygote.template import Template, split_name
from mme.zygote.template_preparation import PartFailed, import_modules, prepare

logger = logging.getLogger("mme.zygote")

# A refusal has to arrive before MMS gives up on the answer.
_BEFORE_TIMEOUT_S = 5
_TRIAL_S = 60.0
_POLL_S = 0.01
# How often, and for how long after the last fork, it looks whether a model has told what it imported.
_LOOK_S = 0.2
_LOOKS = 150
_REASON_BYTES = 4096
_REASON_DESCRIPTOR = 3  # of the installer
_CONTAINER = Path(__file__).resolve().parents[2]


class PackagesState(Enum):
    """How far the set is."""

    NEW = auto()
    INSTALLING = auto()
    READY = auto()
    FAILED = auto()


class PackageTemplate(Template):
    """See the module."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._framework, key = split_name(self._name)
        self._dir = packages_dir(self._settings, self._runtime_dir)
        self._packages = PackageSet(self._dir, key)
        self._state = PackagesState.NEW
        self._held: list[ModelSlot] = []  # with a connection that is not taken yet
        self._installer = -1  # process
        self._reason = b""  # as far as the installer has given one
        self._has_imported = False  # what the first model did
        self._looks = 0

    # ---- models ----

    def on_launcher(self, pid: int) -> None:
        super().on_launcher(pid)
        model = self._models.get(pid)
        if model is None or self._state in (PackagesState.INSTALLING, PackagesState.READY):
            return
        if self._packages.use():
            self._get_ready()
        else:
            self._start_installer(model.launch.working_dir)

    def on_connection(self, model: ModelSlot) -> None:
        if self._state is PackagesState.READY:
            super().on_connection(model)
            if not self._has_imported:
                self._looks = _LOOKS
                self._loop.after(_LOOK_S, "modules", self._look_for_modules)
            return
        model.hold()
        self._held.append(model)
        wait_s = max(1, self._settings.worker_response_timeout_s - _BEFORE_TIMEOUT_S)
        refusal = Refusal(
            503,
            f"The packages that model {model.name!r} asks for are still being installed. Load it again in a moment. "
            "(SAGEMAKER_MODEL_SERVER_TIMEOUT says how long a load waits for them.)",
        )
        self._loop.after(wait_s, (model.launch.pid, "packages"), lambda: self._refuse_held(model, refusal))

    def _refuse_held(self, model: ModelSlot, refusal: Refusal) -> None:
        if self._let_go(model):
            self._refuse(model, refusal)

    def _let_go(self, model: ModelSlot) -> bool:
        """Forgets that the model waits. Returns whether it did."""
        if model not in self._held:
            return False
        self._held.remove(model)
        self._loop.cancel((model.launch.pid, "packages"))
        return True

    def on_model_gone(self, model: ModelSlot) -> None:
        self._let_go(model)
        super().on_model_gone(model)

    # ---- installation ----

    def _start_installer(self, model_dir: str) -> None:
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(theirs, True)
        program = [sys.executable, "-m", "mme.packages.install_set"]
        arguments = [str(self._dir), self._packages.key, model_dir, str(_REASON_DESCRIPTOR)]
        try:
            self._installer = os.posix_spawn(
                sys.executable,
                [*program, *arguments],
                {**os.environ, "PYTHONPATH": str(_CONTAINER)},
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs, _REASON_DESCRIPTOR)],
                setpgroup=0,
                setsigmask=(),
            )
        except OSError as error:
            os.close(ours)
            self._fail(507, f"no process can be started: {error.strerror}")
            return
        finally:
            os.close(theirs)
        self._state, self._reason = PackagesState.INSTALLING, b""
        self._loop.watch(ours, lambda: self._on_reason(ours))
        timeout_s = self._settings.packages_timeout_s
        self._loop.after(timeout_s, "installer", lambda: self._on_timeout(timeout_s))

    def _on_reason(self, descriptor: int) -> None:
        received = os.read(descriptor, _REASON_BYTES)
        self._reason = (self._reason + received)[:_REASON_BYTES]
        if not received:
            self._loop.unwatch(descriptor)
            os.close(descriptor)

    def _on_timeout(self, timeout_s: int) -> None:
        self._reason = b"it takes longer than %d s (MME_PACKAGES_TIMEOUT_S)" % timeout_s
        kill_group(self._installer)

    def on_worker_exit(self, pid: int, status: int) -> None:
        if pid != self._installer:
            super().on_worker_exit(pid, status)
            return
        self._installer = -1
        self._loop.cancel("installer")
        kill_group(pid)  # what a package's own set-up has started
        if status == 0 and self._packages.use():
            self._get_ready()
            return
        # The reason may still be in its pipe, which is read in this round of the loop.
        self._loop.after(0, "failed", lambda: self._fail(500, self._reason.decode(errors="replace").strip(), status))

    def _fail(self, refusal_status: int, reason: str, exit_status: int = 0) -> None:
        self._state = PackagesState.FAILED
        reason = reason or f"the installation ended ({describe_exit(exit_status)})"
        logger.error("the packages of set %s are not installed: %s", self._packages.key, reason)
        for model in list(self._held):
            self._refuse_held(model, Refusal(refusal_status, failure(reason)))

    def on_supervisor_end(self) -> None:
        if self._installer >= 0:
            kill_group(self._installer)
        super().on_supervisor_end()

    # ---- preparation ----

    def _get_ready(self) -> None:
        """Prepares, then takes the connections that have waited."""
        try:
            self._prepare()
        except Exception as error:
            logger.exception("set %s cannot be prepared", self._packages.key)
            self._fail(500, f"they cannot be imported before workers are forked ({type(error).__name__})")
            return
        self._state = PackagesState.READY
        for model in list(self._held):
            self._let_go(model)
            model.resume_listening()

    def _prepare(self) -> None:
        """Imports all that a worker needs."""
        self._packages.enter()
        importlib.invalidate_caches()  # its files have come while we run
        forget_shadowed_modules([str(self._packages.site)])
        modules = self._packages.modules()
        left_out = self._find_what_fails(modules)
        if any(part in left_out for part in modules):
            modules = ()
        inherited = prepare(self._framework, left_out, self._settings, self._runtime_dir, lambda _: None)
        self._inherited = replace(inherited, open_files_limit=self._open_files_limit, packages=self._packages)
        self._has_imported = bool(modules) or self._packages.has_modules()
        if modules:
            import_modules(modules)

    def _find_what_fails(self, modules: tuple[str, ...]) -> frozenset[str]:
        """Prepares in children until one comes to its end. Returns the parts that were in the way."""
        left_out: frozenset[str] = frozenset()
        handler = self._settings.handler or ""
        for part in (None, self._framework, handler):
            if part:
                left_out |= {part}
            failed = self._try(lambda: self._prepare_in_child(left_out))  # noqa: B023 (called at once)
            if failed is None:
                break
            logger.error("set %s: %s", self._packages.key, failed)
        if modules and (failed := self._try(lambda: import_modules(modules))):
            logger.warning("the modules of set %s are not imported beforehand: %s", self._packages.key, failed)
            left_out |= set(modules)
        return left_out

    def _prepare_in_child(self, left_out: frozenset[str]) -> None:
        prepare(self._framework, left_out, self._settings, self._runtime_dir, lambda _: None)

    def _try(self, step: Callable[[], None]) -> str | None:
        """Runs ``step`` in a child. Returns what is wrong with it; None where it can be run here."""
        signals = {signal.SIGCHLD, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    signal.set_wakeup_fd(-1)
                    os.setpgid(0, 0)
                    step()
                    code = 0
                except PartFailed as error:
                    logger.error("%s", error)
                except BaseException:
                    logger.exception("an import failed")
                finally:
                    os._exit(code)
            return self._wait_for(pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    @staticmethod
    def _wait_for(pid: int) -> str | None:
        deadline_s = time.monotonic() + _TRIAL_S
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                kill_group(pid)
                return None if status == 0 else f"what is imported before workers are forked: {describe_exit(status)}"
            if time.monotonic() > deadline_s:
                kill(pid)
                kill_group(pid)
                os.waitpid(pid, 0)
                return f"an import takes longer than {_TRIAL_S:g} s"
            time.sleep(_POLL_S)

    def _look_for_modules(self) -> None:
        """Imports what the first model of the set has imported, once that is known."""
        if not self._packages.has_modules():
            self._looks -= 1
            if self._looks > 0:
                self._loop.after(_LOOK_S, "modules", self._look_for_modules)
            return
        self._has_imported = True
        modules = self._packages.modules()
        failed = self._try(lambda: import_modules(modules))
        if failed is None:
            import_modules(modules)
            logger.info("set %s has imported beforehand what its first model did", self._packages.key)
        else:
            logger.warning("the modules of set %s are not imported beforehand: %s", self._packages.key, failed)
