"""How a container is run: as a process of this checkout, or with Docker."""

from __future__ import annotations

from local_endpoint.configuration import Configuration
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes.base import LaunchSpec, RunningContainer, Runtime, Usage


def make_runtime(configuration: Configuration, janitor: Janitor) -> Runtime:
    """The runtime of that name; its module is imported only then (Docker's SDK is not needed for processes)."""
    if configuration.runtime == "process":
        from local_endpoint.hosting.runtimes.process import ProcessRuntime

        return ProcessRuntime(janitor)
    if configuration.runtime == "docker":
        from local_endpoint.hosting.runtimes.docker import DockerRuntime

        return DockerRuntime(janitor)
    raise ValueError(f"there is no runtime {configuration.runtime!r}; there are process and docker")


__all__ = ["LaunchSpec", "RunningContainer", "Runtime", "Usage", "make_runtime"]
