"""What is to run: a production variant, and the containers of its model. Made from what the API has of both."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

from local_endpoint.configuration import GIB, Limits
from local_endpoint.storage.location import S3Location


class ExecutionMode(enum.Enum):
    """How the containers of an instance are called. Values are the API's."""

    SERIAL = "Serial"
    """One after the other: the answer of one is the request of the next. A single container is a chain of one."""
    DIRECT = "Direct"
    """The one whose hostname the request names."""


@dataclass(frozen=True)
class ContainerDefinition:
    """One container of a model, as CreateModel got it."""

    image: str
    hostname: str | None
    """None is a PrimaryContainer, whose hostname AWS ignores. Every member of Containers has one."""
    environment: dict[str, str]
    multi_model: bool
    keep_models: bool
    """False is ``ModelCacheSetting=Disabled``."""
    location: S3Location | None
    """The prefix of models, or the archive of the only one; None is a container that brings its model."""

    @property
    def display_name(self) -> str:
        """What error texts call the container."""
        return self.hostname or "primary"

    @classmethod
    def from_api(cls, container: dict[str, Any]) -> ContainerDefinition:
        """From a ContainerDefinition of the API."""
        url = container.get("ModelDataUrl")
        setting = container.get("MultiModelConfig", {}).get("ModelCacheSetting", "Enabled")
        return cls(
            image=container.get("Image", ""),
            hostname=container.get("ContainerHostname"),
            environment=dict(container.get("Environment", {})),
            multi_model=container.get("Mode", "SingleModel") == "MultiModel",
            keep_models=setting != "Disabled",
            location=S3Location.parse(url) if url else None,
        )


@dataclass(frozen=True)
class VariantDefinition:
    """One production variant of an endpoint: what each of its instances runs, and the variant's own numbers.

    The containers of an instance share its memory and its disk in equal parts.
    """

    region: str
    endpoint: str
    name: str
    instance_type: str
    startup_timeout_s: float
    download_timeout_s: float
    """For the only model of a single-model container."""
    disk_bytes: int
    """Of one instance."""
    containers: tuple[ContainerDefinition, ...]
    """In the model's order. At least one."""
    mode: ExecutionMode = ExecutionMode.SERIAL

    @property
    def container_disk_bytes(self) -> int:
        """What one container may keep of artifacts."""
        return self.disk_bytes // len(self.containers)

    def index_of(self, hostname: str) -> int | None:
        """Of the container of that name; None if there is none."""
        return next((index for index, each in enumerate(self.containers) if each.hostname == hostname), None)

    @classmethod
    def from_api(
        cls,
        region: str,
        endpoint: str,
        variant: dict[str, Any],
        model: dict[str, Any],
        limits: Limits,
    ) -> VariantDefinition:
        """From a ProductionVariant and the description of its model."""
        return cls(
            region=region,
            endpoint=endpoint,
            name=variant["VariantName"],
            instance_type=variant.get("InstanceType", "ml.m5.xlarge"),
            startup_timeout_s=float(
                variant.get("ContainerStartupHealthCheckTimeoutInSeconds", limits.startup_timeout_s)
            ),
            download_timeout_s=float(variant.get("ModelDataDownloadTimeoutInSeconds", limits.load_timeout_s)),
            disk_bytes=variant["VolumeSizeInGB"] * GIB if "VolumeSizeInGB" in variant else limits.disk_bytes,
            containers=_containers(model),
            mode=ExecutionMode(model.get("InferenceExecutionConfig", {}).get("Mode", "Serial")),
        )


def _containers(model: dict[str, Any]) -> tuple[ContainerDefinition, ...]:
    """Members of Containers without a hostname are named by their position, as AWS does."""
    if model.get("PrimaryContainer"):
        return (replace(ContainerDefinition.from_api(model["PrimaryContainer"]), hostname=None),)
    given = [ContainerDefinition.from_api(each) for each in model["Containers"]]
    return tuple(replace(each, hostname=each.hostname or f"container-{number}") for number, each in enumerate(given, 1))
