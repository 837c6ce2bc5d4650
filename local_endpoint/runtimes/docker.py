"""Runs the image that the model names, with Docker."""

from local_endpoint.runtimes.base import Runtime


def DockerRuntime() -> Runtime:
    raise NotImplementedError
