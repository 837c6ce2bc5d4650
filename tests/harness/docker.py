"""The image under test, and servers in containers of it. Needs a Docker engine; without one, tests skip with a reason.

Containers use the host's network: some engines have no other, and it is one thing less between test and server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import docker as sdk
import pytest
import requests
from docker.errors import DockerException, NotFound
from docker.models.containers import Container

from tests.harness.container_client import ContainerClient
from tests.harness.ports import free_port
from tests.harness.server import JVM_ARGUMENTS
from tests.harness.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE_STARTER = REPOSITORY.parent / "shared" / "tools" / "docker-engine"
BUILD_AND_PUSH = REPOSITORY / "build_and_push.sh"
BUILD_OPTIONS = "--network host"
BASE_IMAGE = "debian:trixie-slim"  # the Dockerfile's default
# The tag stays after the tests: with it the layers stay, and the next build takes seconds.
TEST_IMAGE = "demo-sagemaker-multimodel-test"
# A first build fetches some 500 MB.
BUILD_TIMEOUT_S = 1200.0
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
MODELS_DIR = "/opt/ml/models"

# Run inside a container: what SageMaker would see with `ps`. The image has no ps, but psutil. What Docker itself starts
# in it (a health check, as root until it becomes the image's user) has no parent there.
_LIST_PROCESSES = """
import json, psutil
print(json.dumps([
    {"pid": process.pid, "uids": list(process.uids()), "gids": list(process.gids()), "command": process.cmdline()}
    for process in psutil.process_iter()
    if (process.pid == 1 or process.ppid() != 0) and process.status() != psutil.STATUS_ZOMBIE
]))
"""


def docker(*arguments: str, timeout_s: float = 120.0, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the docker program; fails the test with what it said if ``check`` and it fails."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
    )
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(arguments)} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


@cache
def reason_without_engine() -> str | None:
    """Why there is no Docker engine, or None where one answers; the starter beside the checkout is tried first."""
    if _engine_answers():
        return None
    if not (ENGINE_STARTER.is_file() and os.geteuid() == 0):
        return "needs a Docker engine: `docker info` does not answer"
    started = subprocess.run(
        [str(ENGINE_STARTER)], capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
    )
    if started.returncode != 0 or not _engine_answers():
        return f"needs a Docker engine, and {ENGINE_STARTER.name} could not start one: {started.stderr.strip()[-300:]}"
    return None


def _engine_answers() -> bool:
    try:
        return docker("info", timeout_s=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True)
class Image:
    """A built image: ``id`` is fixed, whatever the tag points to later."""

    id: str
    tag: str

    def inspect(self) -> dict[str, Any]:
        """What ``docker image inspect`` says."""
        return json.loads(docker("image", "inspect", self.id).stdout)[0]

    def run(
        self, *command: str, options: Sequence[str] = (), timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """``docker run IMAGE command``, to its end."""
        return docker("run", "--rm", "--network", "host", *options, self.id, *command, timeout_s=timeout_s, check=False)


@cache
def engine() -> sdk.DockerClient:
    """The engine's own API: asked many times, where ``docker`` would be a program each time."""
    return sdk.from_env()


