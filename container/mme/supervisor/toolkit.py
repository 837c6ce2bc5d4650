"""Starting MMS through the SageMaker Inference Toolkit, made fit to share a machine.

``sagemaker_inference.model_server.start_model_server`` (1.10.1) writes a configuration, runs ``multi-model-server``,
looks the JVM up and waits for it to end. What it does beyond that does not suit us (MMS-17): it writes to ``/etc``,
installs packages, looks through all processes of the machine, and forgets the exit status. It looks up each of these in
its module when it comes to it, so we set

- three paths: ``MODEL_STORE``, ``MMS_CONFIG_FILE``, ``DEFAULT_MMS_LOG_FILE`` are ours, below the private folder;
- ``subprocess``: its ``Popen`` runs the script in a fork (an interpreter of its own would cost a start 0.1 s of
  processor time), with our Python for MMS, and waits until it has started the JVM;
- five steps that are done already, or by the supervisor: they do nothing;
- three modules that it imports for these steps and for a handler that we do not name: they are empty.

All this happens in a child process: neither these changes nor what the toolkit imports stays in the supervisor.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from retrying import retry

from mme.capacity.process_memory import parent_of
from mme.errors import StartError
from mme.front_end import WORKING_FOLDER
from mme.logs import json_output
from mme.settings import DEFAULT_HANDLER, Settings
from mme.supervisor import mms_config, preflight, processes
from mme.supervisor.agent import Agent
from mme.supervisor.privileges import environment_for_models

logger = logging.getLogger("mme.supervisor.toolkit")

_WAIT_S = 0.1
# Steps of the toolkit: the configuration is written by mms_config, packages are installed by packages.installation,
# the process number is in a file, and signals are the supervisor's.
_STEPS_DONE = (
    "_create_model_server_config_file",
    "_install_requirements",
    "_retry_retrieve_mms_server_process",
    "_add_sigterm_handler",
    "_add_sigchild_handler",
)
# Imported by the toolkit for the steps above (boto3, pkg_resources) and for its default handler (SciPy). Half of the
# processor time that the Python side of a start took went into these imports.
_UNUSED_MODULES = ("boto3", "pkg_resources", "sagemaker_inference.default_handler_service")
# Where the multi-model-server script writes the JVM's process number, below TMPDIR.
_PID_FILE = ".model_server.pid"


class FailedStart(OSError):
    """The front end ended before it answered. Worth another try."""


class Cancelled(Exception):
    """A stop was asked for while the front end was starting."""


class FrontEnd:
    """Starts MMS. ``runtime_dir`` is the server's private folder, in which all is written that MMS reads.

    ``statistics``: the descriptor of the memory that it writes to (model_statistics.py).
    ``cancelled`` is asked again and again whether to give up. ``on_child_exit`` is told of every other child that ends
    meanwhile: its process number and its status as of ``os.waitpid``.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        *,
        runtime_dir: Path,
        model_store: Path,
        python: Path,
        agent: Agent,
        statistics: int,
        cancelled: Callable[[], bool],
        on_child_exit: Callable[[int, int], None],
    ) -> None:
        self.settings = settings
        self.environment = dict(environment)
        self.runtime_dir = runtime_dir
        self.model_store = model_store
        self.python = python
        self.agent = agent
        self.statistics = statistics
        self.cancelled = cancelled
        self.on_child_exit = on_child_exit

    def start_with_retry(self) -> int | None:
        """Starts the front end and waits until it serves; a failed start is tried again for ``start_retry_s``.

        Returns the JVM's pid, or None if it was cancelled. Raises ``StartError`` after the last try.
        """
        attempt = retry(
            stop_max_delay=self.settings.start_retry_s * 1000,
            wait_fixed=1000,
            retry_on_exception=lambda error: isinstance(error, OSError),
        )(self._start)
        try:
            return attempt()
        except Cancelled:
            return None
        except (OSError, ValueError) as error:  # the toolkit words what it does not like as the latter
            raise StartError(f"the front end could not be started: {error}") from error

    def _start(self) -> int:
        if self.cancelled():
            raise Cancelled
        others = frozenset(process.pid for process in processes.descendants())
        try:
            pid = self._start_through_toolkit()
            self._wait_until_serving(pid)
        except OSError as error:
            logger.warning("start failed: %s", error)
            ended = processes.end_descendants(first=[], deadline_s=time.monotonic() + 10, spare=others)
            for child, status in ended:
                self.on_child_exit(child, status)
            raise
        return pid

    def _start_through_toolkit(self) -> int:
        """Returns the JVM's pid."""
        self.agent.expect_start()
        pid_file = self.runtime_dir / "tmp" / _PID_FILE
        pid_file.unlink(missing_ok=True)
        output = json_output("front_end") if self.settings.log_format == "json" else None
        try:
            processes.run_in_child(lambda: self._run_toolkit(output))
        finally:
            if output is not None:
                os.close(output)
        try:
            return int(pid_file.read_text())
        except (FileNotFoundError, ValueError):
            raise FailedStart("multi-model-server ended without starting a JVM") from None

    def _run_toolkit(self, output: int | None) -> None:
        """Runs in a child process of its own. ``output``: where the front end's goes, if not where ours does."""
        self._set_environment()
        server: Any = _import_toolkit()
        server.MODEL_STORE = str(self.model_store)
        server.MMS_CONFIG_FILE = str(self.runtime_dir / mms_config.PROPERTIES_FILE)
        server.DEFAULT_MMS_LOG_FILE = str(self.runtime_dir / mms_config.LOG_CONFIG_FILE)
        server.subprocess = SimpleNamespace(Popen=lambda command: self._run_script(command, output))
        for step in _STEPS_DONE:
            setattr(server, step, _nothing)
        server.start_model_server(handler_service=self.settings.handler or DEFAULT_HANDLER)

    def _set_environment(self) -> None:
        """The toolkit and the programs that it starts read the process's environment and its working folder."""
        os.environ.clear()
        os.environ.update(self.environment)
        for name in [name for name in os.environ if name.startswith("SAGEMAKER_") and not os.environ[name].strip()]:
            del os.environ[name]  # not set, as settings.py has it; the toolkit would take it for a number
        home = preflight.java_home(self.settings)
        if home:
            os.environ["JAVA_HOME"] = str(home)
        os.chdir(self.runtime_dir / WORKING_FOLDER)

    def _run_script(self, command: list[str], output: int | None) -> None:
        """Runs ``multi-model-server ARGUMENTS``, which gives MMS its own interpreter as the Python to run.

        The script ends when it has started the JVM, whose output goes where the script's went.
        """
        try:
            processes.run_in_child(lambda: self._become_script(command, output))
        except OSError as error:
            # No process number is written then, which is what the start fails of.
            logger.warning("multi-model-server: %s", error)

    def _become_script(self, command: list[str], output: int | None) -> None:
        variables = environment_for_models(self.settings)
        os.environ.clear()
        os.environ.update(variables)
        tempfile.tempdir = None  # it has been looked up, in another environment
        if output is not None:
            os.dup2(output, 1)
            os.dup2(output, 2)
        sys.argv = command
        sys.executable = str(self.python)
        signal.alarm(self.settings.startup_timeout_s)  # ends this process, not the JVM
        from mms import model_server

        # A descriptor for the JVM to inherit.
        start = functools.partial(subprocess.Popen, pass_fds=[self.statistics])
        model_server.subprocess = SimpleNamespace(Popen=start)
        try:
            model_server.start()
        finally:
            sys.stdout.flush()

    def _wait_until_serving(self, pid: int) -> None:
        deadline_s = time.monotonic() + self.settings.startup_timeout_s
        while time.monotonic() < deadline_s:
            if self.cancelled():
                raise Cancelled
            for ended, status in processes.reap():
                if ended == pid:
                    raise FailedStart(f"the front end ended while starting: {processes.describe_status(status)}")
                self.on_child_exit(ended, status)
            if parent_of(pid) is None:  # the script that started it was still there, and has reaped it (Popen.__del__)
                raise FailedStart("the front end ended while starting, as its last lines may explain")
            if self.agent.is_serving(_WAIT_S):
                return
        raise FailedStart(f"the front end did not serve within {self.settings.startup_timeout_s} s")


def _nothing(*_: Any) -> SimpleNamespace:
    """A step that is done. The toolkit waits for what one of them returns, the JVM's process: the supervisor does."""
    return SimpleNamespace(wait=lambda: None)


def _import_toolkit() -> ModuleType:
    """Imports the toolkit with the environment set, which it reads at import; without what it needs for no step."""
    for name in _UNUSED_MODULES:
        sys.modules[name] = ModuleType(name)
    # Where the toolkit's configuration files are: each of these paths is replaced, or belongs to a step that is done.
    sys.modules["pkg_resources"].resource_filename = lambda _package, name: name  # type: ignore[attr-defined]
    from sagemaker_inference import model_server

    # Its lines go where ours go; the handler that it adds at import would print them twice.
    model_server.logger.handlers.clear()
    return model_server
