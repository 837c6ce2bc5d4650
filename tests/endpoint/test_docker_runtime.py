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

from local_endpoint.hosting.runtimes.docker import MULTI_MODELS_LABEL, OWN_LABEL
from tests.endpoint import containers as members
from tests.endpoint.local import Local, message, refused
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


def test_a_missing_image_fails_the_endpoint(local: Local) -> None:
    description = local.deploy(Image="no-such-image:1", wanted="Failed")
    assert description["FailureReason"] == "Requested image no-such-image:1 not found."


def test_a_name_that_no_image_can_have_fails_the_endpoint_with_the_reason(local: Local) -> None:
    description = local.deploy(Image="Not:A:Reference", wanted="Failed")
    assert description["FailureReason"].startswith("Requested image Not:A:Reference cannot be used: ")


def test_an_image_without_the_multi_model_label_fails_the_endpoint(local: Local, unlabelled: str) -> None:
    description = local.deploy(Image=unlabelled, wanted="Failed")
    assert description["FailureReason"] == (
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


def test_a_single_model_is_served_from_the_image(local: Local, image: Image, multipliers: dict[int, bytes]) -> None:
    local.upload("models/only.tar.gz", multipliers[3])
    url, environment = "s3://test-models/models/only.tar.gz", {"MME_PRELOAD": "mxnet"}
    local.deploy(url=url, multi=False, Image=image.tag, Environment=environment)
    assert json.dumps(local.invoke(body=ROW)) == '{"predictions": [[3.0, 6.0, 9.0, 12.0]]}'
    assert "not a multi-model endpoint" in message(refused(local, "ValidationError", 400, "only.tar.gz", ROW))
