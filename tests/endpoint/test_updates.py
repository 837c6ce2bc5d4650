"""The programs that change and delete an endpoint: what they carry over, what is theirs to delete and what is not."""

from __future__ import annotations

import argparse
import hashlib
import re
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.programs import delete_endpoint, update_endpoint, updates
from scripts.programs.console import Failure
from scripts.programs.updates import TAG, made_by_updates, name_of_update, tags_of
from tests.endpoint.local import PREFIX, ROLE, Local, pids
from tests.endpoint.test_programs import call
from tests.harness.waiting import wait_until


def config_of(local: Local, endpoint: str) -> str:
    return str(local.describe(endpoint)["EndpointConfigName"])


def names(local: Local) -> tuple[list[str], list[str]]:
    """All endpoint configurations and models, sorted."""
    configs = local.sagemaker.list_endpoint_configs(MaxResults=100)["EndpointConfigs"]
    models = local.sagemaker.list_models(MaxResults=100)["Models"]
    return sorted(each["EndpointConfigName"] for each in configs), sorted(each["ModelName"] for each in models)


# ---- what is whose ----


def test_another_endpoint_whose_name_looks_like_an_updates_keeps_what_it_has(local: Local) -> None:
    local.deploy("mme")
    local.deploy("mme-20250101-120000")
    call(local, "update_endpoint", "--name", "mme", "--env", "TURN=1")
    call(local, "delete_endpoint", "--name", "mme", "--all")
    assert names(local) == (["mme-20250101-120000"], ["mme-20250101-120000"])
    assert local.describe("mme-20250101-120000")["EndpointStatus"] == "InService"


def test_two_updates_within_a_second_have_names_of_their_own(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "time", SimpleNamespace(strftime=lambda _: "-20260101-000000-"))
    local.deploy("mme")
    config = local.sagemaker.describe_endpoint_config(EndpointConfigName="mme")
    arguments = argparse.Namespace(
        name="mme",
        container=None,
        image=None,
        models=None,
        cache=None,
        env=[("A", "1")],
        instance_type=None,
        instances=None,
    )
    made = [update_endpoint.make_config(local.sagemaker, config, None, arguments)[0] for _ in range(2)]
    assert len(set(made)) == 2
    assert all(re.fullmatch(r"mme-20260101-000000-[0-9a-f]{6}", name) for name in made)
    assert names(local) == (sorted(["mme", *made]), sorted(["mme", *made]))


@pytest.mark.parametrize("length", [1, 40, 41, 47, 48, 63])
def test_the_name_of_an_update_is_one_that_aws_allows(length: int) -> None:
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name_of_update("x" * length))


@pytest.mark.parametrize("length", [31, 40, 47, 63])
def test_what_updates_of_an_earlier_release_made_is_found(local: Local, length: int) -> None:
    """Their names had no random end, and more of a long endpoint's name."""
    endpoint = "x" * length
    start = endpoint if length <= 47 else f"{endpoint[:38]}-{hashlib.sha256(endpoint.encode()).hexdigest()[:8]}"
    made = f"{start}-20260101-000000"
    container = {"Image": "an-image", "Mode": "MultiModel", "ModelDataUrl": PREFIX}
    tags = [{"Key": TAG, "Value": endpoint}]
    local.sagemaker.create_model(ModelName=made, ExecutionRoleArn=ROLE, PrimaryContainer=container, Tags=tags)
    assert list(made_by_updates(local.sagemaker, endpoint).models) == [made]


def test_of_two_long_names_with_the_same_beginning_each_keeps_its_own(local: Local) -> None:
    beginning = "x" * 50
    staging, production = f"{beginning}-staging", f"{beginning}-production"
    for name in (staging, production):
        local.deploy(name)
        call(local, "update_endpoint", "--name", name, "--env", f"OF={name[-10:]}")
    made = config_of(local, production)
    assert made.rsplit("-", 3)[0] != config_of(local, staging).rsplit("-", 3)[0]
    call(local, "delete_endpoint", "--name", staging, "--all")
    assert names(local) == (sorted([production, made]), sorted([production, made]))
    call(local, "delete_endpoint", "--name", production, "--all")
    assert names(local) == ([], [])


