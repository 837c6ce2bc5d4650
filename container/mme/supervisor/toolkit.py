"""Starting MMS through the SageMaker Inference Toolkit, made fit to share a machine.

``sagemaker_inference.model_server.start_model_server`` (1.10.1) writes the configuration, runs ``multi-model-server``,
looks the JVM up and waits for it to end. As it stands it writes to ``/etc``, looks through all processes of the
machine, and forgets the exit status. Each of these is a module attribute that is looked up at the call, so that we
set them for the time of the start:

- ``MODEL_STORE``: a folder that holds the model roots alone, instead of ``/``;
- ``subprocess``: starts MMS with our own stand-in for Python (``launcher.write_home``);
- ``MMS_CONFIG_FILE``: our private file instead of ``/etc/sagemaker-mms.properties``;
- ``_create_model_server_config_file``: nothing to do, ``mms_config.properties`` has written it;
- ``DEFAULT_MMS_LOG_FILE``: our log4j configuration;
- ``_retry_retrieve_mms_server_process``: looks among our own descendants only, and gives up when it cannot come;
- ``_install_requirements``: nothing to do, ``packages.install`` was there before;
- ``_add_sigterm_handler``, ``_add_sigchild_handler``: nothing to do, the supervisor's own keep the exit status.
"""

from __future__ import annotations

import http.client
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from retrying import retry

from mme.errors import StartError
from mme.logs import json_output
from mme.settings import Settings
from mme.supervisor import mms_config, preflight, processes
from mme.supervisor.privileges import environment_for_models

logger = logging.getLogger("mme.supervisor.toolkit")

_POLL_S = 0.02
# Stands on the command line of the multi-model-server script, which starts the JVM and ends, and on no other.
_STARTER_ARGUMENT = "--mms-config"


class FailedStart(OSError):
    """The front end ended before it answered. Worth another try."""


class Cancelled(Exception):
    """A stop was asked for while the front end was starting."""


