"""Endpoints of several containers: direct invocation, chains, and what CreateModel says of their members."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from local_endpoint.events import Invoked, ModelLoaded
from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.runtimes.process import ContainerProcess
from tests.endpoint.local import PREFIX, ROLE, Local, behaving, message, pack, refused
from tests.harness.waiting import wait_until


def container(hostname: str | None = None, multi: bool = False, **more: Any) -> dict[str, Any]:
    """A ContainerDefinition: of the models below ``PREFIX``, or of none."""
    definition: dict[str, Any] = {"Image": "an-image", **more}
    if hostname is not None:
        definition["ContainerHostname"] = hostname
    if multi:
        definition.update(Mode="MultiModel", ModelDataUrl=PREFIX)
    return definition


def create_model(local: Local, name: str, containers: list[dict[str, Any]], mode: str | None = None) -> None:
    config = {"InferenceExecutionConfig": {"Mode": mode}} if mode else {}
    local.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, Containers=containers, **config)


def deploy(local: Local, containers: list[dict[str, Any]], mode: str | None = None, wanted: str = "InService") -> Any:
    create_model(local, "endpoint", containers, mode)
    local.create_config("endpoint", "endpoint")
    local.sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="endpoint")
    return local.wait("endpoint", wanted)


def pids(instance: Instance) -> list[int]:
    processes = [each.running for each in instance.containers]
    assert all(isinstance(each, ContainerProcess) for each in processes)
    return [each.pid for each in processes]  # type: ignore[attr-defined]


# ---- direct ----


def test_a_direct_request_goes_to_the_container_that_it_names(local: Local) -> None:
    local.upload("models/m.tar.gz", pack({"text": "of the first"}))
    local.upload("only.tar.gz", pack({"text": "of the second"}))
    second = container("second", ModelDataUrl="s3://test-models/only.tar.gz", Environment={"WHO": "me"})
    described = deploy(local, [container("first", multi=True), second], "Direct")
    assert len(described["ProductionVariants"][0]["DeployedImages"]) == 2
    assert local.sagemaker.describe_model(ModelName="endpoint")["InferenceExecutionConfig"] == {"Mode": "Direct"}

    one = local.invoke("m.tar.gz", TargetContainerHostname="first", ContentType="text/csv")
    two = local.invoke(TargetContainerHostname="second", ContentType="application/x-npy")
    assert (one["text"], two["text"]) == ("of the first", "of the second")
    assert (one["headers"]["content-type"], two["headers"]["content-type"]) == ("text/csv", "application/x-npy")
    assert one["headers"]["x-amzn-sagemaker-target-container-hostname"] == "first"
    assert one["headers"]["x-amzn-sagemaker-target-model"] == "m.tar.gz"
    assert "WHO" not in one["environment"] and two["environment"]["WHO"] == "me"
    assert one["environment"]["SAGEMAKER_MULTI_MODEL"] == "true"
    assert two["environment"]["SAGEMAKER_MULTI_MODEL"] == "false"
    assert one["pid"] != two["pid"]


def test_each_member_is_told_a_port_and_a_range_of_further_ones(local: Local) -> None:
    deploy(local, [container("a"), container("b"), container("c")], "Direct")
    taken: set[int] = set()
    for name in "abc":
        environment = local.invoke(TargetContainerHostname=name)["environment"]
        first, last = map(int, environment["SAGEMAKER_SAFE_PORT_RANGE"].split("-"))
        ports = {int(environment["SAGEMAKER_BIND_TO_PORT"]), *range(first, last + 1)}
        assert len(ports) > 2 and not ports & taken
        taken |= ports


def test_a_direct_request_that_names_no_container_or_an_unknown_one_is_refused(local: Local) -> None:
    deploy(local, [container("first", multi=True), container("second")], "Direct")
    assert "is missing a target container hostname header" in message(refused(local, "ValidationError", 400, "m.tar.gz"))
    response = refused(local, "ValidationError", 400, TargetContainerHostname="third")
    assert message(response) == "Container third not found for endpoint endpoint of account 123456789012."
    response = refused(local, "ValidationError", 400, TargetContainerHostname="first")
    assert "is missing a target model header" in message(response)
    response = refused(local, "ValidationError", 400, "m.tar.gz", TargetContainerHostname="second")
    assert "Container second of endpoint endpoint is not a multi-model container" in message(response)


def test_events_say_which_container_served(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving())
    deploy(local, [container("first", multi=True), container("second")], "Direct")
    local.events.clear()
    local.invoke("m.tar.gz", TargetContainerHostname="first")
    local.invoke(TargetContainerHostname="second")
    wait_until(lambda: sum(isinstance(each, Invoked) for each in local.events) == 2, "an event is missing")
    assert [each.where.container for each in local.events if isinstance(each, ModelLoaded)] == ["first"]
    invoked = [each for each in local.events if isinstance(each, Invoked)]
    assert [each.where.container for each in invoked] == ["first", "second"]
    assert [[(call.container, call.status) for call in each.calls] for each in invoked] == [
        [("first", 200)],
        [("second", 200)],
    ]
