"""An instance of several containers: it comes up and ends as a whole."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from local_endpoint.configuration import Limits
from local_endpoint.errors import StartFailure
from local_endpoint.events import Events
from local_endpoint.hosting.container import Container
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.definitions import ContainerDefinition, VariantDefinition
from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes.process import ContainerProcess, ProcessRuntime
from local_endpoint.storage.objects import ObjectReader
from tests.endpoint.local import FAKE_CONTAINER
from tests.harness.waiting import wait_until

FIRST = ContainerDefinition("image", "first", {}, multi_model=True, keep_models=True, location=None)
SECOND = replace(FIRST, hostname="second", multi_model=False)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[HostingContext]:
    """Of fake containers without S3."""
    janitor = Janitor()
    no_objects = ObjectReader(None)
    runtime = ProcessRuntime(janitor, [sys.executable, str(FAKE_CONTAINER)])
    yield HostingContext(runtime, no_objects, Limits(), Events(), tmp_path)
    janitor.close()


def variant(*containers: ContainerDefinition) -> VariantDefinition:
    return VariantDefinition("us-east-1", "endpoint", "v", "ml.m5.large", 60, 60, 1_000_000, containers)


def pid_of(container: Container) -> int:
    assert isinstance(container.running, ContainerProcess)
    return container.running.pid


def test_it_starts_all_its_containers_and_dies_once_with_the_first_that_ends(
    context: HostingContext, tmp_path: Path
) -> None:
    deaths: list[Instance] = []
    instance = Instance(variant(FIRST, SECOND), context, deaths.append)
    try:
        instance.start()
        first, second = instance.containers
        assert all(each.client.is_healthy(5, multi_model=False) for each in (first, second))
        assert [path.name for path in sorted(tmp_path.glob("i-*/*"))] == ["container-1", "container-2"]
        pids = [pid_of(each) for each in (first, second)]
        os.kill(pids[1], signal.SIGKILL)
        wait_until(lambda: deaths, "nobody noticed")
        assert not instance.is_alive()
        assert instance.death_reason == "it was ended by SIGKILL"
        os.kill(pids[0], signal.SIGKILL)
        first.running.wait()
    finally:
        instance.stop()
    assert deaths == [instance]
    assert not any(map(psutil.pid_exists, pids))
    assert not list(tmp_path.iterdir())


def test_where_one_container_does_not_come_up_the_reason_names_it_and_nothing_is_left(
    context: HostingContext, tmp_path: Path
) -> None:
    instance = Instance(variant(FIRST, replace(SECOND, environment={"FAKE_EXIT": "3"})), context, lambda _: None)
    with pytest.raises(StartFailure, match="The second for production variant v did not pass the ping"):
        instance.start()
    pid = pid_of(instance.containers[0])
    instance.stop()
    assert not psutil.pid_exists(pid)
    assert not list(tmp_path.iterdir())
