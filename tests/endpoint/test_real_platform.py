"""The platform's rules against real containers, as processes and with Docker, while other requests keep flowing.

Two endpoints serve all tests of a runtime: ``endpoint`` (two instances, prefix ``models/``) and, where a test asks for
it, ``fleeting`` (the whole bucket, models are dropped after each use).
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import requests

from local_endpoint.events import ModelDownloaded, ModelLoaded
from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.runtimes.process import ContainerProcess
from tests.endpoint.local import BUCKET, PREFIX, Local, address, message, pack, refused, running
from tests.endpoint.traffic import Traffic
from tests.harness.waiting import wait_until

ROW = b"[[1, 2, 3, 4]]"
RESPONSE_TIMEOUT_S = 5.0


@dataclass
class Platform:
    """A local endpoint with its two endpoints."""

    local: Local
    multipliers: dict[int, bytes]
    options: dict[str, Any]  # of models

    def deploy_fleeting(self) -> None:
        """Where it is not there yet."""
        if self.local.is_gone("fleeting"):
            cache = {"ModelCacheSetting": "Disabled"}
            self.local.deploy("fleeting", url=f"s3://{BUCKET}/", MultiModelConfig=cache, **self.options)

    def answer(self, target: str, endpoint: str = "endpoint") -> float:
        """What the model makes of a 1."""
        return float(self.local.invoke(target, ROW, endpoint=endpoint)["predictions"][0][0])

    def holder(self, target: str) -> Instance:
        """The only instance of ``endpoint`` that has the model loaded."""
        (found,) = [each for each in self.local.instances() if target in self.local.loaded(each)]
        return found


def models_of(instance: Instance) -> list[dict[str, str]]:
    """The container's own word."""
    return list(requests.get(f"{address(instance)}/models", timeout=10).json()["models"])


def processes_of(instance: Instance) -> list[psutil.Process]:
    """All of the container, those in Docker as this machine sees them."""
    its = running(instance)
    if isinstance(its, ContainerProcess):
        pid = its.pid
    else:
        container: Any = its._container  # type: ignore[attr-defined]
        container.reload()
        pid = container.attrs["State"]["Pid"]
        if not psutil.pid_exists(pid):
            pytest.skip("needs a Docker engine whose containers are processes of this machine")
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


@contextlib.contextmanager
def frozen(instance: Instance) -> Iterator[None]:
    """The container does nothing at all, as one on a machine that has come to a standstill."""
    processes = processes_of(instance)  # (docker pause does not work on every engine)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@pytest.fixture(scope="module", params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def module_platform(request: pytest.FixtureRequest, plain_multipliers: dict[int, bytes]) -> Iterator[Platform]:
    image = request.getfixturevalue("image").tag if request.param == "docker" else "an-image"
    with Local(real=True, runtime=request.param, response_timeout_s=RESPONSE_TIMEOUT_S) as local:
        options: dict[str, Any] = {"Image": image, "Environment": {"MME_PRELOAD": "none"}}
        made = Platform(local, plain_multipliers, options)
        local.deploy(instances=2, **options)
        for factor in (1, 2):  # the one on one instance, the other on the other
            local.upload(f"models/times-{factor}.tar.gz", plain_multipliers[factor])
            assert made.answer(f"times-{factor}.tar.gz") == factor
        yield made


@pytest.fixture
def platform(module_platform: Platform) -> Iterator[Platform]:
    """The platform, with traffic to a model all the while, none of which may fail."""
    with Traffic(lambda _: module_platform.answer("times-1.tar.gz"), clients=2) as traffic:
        traffic.wait_for_more(5)
        yield module_platform
        traffic.wait_for_more(5)
    assert traffic.failures == []
    assert set(traffic.answers) == {1}


def test_a_model_that_is_not_ready_in_time_is_ready_later_after_one_load(platform: Platform) -> None:
    local = platform.local
    standing_still = platform.holder("times-2.tar.gz")
    with frozen(standing_still):
        for number in range(20):  # a new model goes to either instance
            target = f"slow-{number}.tar.gz"
            local.upload(f"models/{target}", platform.multipliers[3])
            try:
                platform.answer(target)
            except local.runtime.exceptions.ModelNotReadyException as error:
                response = error.response
                break
        else:
            raise AssertionError("all went to the instance that works")
        assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
        assert message(response).startswith(f"Model {target} is not ready for inference")
        assert target not in platform.local.loaded(standing_still)
    wait_until(lambda: target in platform.local.loaded(standing_still), "it was not loaded")
    assert platform.answer(target) == 3
    assert (platform.local.count(ModelDownloaded, target), platform.local.count(ModelLoaded, target)) == (1, 1)


