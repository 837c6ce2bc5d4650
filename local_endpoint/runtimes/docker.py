"""Runs the image that a model names with Docker, as SageMaker does: ``serve``, the folder of models mounted."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound, NotFound

from local_endpoint.errors import StartFailure
from local_endpoint.guardian import Guardian
from local_endpoint.instance_types import memory_bytes
from local_endpoint.runtimes.base import LaunchSpec
from local_endpoint.runtimes.ports import return_port, take_port

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
CONTAINER_PORT = 8080
MULTI_MODELS_LABEL = "com.amazonaws.sagemaker.capabilities.multi-models"
BIND_TO_PORT_LABEL = "com.amazonaws.sagemaker.capabilities.accept-bind-to-port"
OWN_LABEL = "local-endpoint.instance"
# An engine that is gone is an error of requests (an OSError), which the SDK does not wrap.
ENGINE_ERRORS = (DockerException, OSError)


def missing_label(image: str, label: str) -> str:
    """In AWS's words."""
    return f"Your Ecr Image {image} does not contain required {label}=true Docker label(s)."


class DockerContainer:
    """One container. Satisfies ``Container``."""

    def __init__(self, container: Any, port: int, guardian: Guardian) -> None:
        self.host = HOST
        self.port = port
        self.base_dir = "/opt/ml"
        self._container = container
        self._guardian = guardian
        guardian.watch_container(container.name)

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
        try:
            self._container.remove(force=True)
        except NotFound:
            pass
        except ENGINE_ERRORS:
            return  # the guardian still knows of it, and tries again at the end
        self._guardian.forget_container(self._container.name)
        return_port(self.port)

    def log_tail(self, lines: int = 20) -> str:
        try:
            return str(self._container.logs(tail=lines).decode(errors="replace"))
        except ENGINE_ERRORS:
            return ""


class DockerRuntime:
    """Satisfies ``Runtime``. Raises ``StartFailure`` where no Docker engine answers."""

    def __init__(self, guardian: Guardian) -> None:
        self._guardian = guardian
        self._client: Any = None

    def _docker(self) -> Any:
        if self._client is None:
            try:
                self._client = docker.from_env(timeout=120)
                self._client.ping()
            except DockerException as error:
                self._client = None
                raise StartFailure(f"No Docker engine answers: {error}. Start one, or use --runtime process.") from None
        return self._client

    def _image(self, name: str) -> Any:
        try:
            return self._docker().images.get(name)
        except ImageNotFound:
            raise StartFailure(f"Requested image {name} not found.") from None

    def check(self, image: str, multi_model: bool) -> None:
        labels = self._image(image).labels or {}
        if multi_model and labels.get(MULTI_MODELS_LABEL) != "true":
            raise StartFailure(missing_label(image, MULTI_MODELS_LABEL))

    def start(self, spec: LaunchSpec) -> DockerContainer:
        client = self._docker()
        port = take_port(HOST)
        environment = {**spec.environment, "SAGEMAKER_MULTI_MODEL": str(spec.multi_model).lower()}
        arguments: dict[str, Any] = {}
        if self._has_bridge():
            arguments["ports"] = {f"{CONTAINER_PORT}/tcp": (HOST, port)}
        else:
            # an engine without bridge network: the container listens on our port itself, if it can be told to
            if (self._image(spec.image).labels or {}).get(BIND_TO_PORT_LABEL) != "true":
                return_port(port)
                raise StartFailure(missing_label(spec.image, BIND_TO_PORT_LABEL))
            arguments["network_mode"] = "host"
            environment["SAGEMAKER_BIND_TO_PORT"] = str(port)
        folder = "models" if spec.multi_model else "model"
        (spec.base_dir / folder).mkdir(exist_ok=True)
        memory = memory_bytes(spec.instance_type)
        try:
            container = client.containers.run(
                spec.image,
                ["serve"],
                detach=True,
                name=f"local-endpoint-{spec.name}",
                environment=environment,
                volumes={str(spec.base_dir / folder): {"bind": f"/opt/ml/{folder}", "mode": "rw"}},
                mem_limit=memory,
                memswap_limit=memory,
                labels={OWN_LABEL: spec.name},
                **arguments,
            )
        except ENGINE_ERRORS as error:
            return_port(port)
            with contextlib.suppress(*ENGINE_ERRORS):
                client.containers.get(f"local-endpoint-{spec.name}").remove(force=True)
            raise StartFailure(f"The container could not be started: {error}") from None
        return DockerContainer(container, port, self._guardian)

    def _has_bridge(self) -> bool:
        return any(
            network.attrs.get("Driver") == "bridge" for network in self._docker().networks.list(names=["bridge"])
        )
