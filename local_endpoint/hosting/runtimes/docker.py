"""Runs the image that a model names with Docker, as SageMaker does: ``serve``, the folder of models mounted."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.types import LogConfig

from local_endpoint.errors import StartFailure
from local_endpoint.hosting.instance_types import memory_bytes
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes.base import LaunchSpec, Usage
from local_endpoint.hosting.runtimes.ports import SAFE_PORTS, return_ports, take_port, take_ports

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
# Inside a container with a network of its own: the port of the first, and the safe range of the first.
CONTAINER_PORT = 8080
FIRST_SAFE_PORT = 9000
MULTI_MODELS_LABEL = "com.amazonaws.sagemaker.capabilities.multi-models"
BIND_TO_PORT_LABEL = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
OWN_LABEL = "local-endpoint.instance"
# An engine that is gone is an error of requests (an OSError), which the SDK does not wrap.
ENGINE_ERRORS = (DockerException, OSError)
# An engine that restarts is back soon: so long a removal that failed is put off each time.
REMOVAL_PAUSES_S = (0.0, 1.0, 2.0)
# The end of the log of a container that has ended comes within moments.
LOG_END_S = 5.0
# The engine keeps so much of a container's log, as a process's container.log: else it grows until the disk is full.
LOG_OPTIONS = {"max-size": "16m", "max-file": "2"}


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns what the engine refuses, or that it is gone, into a ``StartFailure``."""
    try:
        yield
    except ENGINE_ERRORS as error:
        raise StartFailure(f"{doing}: {getattr(error, 'explanation', None) or error}") from None


def missing_label(image: str, label: str) -> str:
    """In AWS's words."""
    return f"Your Ecr Image {image} does not contain required {label}=true Docker label(s)."