def test_a_container_that_does_not_answer_in_time_is_status_0(platform: Platform) -> None:
    with frozen(platform.holder("times-2.tar.gz")):
        response = refused(platform.local, "ModelError", 424, "times-2.tar.gz", ROW)
    assert response["OriginalStatusCode"] == 0
    assert "Your invocation timed out while waiting for a response from container primary." in message(response)
    assert platform.answer("times-2.tar.gz") == 2


@pytest.mark.ci  # one more container; test_memory.py has it with a fake one
def test_models_are_dropped_after_each_use_where_the_cache_is_disabled(platform: Platform) -> None:
    platform.deploy_fleeting()
    calls = lambda number: platform.answer(f"models/times-{1 + number % 2}.tar.gz", "fleeting")  # noqa: E731
    with Traffic(calls, clients=3) as traffic:
        traffic.wait_for_more(20)
    assert traffic.failures == []
    assert set(traffic.answers) == {1, 2}
    (instance,) = platform.local.instances("fleeting")
    folder = platform.local.folder(instance)
    wait_until(lambda: not list(folder.glob("*/models/*")), "artifacts are left")
    assert models_of(instance) == []


def links() -> bytes:
    """An archive with a symbolic link out of it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        link = tarfile.TarInfo("model-symbol.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return packed.getvalue()


def test_bad_archives_are_refused_and_never_reach_the_container(platform: Platform) -> None:
    archives = {
        "rubbish": b"rubbish",
        "cut-short": platform.multipliers[1][:-100],
        "climbs": pack({"../../escaped": b"x"}),
        "links": links(),
    }
    known = [models_of(each) for each in platform.local.instances()]
    for name, data in archives.items():
        platform.local.upload(f"models/{name}.tar.gz", data)
        text = message(refused(platform.local, "ValidationError", 400, f"{name}.tar.gz", ROW))
        assert f'Failed to extract model data archive from URL "{PREFIX}{name}.tar.gz"' in text
    assert [models_of(each) for each in platform.local.instances()] == known
    for instance in platform.local.instances():
        folder = platform.local.folder(instance)
        assert not [path for path in folder.rglob("*") if path.name == "escaped" or path.match("unpacked-*")]


@pytest.mark.parametrize("target", ["../up.tar.gz", "/slash.tar.gz", "a b.tar.gz", "%2e%2e%2fx", "y" * 1017])
def test_a_hostile_target_is_just_a_key_in_s3(platform: Platform, target: str) -> None:
    text = message(refused(platform.local, "ValidationError", 400, target, ROW))
    key = f"models/{target.lstrip('/')}"  # prefix and target are joined by one slash
    assert f"(bucket: {BUCKET}, key: {key})" in text
    platform.local.upload(key, platform.multipliers[4])
    assert platform.answer(target) == 4


@pytest.mark.ci  # one more container; test_requests.py has it with a fake one
def test_a_target_of_1024_characters_is_served(platform: Platform) -> None:
    platform.deploy_fleeting()
    target = "../" * 300 + "z" * 124
    platform.local.upload(target, platform.multipliers[5])
    assert platform.answer(target, "fleeting") == 5


def test_an_object_overwritten_in_place_goes_on_answering_as_before(platform: Platform) -> None:
    platform.local.upload("models/mine.tar.gz", platform.multipliers[2])
    assert platform.answer("mine.tar.gz") == 2
    platform.local.upload("models/mine.tar.gz", platform.multipliers[3])
    assert platform.answer("mine.tar.gz") == 2
    platform.local.upload("models/mine-2.tar.gz", platform.multipliers[3])
    assert platform.answer("mine-2.tar.gz") == 3


def test_objects_that_are_missing_or_forbidden_are_validation_errors(platform: Platform) -> None:
    local = platform.local
    assert "key: models/missing.tar.gz" in message(refused(local, "ValidationError", 400, "missing.tar.gz", ROW))
    local.upload("models/secret.tar.gz", platform.multipliers[2])
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{BUCKET}/models/secret*"}
    local.s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    try:
        assert "key: models/secret.tar.gz" in message(refused(local, "ValidationError", 400, "secret.tar.gz", ROW))
    finally:
        local.s3.delete_bucket_policy(Bucket=BUCKET)
    assert platform.answer("secret.tar.gz") == 2


def test_a_model_that_the_container_has_dropped_is_loaded_again(platform: Platform) -> None:
    holder = platform.holder("times-2.tar.gz")
    loads = platform.local.count(ModelLoaded, "times-2.tar.gz")
    for each in models_of(holder):
        assert requests.delete(f"{address(holder)}/models/{each['modelName']}", timeout=10).status_code == 200
    assert platform.answer("times-2.tar.gz") == 2
    assert platform.local.count(ModelLoaded, "times-2.tar.gz") == loads + 1


def test_the_largest_body_is_served(platform: Platform) -> None:
    body = ROW.ljust(6_291_456)
    answer = json.loads(platform.local.invoke_raw("times-2.tar.gz", body)["Body"].read())
    assert answer == {"predictions": [[2, 4, 6, 8]]}