def test_what_another_endpoint_uses_is_kept_and_said_to_be(local: Local) -> None:
    local.deploy("mme")
    call(local, "update_endpoint", "--name", "mme", "--env", "TURN=1")
    updated = config_of(local, "mme")
    local.sagemaker.create_endpoint(EndpointName="other", EndpointConfigName=updated)
    local.wait("other", "InService")
    local.create_config("third", "mme")
    local.sagemaker.create_endpoint(EndpointName="third", EndpointConfigName="third")
    local.wait("third", "InService")
    told = call(local, "delete_endpoint", "--name", "mme", "--all").stdout
    assert f"kept endpoint configuration {updated}: another endpoint uses it" in told
    assert "kept model mme: another endpoint uses it" in told
    assert "deleted endpoint configuration mme\n" in told
    assert names(local) == (sorted([updated, "third"]), sorted([updated, "mme"]))


def test_what_an_endpoint_is_moving_to_counts_as_used(local: Local) -> None:
    local.deploy("mme")
    local.deploy("other")
    local.create_model("slow", Environment={"FAKE_START_S": "6"})
    local.create_config("mme-next", "slow")
    local.sagemaker.add_tags(
        ResourceArn=local.sagemaker.describe_endpoint_config(EndpointConfigName="mme-next")["EndpointConfigArn"],
        Tags=[{"Key": TAG, "Value": "mme"}],
    )
    local.sagemaker.update_endpoint(EndpointName="other", EndpointConfigName="mme-next")
    told = call(local, "delete_endpoint", "--name", "mme", "--all").stdout
    assert "kept endpoint configuration mme-next: another endpoint uses it" in told
    local.wait("other", "InService")
    assert config_of(local, "other") == "mme-next"


def test_the_old_configuration_stays_where_another_endpoint_uses_it(local: Local) -> None:
    local.deploy("mme")
    local.sagemaker.create_endpoint(EndpointName="other", EndpointConfigName="mme")
    local.wait("other", "InService")
    told = call(local, "update_endpoint", "--name", "mme", "--env", "TURN=1", "--delete-old").stdout
    assert "deleted" not in told
    made = config_of(local, "mme")
    assert names(local) == (sorted(["mme", made]), sorted(["mme", made]))