class FrontEnd:
    """Starts MMS. ``cancelled`` is asked again and again whether to give up."""

    def __init__(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        *,
        properties_file: Path,
        log_config_file: Path,
        model_store: Path,
        python: Path,
        working_dir: Path,
        cancelled: Callable[[], bool],
    ) -> None:
        self.settings = settings
        self.environment = dict(environment)
        self.properties_file = properties_file
        self.log_config_file = log_config_file
        self.model_store = model_store
        self.python = python
        self.working_dir = working_dir
        self.cancelled = cancelled

    def start_with_retry(self) -> int | None:
        """Starts the front end and waits until it answers; a failed start is tried again for ``start_retry_s``.

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
            self._wait_until_it_answers(pid)
        except OSError as error:
            logger.warning("start failed: %s", error)
            processes.end_descendants(first=[], deadline_s=time.monotonic() + 10, spare=others)
            raise
        return pid

    def _start_through_toolkit(self) -> int:
        found: list[int] = []

        class StartedProcess:
            """What the toolkit takes for the JVM's process; it goes on as soon as it is found."""

            def wait(self) -> None:
                """The supervisor waits for the process, not the toolkit."""

        def retrieve(_startup_timeout_s: int) -> StartedProcess:
            found.append(self._find_jvm())
            return StartedProcess()

        # The toolkit and the programs that it starts read the process's environment and its working folder.
        before, folder = dict(os.environ), Path.cwd()
        os.environ.clear()
        os.environ.update(self.environment)
        for name in [name for name in os.environ if name.startswith("SAGEMAKER_") and not os.environ[name].strip()]:
            del os.environ[name]  # not set, as settings.py has it; the toolkit would take it for a number
        home = preflight.java_home(self.settings)
        if home:
            os.environ["JAVA_HOME"] = str(home)
        os.chdir(self.working_dir)
        try:
            server = _import_toolkit()
            replacements = {
                "MODEL_STORE": str(self.model_store),
                "subprocess": SimpleNamespace(Popen=self._popen),
                "MMS_CONFIG_FILE": str(self.properties_file),
                "DEFAULT_MMS_LOG_FILE": str(self.log_config_file),
                "_create_model_server_config_file": lambda *_: None,
                "_install_requirements": lambda: None,
                "_retry_retrieve_mms_server_process": retrieve,
                "_add_sigterm_handler": lambda *_: None,
                "_add_sigchild_handler": lambda *_: None,
            }
            with _attributes(server, replacements), _output_as_json(self.settings.log_format == "json"):
                server.start_model_server(handler_service=self.settings.handler or mms_config.DEFAULT_HANDLER)
        finally:
            os.environ.clear()
            os.environ.update(before)
            os.chdir(folder)
        return found[0]

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Runs ``multi-model-server ARGUMENTS``, which gives MMS its own interpreter as the Python to run."""
        start = "import sys; sys.executable = sys.argv.pop(1); from mms.model_server import start; start()"
        return subprocess.Popen(
            [sys.executable, "-P", "-c", start, str(self.python), *command[1:]],
            env=environment_for_models(self.settings),
        )

    def _find_jvm(self) -> int:
        """Waits until the JVM shows up below us. Raises ``FailedStart`` if the script that starts it ends without."""
        from sagemaker_inference.model_server import MMS_NAMESPACE

        deadline_s = time.monotonic() + self.settings.startup_timeout_s
        while time.monotonic() < deadline_s:
            if self.cancelled():
                raise Cancelled
            # In this order: the script starts the JVM before it ends, so a JVM that is not there after the script has
            # ended will not come. The other way round, both could happen between the two looks.
            starting = processes.descendant_with_argument(_STARTER_ARGUMENT) is not None
            pid = processes.descendant_with_argument(MMS_NAMESPACE)
            if pid is not None:
                return pid
            for _ in processes.reap():
                pass
            if not starting:
                raise FailedStart("multi-model-server ended without starting a JVM")
            time.sleep(_POLL_S)
        raise FailedStart(f"no JVM within {self.settings.startup_timeout_s} s")

    def _wait_until_it_answers(self, pid: int) -> None:
        deadline_s = time.monotonic() + self.settings.startup_timeout_s
        while time.monotonic() < deadline_s:
            if self.cancelled():
                raise Cancelled
            for ended, status in processes.reap():
                if ended == pid:
                    raise FailedStart(f"the front end ended while starting: {processes.describe_status(status)}")
            if _answers(self.settings):
                return
            time.sleep(_POLL_S)
        raise FailedStart(f"the front end did not answer within {self.settings.startup_timeout_s} s")


def has_model(settings: Settings) -> bool:
    """Whether the one model of single-model mode is registered: MMS forgets it when it does not load."""
    return _status_of("OPTIONS", "/invocations", settings) != 400


def _answers(settings: Settings) -> bool:
    return _status_of("GET", "/ping", settings) == 200


def _status_of(method: str, path: str, settings: Settings) -> int | None:
    """The status of an answer; None where there is none."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    connection = http.client.HTTPConnection(host, settings.port, timeout=2)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _import_toolkit() -> ModuleType:
    """Imports the toolkit with the environment set, which it reads at import."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        from sagemaker_inference import model_server
    # Its lines go where ours go; the handler that it adds at import would print them twice.
    model_server.logger.handlers.clear()
    return model_server


@contextmanager
def _output_as_json(wanted: bool) -> Iterator[None]:
    """What is started meanwhile writes to a pipe whose lines a thread relays as JSON objects."""
    if not wanted:
        yield
        return
    write = json_output("front_end")
    sys.stdout.flush()
    ours, ours_error = os.dup(1), os.dup(2)
    os.dup2(write, 1)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield
    finally:
        os.dup2(ours, 1)
        os.dup2(ours_error, 2)
        os.close(ours)
        os.close(ours_error)


@contextmanager
def _attributes(module: ModuleType, replacements: Mapping[str, Any]) -> Iterator[None]:
    originals = {name: getattr(module, name) for name in replacements}
    for name, value in replacements.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in originals.items():
            setattr(module, name, value)