def build_image() -> Image:
    """Builds the image as a user does. Raises AssertionError with the end of the build's output if that fails."""
    built = subprocess.run(
        [str(BUILD_AND_PUSH), "--build-only", TEST_IMAGE],
        env={**os.environ, "DOCKER_BUILD_OPTIONS": BUILD_OPTIONS},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )
    assert built.returncode == 0, f"build_and_push.sh exited {built.returncode}:\n{built.stderr[-4000:]}"
    tag = built.stdout.strip()
    return Image(docker("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip(), tag)


@pytest.fixture(scope="session")
def image() -> Image:
    """The image of this checkout, built once per run."""
    reason = reason_without_engine()
    if reason:
        pytest.skip(reason)
    return build_image()


class DockerServer(ContainerClient):
    """A container of the image that serves, with the interface of ``ServerProcess``.

    ``options`` go to ``docker run``; ``settings`` are its environment. The models' folder is a folder of this machine,
    mounted where SageMaker has it. In ``with`` it is started; after it nothing is left.
    """

    def __init__(
        self,
        image: Image,
        *,
        options: Sequence[str] = (),
        network: str = "host",
        single_model_dir: Path | None = None,
        port: int | None = None,
        **settings: str,
    ) -> None:
        self.image = image
        self.options = ["--network", network, *options]
        self.folder = Path(tempfile.mkdtemp(prefix="mt-"))
        self.models_dir = self.folder / "models"
        self.models_dir.mkdir()
        self.port = port or free_port()
        self.settings = {
            "SAGEMAKER_MULTI_MODEL": "false" if single_model_dir is not None else "true",
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "MME_HOST": "127.0.0.1",
            "SAGEMAKER_MODEL_SERVER_VMARGS": JVM_ARGUMENTS,
            "MME_PRELOAD": os.environ.get("MME_PRELOAD", "mxnet"),  # as for ServerProcess
            **settings,
        }
        if single_model_dir is not None:
            self.options += ["--volume", f"{single_model_dir}:/opt/ml/model:ro"]
        self.name = f"mme-test-{uuid.uuid4().hex[:12]}"
        self.start_s = 0.0  # from `docker run` to an answered ping
        self._log = ""
        self._end_was_awaited = False
        super().__init__(f"http://127.0.0.1:{self.port}")

    # ---- life ----

    def __enter__(self) -> DockerServer:
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.is_running():
                exit_code = self.stop()
                assert error is not None or exit_code == 0, f"exit code {exit_code} on SIGTERM\n{self.log_tail()}"
            assert error is not None or self._end_was_awaited, f"it ended by itself: {self.state()}\n{self.log_tail()}"
        finally:
            if error is not None:
                print(self.log_tail())
            self.discard()

    def start(self) -> DockerServer:
        """Starts the container and waits until /ping answers; fails with the log's tail if it ends before."""
        started_s = time.monotonic()
        self.launch()
        wait_until(self._answers, lambda: f"the server answers\n{self.log_tail()}", START_TIMEOUT_S)
        self.start_s = time.monotonic() - started_s
        return self

    def start_again(self) -> None:
        """``docker start`` of a container that has ended; waits until /ping answers."""
        docker("start", self.name)
        self._end_was_awaited = False
        wait_until(self._answers, lambda: f"the server answers again\n{self.log_tail()}", START_TIMEOUT_S)

    def launch(self) -> None:
        """Starts the container as SageMaker does (``docker run IMAGE serve``) and returns at once."""
        environment = [part for name, value in self.settings.items() for part in ("--env", f"{name}={value}")]
        docker(
            *("run", "--detach", "--name", self.name),
            *("--volume", f"{self.models_dir}:{MODELS_DIR}:ro"),
            *environment,
            *self.options,
            *(self.image.id, "serve"),
        )

    def _answers(self) -> bool:
        try:
            return requests.get(self.url + "/ping", timeout=2).status_code == 200
        except requests.RequestException:
            if not self.is_running():
                raise AssertionError(f"the container ended: {self.state()}\n{self.log_tail()}") from None
            return False

    def stop(self) -> int:
        """``docker stop`` with SageMaker's 30 s until SIGKILL; returns the exit code (137 where it came to that)."""
        self.container().stop(timeout=int(STOP_TIMEOUT_S))
        return self.wait()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code, once the container has ended."""
        self._end_was_awaited = True
        wait_until(lambda: not self.is_running(), lambda: f"the container ends\n{self.log_tail()}", timeout_s, POLL_S)
        return int(self.state()["ExitCode"])

    def discard(self) -> None:
        """Removes the container, running or not, and the folder; keeps the log."""
        self._log = self.log()
        with suppress(DockerException):  # it may never have been made
            self.container().remove(force=True, v=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- looking at it ----

    def container(self) -> Container:
        """The container as Docker has it now. Raises ``NotFound``."""
        return engine().containers.get(self.name)

    def state(self) -> dict[str, Any]:
        """The container's state as Docker has it; empty where there is no such container."""
        try:
            return self.container().attrs["State"]
        except NotFound:
            return {}

    def is_running(self) -> bool:
        """Whether the container runs."""
        return bool(self.state().get("Running"))

    def execute(self, *command: str) -> str:
        """Runs a command in the container, as root, and returns its output; fails the test if it fails."""
        ran: Any = self.container().exec_run(list(command), user="root", demux=True)
        exit_code, (output, errors) = ran
        assert exit_code == 0, f"{command} exited {exit_code}: {(errors or b'').decode(errors='replace')}"
        return (output or b"").decode(errors="replace")

    def signal(self, process: dict[str, Any], signal_name: str) -> None:
        """Sends a signal to one process in the container. The image has no ``kill`` but the shell's."""
        self.execute("bash", "-c", f"kill -{signal_name} {process['pid']}")

    def processes(self) -> list[dict[str, Any]]:
        """Every process in the container: ``pid``, ``uids``, ``gids`` (real, effective, saved), ``command``."""
        return json.loads(self.execute("python", "-c", _LIST_PROCESSES))

    def process_with(self, argument: str) -> dict[str, Any]:
        """The one process with ``argument`` on its command line."""
        found = [process for process in self.processes() if argument in process["command"]]
        assert len(found) == 1, f"{len(found)} processes with {argument}"
        return found[0]

    def front_end(self) -> dict[str, Any]:
        """The JVM."""
        return self.process_with("com.amazonaws.ml.mms.ModelServer")

    def model_url(self, name: str) -> str:
        """Where model ``name`` lies, as the container sees it."""
        return f"{MODELS_DIR}/{name}/model"

    def model_dir(self, name: str) -> Path:
        """A new folder for the artifacts of model ``name``."""
        folder = self.models_dir / name / "model"
        folder.mkdir(parents=True)
        return folder

    def log(self) -> str:
        """All that the container has written."""
        try:
            return self.container().logs().decode(errors="replace")
        except DockerException:
            return self._log

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of the log, for the message of a failure."""
        return "\n".join(["---- container log ----", *self.log().splitlines()[-lines:]])