def test_an_endpoint_that_is_not_deleted_is_not_said_to_be(
    local: Local, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local.deploy("mme")
    left = {"EndpointStatus": "Failed", "FailureReason": "a network interface is in use"}
    monkeypatch.setattr(delete_endpoint, "wait_for_endpoint", lambda *_: left)  # nothing here makes AWS fail so
    with pytest.raises(Failure, match="mme was not deleted, it is Failed: a network interface is in use"):
        delete_endpoint.delete_endpoint(local.sagemaker, "mme", 1)
    assert "deleted endpoint" not in capsys.readouterr().out
    wait_until(lambda: local.is_gone("mme"), "it is not gone")


# ---- what is carried over ----


def test_what_is_not_named_stays_as_it_is(local: Local) -> None:
    network = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    tags = [{"Key": "team", "Value": "vision"}]
    container = {
        "ContainerHostname": "host",
        "Image": "an-image",
        "Mode": "MultiModel",
        "ModelDataUrl": PREFIX,
        "Environment": {"A": "1", "B": "2"},
    }
    local.sagemaker.create_model(
        ModelName="mme",
        ExecutionRoleArn=ROLE,
        Containers=[container],
        EnableNetworkIsolation=True,
        VpcConfig=network,
        InferenceExecutionConfig={"Mode": "Serial"},
        Tags=tags,
    )
    variant = {
        "VariantName": "mine",
        "ModelName": "mme",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.xlarge",
        "VolumeSizeInGB": 7,
        "ContainerStartupHealthCheckTimeoutInSeconds": 100,
    }
    capture = {
        "EnableCapture": True,
        "InitialSamplingPercentage": 5,
        "DestinationS3Uri": "s3://b/c",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    more: dict[str, Any] = {"KmsKeyId": "key", "DataCaptureConfig": capture}
    local.sagemaker.create_endpoint_config(EndpointConfigName="mme", ProductionVariants=[variant], Tags=tags, **more)
    local.sagemaker.create_endpoint(EndpointName="mme", EndpointConfigName="mme")
    local.wait("mme", "InService")

    call(local, "update_endpoint", "--name", "mme", "--env", "B=3")
    made = config_of(local, "mme")
    model = local.sagemaker.describe_model(ModelName=made)
    assert model["Containers"] == [{**container, "Environment": {"A": "1", "B": "3"}}]
    assert model["EnableNetworkIsolation"] is True
    assert (model["VpcConfig"], model["InferenceExecutionConfig"]) == (network, {"Mode": "Serial"})
    config = local.sagemaker.describe_endpoint_config(EndpointConfigName=made)
    assert config["ProductionVariants"] == [{**variant, "ModelName": made, "InitialVariantWeight": 1.0}]
    assert {name: config[name] for name in more} == more
    for arn in (model["ModelArn"], config["EndpointConfigArn"]):
        assert tags_of(local.sagemaker, arn) == [*tags, {"Key": TAG, "Value": "mme"}]

    call(local, "update_endpoint", "--name", "mme", "--instance-type", "ml.c5.large", "--delete-old")
    config = local.sagemaker.describe_endpoint_config(EndpointConfigName=config_of(local, "mme"))
    assert tags_of(local.sagemaker, config["EndpointConfigArn"]) == [*tags, {"Key": TAG, "Value": "mme"}]
    assert names(local)[1] == sorted(["mme", made])  # the model that was in the old configuration is in the new one


def test_an_update_keeps_the_number_of_instances_that_scaling_has_made(local: Local) -> None:
    local.deploy("mme")
    local.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="mme", DesiredWeightsAndCapacities=[{"VariantName": "AllTraffic", "DesiredInstanceCount": 3}]
    )
    local.wait("mme", "InService")
    call(local, "update_endpoint", "--name", "mme", "--env", "TURN=1")
    assert len(pids(local, "mme")) == 3
    call(local, "update_endpoint", "--name", "mme", "--instances", "2")
    wait_until(lambda: len(pids(local, "mme")) == 2, "there are not two")


def test_a_failed_endpoint_is_not_updated_but_said_to_be_deleted_first(local: Local) -> None:
    local.deploy("mme", wanted="Failed", Environment={"FAKE_EXIT": "1"})
    before = names(local)
    told = call(local, "update_endpoint", "--name", "mme", "--env", "FAKE_EXIT=2", code=1).stderr
    assert "mme is Failed (The primary container" in told
    assert "./scripts/delete_endpoint --name mme --all" in told
    assert names(local) == before


# ---- where models are ----


@pytest.mark.parametrize(
    "host", ["s3-eu-west-1.amazonaws.com", "s3.eu-west-1.amazonaws.com", "s3.dualstack.eu-west-1.amazonaws.com"]
)
def test_models_are_listed_by_an_https_address(local: Local, host: str) -> None:
    local.deploy("mme", url=f"https://{host}/test-models/models/")
    local.upload("models/one.tar.gz", b"1")
    assert call(local, "list_models", "--endpoint", "mme").stdout.split()[0] == "one.tar.gz"


def test_an_address_that_is_not_understood_is_a_clear_error(local: Local) -> None:
    local.deploy("mme")
    # AWS may take an address that we do not know
    record = local.app.endpoints._resources
    container = {"Image": "i", "Mode": "MultiModel", "ModelDataUrl": "https://new.example.com/b/p/"}
    record.change("model", "us-east-1", "mme", PrimaryContainer=container)
    told = call(local, "list_models", "--endpoint", "mme", code=1).stderr
    assert (
        "the models of mme cannot be listed: https://new.example.com/b/p/ is not the address of something in S3" in told
    )
    assert "Name the prefix with --models." in told
