"""The Docker runtime: a model's own image, as containers."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from botocore.exceptions import ClientError

from local_endpoint.hosting.runtimes.docker import MULTI_MODELS_LABEL, OWN_LABEL
from tests.endpoint import containers as members
from tests.endpoint.local import Local, message, refused, running
from tests.endpoint.program import Program, deploy_real
from tests.endpoint.traffic import Traffic
from tests.harness.docker import Image, image, reason_without_engine
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.docker
ROW = b"[[1, 2, 3, 4]]"
UNLABELLED = "local-endpoint-test-unlabelled:latest"

__all__ = ["image"]  # the fixture


@pytest.fixture(scope="module")
def engine() -> Any:
    reason = reason_without_engine()
    if reason:
        pytest.skip(reason)
    return docker.from_env()


@pytest.fixture(scope="module")
def module_local(engine: Any) -> Iterator[Local]:
    """As in conftest, with the Docker runtime."""
    foreign.update(container.id for container in containers(engine))
    with Local(real=True, runtime="docker", startup_timeout_s=60) as running:
        yield running
    assert containers(engine) == []


# of local endpoints that ran before these tests
foreign: set[str] = set()


def containers(engine: Any) -> list[Any]:
    """All that the tests' local endpoint started, running or not."""
    found = engine.containers.list(all=True, ignore_removed=True, filters={"label": OWN_LABEL})
    return [container for container in found if container.id not in foreign]


def test_a_killed_local_endpoint_leaves_no_container_behind(engine: Any, image: Image, tmp_path: Path) -> None:
    foreign.update(container.id for container in containers(engine))
    program = Program(tmp_path, "--runtime", "docker")
    try:
        deploy_real(program, image.tag)
        assert len(containers(engine)) == 2
    finally:
        program.kill()
    wait_until(lambda: not containers(engine), "containers survive", 40)


