"""Runs our own container as a process, with a base folder, a port and a temporary folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from local_endpoint.configuration import child_environment
from local_endpoint.errors import StartFailure
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes.base import LaunchSpec, Usage
from local_endpoint.hosting.runtimes.container_log import ContainerLog
from local_endpoint.hosting.runtimes.ports import SAFE_PORTS, return_ports, take_port, take_ports
from local_endpoint.hosting.runtimes.process_environment import refusal
from local_endpoint.hosting.runtimes.process_usage import usage_of

ENTRY_POINT = Path(__file__).resolve().parents[3] / "container" / "dockerd-entrypoint.py"
HOST = "127.0.0.1"


class ContainerProcess:
    """One process group. Satisfies ``RunningContainer``. It listens on the first of its ``ports``."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        ports: Sequence[int],
        base_dir: Path,
        temp_dir: Path,
        log: ContainerLog,
        janitor: Janitor,
    ) -> None:
        self.host = HOST
        self.port = ports[0]
        self._ports = ports
        self.base_dir = str(base_dir)
        self.pid = process.pid
        self._process = process
        self._temp_dir = temp_dir
        self._log = log
        self._is_stopped = False
        self._janitor = janitor
        janitor.watch_folder(temp_dir)
        janitor.watch_group(self.pid)

    def exit_reason(self) -> str | None:
        status = self._process.poll()
        if status is None:
            return None
        if status < 0:
            return f"it was ended by {signal.Signals(-status).name}"
        return f"it ended with status {status}"

    def wait(self) -> None:
        self._process.wait()

    def stop(self, timeout_s: float) -> None:
        if self._is_stopped:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        # whatever the first process left behind (it may have been killed itself)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._is_stopped = True
        self._janitor.forget_group(self.pid)
        return_ports(self._ports)
        shutil.rmtree(self._temp_dir, ignore_errors=True)
        self._janitor.forget_folder(self._temp_dir)

    def log_tail(self, lines: int = 20) -> str:
        return self._log.tail(lines)

    def usage(self) -> Usage | None:
        return usage_of(self.pid)


class ProcessRuntime:
    """Satisfies ``Runtime``. Any image name is accepted: it is always this checkout's container that runs."""

    def __init__(self, janitor: Janitor, command: list[str] | None = None) -> None:
        self._janitor = janitor
        self._command = command or [sys.executable, str(ENTRY_POINT), "serve"]

    def require(self) -> None:
        pass

    def check(self, image: str, multi_model: bool, beside_others: bool = False) -> None:
        pass

    def check_environment(self, environment: Mapping[str, str]) -> None:
        reason = refusal(environment)
        if reason is not None:
            raise StartFailure(reason)

    def start(self, spec: LaunchSpec) -> ContainerProcess:
        self.check_environment(spec.environment)  # a model may have been kept from an earlier release
        # short, because Unix sockets are made in it and their paths may have 107 characters
        temp_dir = Path(tempfile.mkdtemp(prefix="mme-"))
        ports: list[int] = []
        try:
            ports.append(take_port(HOST))
            if spec.of_containers > 1:
                ports += take_ports(SAFE_PORTS, HOST)
        except OSError:
            return_ports(ports)
            temp_dir.rmdir()
            raise
        log = ContainerLog(spec.base_dir / "container.log", output=spec.output)
        environment = {
            **child_environment(),
            **spec.environment,
            "SAGEMAKER_MULTI_MODEL": str(spec.multi_model).lower(),
            "SAGEMAKER_BASE_DIR": str(spec.base_dir),
            "SAGEMAKER_BIND_TO_PORT": str(ports[0]),
            "MME_HOST": HOST,
            "TMPDIR": str(temp_dir),
        }
        if spec.of_containers > 1:
            environment["SAGEMAKER_SAFE_PORT_RANGE"] = f"{ports[1]}-{ports[-1]}"
        try:
            process = subprocess.Popen(
                self._command,
                env=environment,
                cwd=temp_dir,
                stdin=subprocess.DEVNULL,
                stdout=log.write_end,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the environment
            log.close()
            return_ports(ports)
            shutil.rmtree(temp_dir, ignore_errors=True)
            raise StartFailure(f"The container could not be started: {error}") from None
        log.follow()
        return ContainerProcess(process, ports, spec.base_dir, temp_dir, log, self._janitor)
