"""One server for all tests of this folder, and one in the image; each test uses model names of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import models
from tests.harness.docker import DockerServer
from tests.harness.server import ServerProcess

HERE, IN_IMAGE = "here", "docker"
DOCKER_MARKS = [pytest.mark.docker, pytest.mark.timeout(1300)]


@pytest.fixture(scope="package", params=[HERE, pytest.param(IN_IMAGE, marks=DOCKER_MARKS)])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess | DockerServer]:
    """A running server in multi-model mode: on this machine, and in the image."""
    if request.param == IN_IMAGE:
        with DockerServer(request.getfixturevalue("image")) as container:
            yield container
    else:
        yield request.getfixturevalue("default_server")


@pytest.fixture
def name() -> str:
    """A model name as the platform makes them: opaque and unlike any other."""
    return uuid.uuid4().hex * 2


@pytest.fixture
def loaded(server: ServerProcess) -> Iterator[Callable[..., str]]:
    """``loaded(make, …)``: makes a model with a function of tests.harness.models, loads it, returns its name."""
    names = []

    def load(make: Callable[..., Path] = models.multiplier, query: dict[str, Any] | None = None, **how: Any) -> str:
        name = uuid.uuid4().hex * 2
        make(server.model_dir(name), **how)
        answer = server.load(name, **(query or {}))
        assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
        names.append(name)
        return name

    yield load
    for name in names:
        server.unload(name)