class DockerContainer:
    """One container. Satisfies ``RunningContainer``. It is reached at the first of its ``ports``."""

    def __init__(self, container: Any, ports: Sequence[int], janitor: Janitor, output: Callable[[bytes], None]) -> None:
        self.host = HOST
        self.port = ports[0]
        self._ports = ports
        self.base_dir = "/opt/ml"
        self._container = container
        self._janitor = janitor
        janitor.watch_container(container.name)
        self._output = output
        self._log_thread = threading.Thread(target=self._follow_log, name=f"log-{container.name}", daemon=True)
        self._log_thread.start()

    def _follow_log(self) -> None:
        with contextlib.suppress(*ENGINE_ERRORS):
            for piece in self._container.logs(stream=True, follow=True):
                self._output(piece)

    def exit_reason(self) -> str | None:
        try:
            self._container.reload()
        except NotFound:
            return "it was removed"
        except ENGINE_ERRORS as error:
            logger.warning("Docker does not say how container %s is: %s", self._container.name, error)
            return None
        state = self._container.attrs["State"]
        if state["Running"]:
            return None
        if state.get("OOMKilled"):
            return "it was killed for using more memory than the instance type has"
        return f"it ended with status {state['ExitCode']}"

    def wait(self) -> None:
        while True:
            try:
                self._container.wait(timeout=3600)
                return
            except NotFound:
                return
            except ENGINE_ERRORS:  # the wait itself ran out of time
                if self.exit_reason() is not None:
                    return

    def stop(self, timeout_s: float) -> None:
        with contextlib.suppress(*ENGINE_ERRORS):
            self._container.stop(timeout=int(timeout_s))
        self._log_thread.join(LOG_END_S)
        for pause_s in REMOVAL_PAUSES_S:
            time.sleep(pause_s)
            try:
                self._container.remove(force=True)
            except NotFound:
                pass
            except ENGINE_ERRORS as error:
                logger.warning("container %s could not be removed: %s", self._container.name, error)
                continue
            self._janitor.forget_container(self._container.name)
            return_ports(self._ports)
            return
        # the ports stay taken, as it may be; the janitor knows of the container, and tries again at the end

    def log_tail(self, lines: int = 20) -> str:
        try:
            return str(self._container.logs(tail=lines).decode(errors="replace"))
        except ENGINE_ERRORS:
            return ""

    def usage(self) -> Usage | None:
        try:
            found = self._container.stats(stream=False, one_shot=True)
            cpu_s = found["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
            memory = found["memory_stats"]
            # the page cache can be had back: `docker stats` does not count it either
            cache = memory.get("stats", {}).get("inactive_file", 0)
            return Usage(cpu_s, memory["usage"] - cache)
        except (*ENGINE_ERRORS, LookupError, TypeError):  # one that has ended has no memory
            return None


class DockerRuntime:
    """Satisfies ``Runtime``. Images are never pulled."""

    def __init__(self, janitor: Janitor) -> None:
        self._janitor = janitor
        self._client: Any = None

    def require(self) -> None:
        self._docker()

    def _docker(self) -> Any:
        if self._client is None:
            try:
                client = docker.from_env(timeout=120)
                client.ping()
            except ENGINE_ERRORS as error:
                raise StartFailure(f"No Docker engine answers: {error}. Start one, or use --runtime process.") from None
            self._client = client
        return self._client

    def _image(self, name: str) -> Any:
        with explained(f"Requested image {name} cannot be used"):
            try:
                return self._docker().images.get(name)
            except ImageNotFound:
                raise StartFailure(f"Requested image {name} not found.") from None

    def check(self, image: str, multi_model: bool, beside_others: bool = False) -> None:
        labels = self._image(image).labels or {}
        for is_needed, label in ((multi_model, MULTI_MODELS_LABEL), (beside_others, BIND_TO_PORT_LABEL)):
            if is_needed and labels.get(label) != "true":
                raise StartFailure(missing_label(image, label))

    def check_environment(self, environment: Mapping[str, str]) -> None:
        pass  # they act inside the container only

    def start(self, spec: LaunchSpec) -> DockerContainer:
        has_bridge, is_one_of_several = self._has_bridge(), spec.of_containers > 1
        ports = [take_port(HOST)]
        try:
            if is_one_of_several and not has_bridge:
                ports += take_ports(SAFE_PORTS, HOST)
            return DockerContainer(self._run(spec, ports, has_bridge), ports, self._janitor, spec.output)
        except BaseException:
            return_ports(ports)
            raise

    def _network(
        self, spec: LaunchSpec, ports: Sequence[int], has_bridge: bool
    ) -> tuple[dict[str, Any], tuple[int, Sequence[int]]]:
        """What ``docker run`` is told of the network, and the ports of the container: to listen on, and safe ones."""
        if has_bridge:
            inside = CONTAINER_PORT + spec.number - 1
            first_safe = FIRST_SAFE_PORT + SAFE_PORTS * (spec.number - 1)
            return {"ports": {f"{inside}/tcp": (HOST, ports[0])}}, (inside, range(first_safe, first_safe + SAFE_PORTS))
        # an engine without bridge network: the container listens on our port itself, if it can be told to
        if (self._image(spec.image).labels or {}).get(BIND_TO_PORT_LABEL) != "true":
            raise StartFailure(missing_label(spec.image, BIND_TO_PORT_LABEL))
        return {"network_mode": "host"}, (ports[0], ports[1:])

    def _run(self, spec: LaunchSpec, ports: Sequence[int], has_bridge: bool) -> Any:
        """The engine's container, detached. Raises ``StartFailure``, and leaves nothing behind then."""
        client = self._docker()
        environment = {**spec.environment, "SAGEMAKER_MULTI_MODEL": str(spec.multi_model).lower()}
        arguments, (own_port, safe_ports) = self._network(spec, ports, has_bridge)
        if spec.of_containers > 1:
            environment["SAGEMAKER_SAFE_PORT_RANGE"] = f"{safe_ports[0]}-{safe_ports[-1]}"
            arguments["hostname"] = spec.hostname
        if spec.of_containers > 1 or not has_bridge:
            environment["SAGEMAKER_BIND_TO_PORT"] = str(own_port)
        folder = "models" if spec.multi_model else "model"
        (spec.base_dir / folder).mkdir(exist_ok=True)
        memory = memory_bytes(spec.instance_type) // spec.of_containers
        name = f"local-endpoint-{spec.name}"
        try:
            with explained("The container could not be started"):
                return client.containers.run(
                    spec.image,
                    ["serve"],
                    detach=True,
                    name=name,
                    environment=environment,
                    volumes={str(spec.base_dir / folder): {"bind": f"/opt/ml/{folder}", "mode": "rw"}},
                    mem_limit=memory,
                    memswap_limit=memory,
                    labels={OWN_LABEL: spec.name},
                    log_config=LogConfig(type=LogConfig.types.JSON, config=LOG_OPTIONS),
                    **arguments,
                )
        except StartFailure:
            with contextlib.suppress(*ENGINE_ERRORS):
                client.containers.get(name).remove(force=True)
            raise

    def _has_bridge(self) -> bool:
        with explained("The engine's networks cannot be listed"):
            networks = self._docker().networks.list(names=["bridge"])
        return any(network.attrs.get("Driver") == "bridge" for network in networks)