@pytest.fixture(scope="module")
def unlabelled(engine: Any) -> Iterator[str]:
    """An image of one file and no labels."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    repository, _, tag = UNLABELLED.partition(":")
    engine.api.import_image_from_data(packed.getvalue(), repository=repository, tag=tag)
    yield UNLABELLED
    engine.images.remove(UNLABELLED, force=True)


@pytest.mark.ci
def test_an_image_of_the_users_own_is_run_limited_replaced_and_removed(
    local: Local, engine: Any, image: Image, multipliers: dict[int, bytes]
) -> None:
    for factor in (2, 3):
        local.upload(f"models/times-{factor}.tar.gz", multipliers[factor])
    local.deploy(
        instances=2,
        Image=image.tag,
        Environment={"MME_LOG_FORMAT": "json", "MME_PRELOAD": "mxnet"},
        variant={"InstanceType": "ml.c5.large"},
    )
    assert local.invoke("times-2.tar.gz", ROW) == {"predictions": [[2, 4, 6, 8]]}
    running = containers(engine)
    assert len(running) == 2
    for container in running:
        configuration = container.attrs
        assert configuration["Config"]["Cmd"] == ["serve"]
        assert "MME_LOG_FORMAT=json" in configuration["Config"]["Env"]
        assert "SAGEMAKER_MULTI_MODEL=true" in configuration["Config"]["Env"]
        assert configuration["HostConfig"]["Memory"] == 4 * 1024**3

    with Traffic(lambda number: local.invoke(f"times-{2 + number % 2}.tar.gz", ROW), clients=4) as traffic:
        traffic.wait_for_more()
        victim = next(each for each in local.instances() if local.loaded(each))
        engine.containers.get(f"local-endpoint-{victim.id}-1").kill()
        wait_until(lambda: len(local.instances()) == 2 and victim not in local.instances(), "it was not replaced", 60)
        traffic.wait_for_more()
    assert traffic.failures == []
    local.delete()
    assert containers(engine) == []


def refused_model(local: Local, image_name: str) -> str:
    with pytest.raises(ClientError) as caught:
        local.create_model("refused", Image=image_name)
    error = caught.value.response["Error"]
    assert error["Code"] == "ValidationException"
    return str(error["Message"])


def test_a_missing_image_is_refused_at_create_model(local: Local) -> None:
    assert refused_model(local, "no-such-image:1") == "Requested image no-such-image:1 not found."


def test_a_name_that_no_image_can_have_is_refused_with_the_reason(local: Local) -> None:
    assert refused_model(local, "Not:A:Reference").startswith("Requested image Not:A:Reference cannot be used: ")


def test_an_image_without_the_multi_model_label_is_refused_at_create_model(local: Local, unlabelled: str) -> None:
    assert refused_model(local, unlabelled) == (
        f"Your Ecr Image {unlabelled} does not contain required {MULTI_MODELS_LABEL}=true Docker label(s)."
    )


def test_two_containers_of_an_endpoint_each_with_its_hostname_and_port(
    local: Local, engine: Any, image: Image, multipliers: dict[int, bytes]
) -> None:
    local.upload("models/times-2.tar.gz", multipliers[2])
    local.upload("only.tar.gz", multipliers[3])
    settings: dict[str, Any] = {"Image": image.tag, "Environment": {"MME_PRELOAD": "none"}}
    many = members.container("many", multi=True, **settings)
    only = members.container("only", ModelDataUrl="s3://test-models/only.tar.gz", **settings)
    members.deploy(local, [many, only], "Direct")
    found = local.invoke("times-2.tar.gz", ROW, TargetContainerHostname="many")
    assert found == {"predictions": [[2, 4, 6, 8]]}
    assert local.invoke(body=ROW, TargetContainerHostname="only") == {"predictions": [[3, 6, 9, 12]]}
    running = containers(engine)
    assert {each.attrs["Config"]["Hostname"] for each in running} == {"many", "only"}
    assert {each.attrs["HostConfig"]["Memory"] for each in running} == {8 * 1024**3}  # ml.m5.xlarge has 16 GiB
    (before,) = local.instances()
    engine.containers.get(f"local-endpoint-{before.id}-2").kill()
    wait_until(lambda: local.instances() and local.instances() != [before], "it was not replaced", 60)
    assert local.invoke(body=ROW, TargetContainerHostname="only") == {"predictions": [[3, 6, 9, 12]]}


def test_an_image_that_is_gone_when_the_endpoint_is_made_fails_it(local: Local, image: Image) -> None:
    local.create_model("gone", Image=image.tag)
    container = {"Image": "no-such-image:1", "Mode": "MultiModel", "ModelDataUrl": "s3://test-models/models/"}
    local.app.endpoints._resources.change("model", "us-east-1", "gone", PrimaryContainer=container)
    local.create_config("gone", "gone")
    local.sagemaker.create_endpoint(EndpointName="gone", EndpointConfigName="gone")
    assert local.wait("gone", "Failed")["FailureReason"] == "Requested image no-such-image:1 not found."


def test_the_environment_of_a_container_is_its_own_affair(local: Local, image: Image) -> None:
    local.create_model("free", Image=image.tag, Environment={"LD_PRELOAD": "/x.so", "PYTHONPATH": "/x"})


def test_a_single_model_is_served_from_the_image(local: Local, image: Image, multipliers: dict[int, bytes]) -> None:
    local.upload("models/only.tar.gz", multipliers[3])
    url, environment = "s3://test-models/models/only.tar.gz", {"MME_PRELOAD": "mxnet"}
    local.deploy(url=url, multi=False, Image=image.tag, Environment=environment)
    assert json.dumps(local.invoke(body=ROW)) == '{"predictions": [[3.0, 6.0, 9.0, 12.0]]}'
    assert "not a multi-model endpoint" in message(refused(local, "ValidationError", 400, "only.tar.gz", ROW))
    (instance,) = local.instances()
    used = running(instance).usage()
    assert used is not None and used.memory_bytes > 50_000_000 and used.cpu_s > 0.1
    stream = {
        "logGroupName": "/aws/sagemaker/Endpoints/endpoint",
        "logStreamNamePrefix": f"AllTraffic/{instance.id}",
    }
    logs = local.client("logs")
    wait_until(
        lambda: any("serving" in event["message"] for event in logs.filter_log_events(**stream)["events"]),
        lambda: f"the log lacks the line: {logs.filter_log_events(**stream)}",
    )
