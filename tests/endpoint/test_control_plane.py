"""Models, endpoint configurations and endpoints, as boto3 sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_endpoint.storage.resources import Resources
from tests.endpoint.local import PREFIX, REGION, ROLE, Local

ARN = "arn:aws:sagemaker:us-east-1:123456789012"
SOURCE = {"S3Uri": PREFIX, "S3DataType": "S3Prefix", "CompressionType": "None"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Local]:
    """One local endpoint for tests that use names of their own."""
    with Local() as running:
        yield running


def refusal(call: Any, **arguments: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    return error["Code"], error["Message"]


def test_a_model_is_described_as_it_was_created(shared: Local) -> None:
    container = {
        "Image": "image",
        "Mode": "MultiModel",
        "ModelDataUrl": PREFIX,
        "MultiModelConfig": {"ModelCacheSetting": "Disabled"},
        "Environment": {"KEY": "value"},
    }
    made = shared.sagemaker.create_model(
        ModelName="Described",
        ExecutionRoleArn=ROLE,
        Containers=[container],
        InferenceExecutionConfig={"Mode": "Serial"},
        EnableNetworkIsolation=True,
    )
    assert made["ModelArn"] == f"{ARN}:model/described"
    described = shared.sagemaker.describe_model(ModelName="Described")
    assert described["Containers"] == [container]
    assert described["InferenceExecutionConfig"] == {"Mode": "Serial"}
    assert described["EnableNetworkIsolation"] is True
    assert not {"PrimaryContainer", "VpcConfig"} & set(described)


def test_duplicates_are_refused_and_change_nothing(shared: Local) -> None:
    shared.create_model("twice")
    code, message = refusal(shared.create_model, name="twice", url="s3://elsewhere/")
    assert (code, message) == ("ValidationException", f'Cannot create already existing model "{ARN}:model/twice".')
    assert shared.sagemaker.describe_model(ModelName="twice")["PrimaryContainer"]["ModelDataUrl"] == PREFIX
    shared.create_config("twice", "twice")
    _, message = refusal(shared.create_config, name="twice", model="twice")
    assert message == f'Cannot create already existing endpoint configuration "{ARN}:endpoint-config/twice".'
    shared.sagemaker.create_endpoint(EndpointName="twice", EndpointConfigName="twice")
    _, message = refusal(shared.sagemaker.create_endpoint, EndpointName="twice", EndpointConfigName="twice")
    assert message == f'Cannot create already existing endpoint "{ARN}:endpoint/twice".'
    shared.wait("twice", "InService")


@pytest.mark.parametrize(
    ("operation", "member", "title", "kind"),
    [
        ("describe_model", "ModelName", "model", "model"),
        ("delete_model", "ModelName", "model", "model"),
        ("describe_endpoint_config", "EndpointConfigName", "endpoint configuration", "endpoint-config"),
        ("delete_endpoint_config", "EndpointConfigName", "endpoint configuration", "endpoint-config"),
        ("describe_endpoint", "EndpointName", "endpoint", "endpoint"),
        ("delete_endpoint", "EndpointName", "endpoint", "endpoint"),
    ],
)
def test_what_is_not_there_could_not_be_found(
    shared: Local, operation: str, member: str, title: str, kind: str
) -> None:
    code, message = refusal(getattr(shared.sagemaker, operation), **{member: "Missing"})
    assert (code, message) == ("ValidationException", f'Could not find {title} "{ARN}:{kind}/missing".')


def test_bad_parameters_are_refused_in_the_words_of_aws(shared: Local) -> None:
    _, message = refusal(shared.create_model, name="bad_name")
    assert message.startswith(
        "1 validation error detected: Value 'bad_name' at 'modelName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: "
    )
    _, message = refusal(shared.create_model, name="x" * 64, MultiModelConfig={"ModelCacheSetting": "Maybe"})
    assert message.startswith("2 validation errors detected: ")
    assert (
        "Value 'Maybe' at 'primaryContainer.multiModelConfig.modelCacheSetting' failed to satisfy constraint: "
        "Member must satisfy enum value set: [Enabled, Disabled]" in message
    )
    assert "at 'modelName' failed to satisfy constraint: Member must have length less than or equal to 63" in message


def test_any_ml_instance_type_will_do_and_nothing_else(shared: Local) -> None:
    shared.create_model("types")
    for number, instance_type in enumerate(("ml.c6i.large", "ml.m6i.24xlarge", "ml.g5.xlarge", "ml.u99.metal-48xl")):
        shared.create_config(f"types-{number}", "types", InstanceType=instance_type)
    _, message = refusal(shared.create_config, name="types-9", model="types", InstanceType="t2.micro")
    assert "Value 't2.micro' at 'productionVariants.1.member.instanceType' failed to satisfy constraint" in message


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "Specify either PrimaryContainer or Containers"),
        (
            {"PrimaryContainer": {"Image": "i"}, "Containers": [{"Image": "i"}]},
            "Specify either PrimaryContainer or Containers",
        ),
        (
            {"Containers": [{"Image": "i", "Mode": "MultiModel", "ModelDataUrl": PREFIX}] * 2},
            "More than one container in MultiModel mode is not supported with inference pipeline.",
        ),
        ({"PrimaryContainer": {"Image": "i", "Mode": "MultiModel"}}, "ModelDataUrl must be specified"),
        ({"PrimaryContainer": {"Image": "i", "ModelDataUrl": "https://example.com/x"}}, "Invalid ModelDataUrl"),
        ({"PrimaryContainer": {"ModelDataUrl": PREFIX}}, "Image must be specified for a container."),
        (
            {"PrimaryContainer": {"Image": "i", "ModelDataSource": {"S3DataSource": SOURCE}}},
            "ModelDataSource is not available on this local endpoint: name the model's archive, or the prefix",
        ),
        (
            {
                "PrimaryContainer": {
                    "Image": "i",
                    "ModelDataUrl": PREFIX,
                    "AdditionalModelDataSources": [{"ChannelName": "c", "S3DataSource": SOURCE}],
                }
            },
            "AdditionalModelDataSources is not available",
        ),
        (
            {"Containers": [{"ModelPackageName": "package"}]},
            "ModelPackageName is not available on this local endpoint",
        ),
    ],
)
def test_models_that_could_not_be_deployed_are_refused(shared: Local, arguments: dict[str, Any], text: str) -> None:
    code, message = refusal(shared.sagemaker.create_model, ModelName="impossible", ExecutionRoleArn=ROLE, **arguments)
    assert code == "ValidationException"
    assert text in message


def test_a_configuration_needs_its_model_and_an_endpoint_its_configuration(shared: Local) -> None:
    _, message = refusal(shared.create_config, name="orphan", model="missing")
    assert message == f'Could not find model "{ARN}:model/missing".'
    _, message = refusal(shared.sagemaker.create_endpoint, EndpointName="orphan", EndpointConfigName="missing")
    assert message == f'Could not find endpoint configuration "{ARN}:endpoint-config/missing".'


def test_lists_are_filtered_sorted_and_paged(shared: Local) -> None:
    for number in range(25):
        shared.create_model(f"listed-{number:02}")
    call = shared.sagemaker.list_models
    first = call(NameContains="LISTED", SortBy="Name", SortOrder="Ascending", MaxResults=20)
    assert [model["ModelName"] for model in first["Models"]] == [f"listed-{number:02}" for number in range(20)]
    rest = call(
        NameContains="LISTED", SortBy="Name", SortOrder="Ascending", MaxResults=20, NextToken=first["NextToken"]
    )
    assert [model["ModelName"] for model in rest["Models"]] == [f"listed-{number:02}" for number in range(20, 25)]
    assert "NextToken" not in rest
    newest = call(NameContains="listed", MaxResults=1)["Models"]
    assert [model["ModelName"] for model in newest] == ["listed-24"]
    pages = shared.sagemaker.get_paginator("list_models").paginate(NameContains="listed")
    assert sum(len(page["Models"]) for page in pages) == 25


def test_tags_are_kept_changed_and_go_with_their_resource(shared: Local) -> None:
    tags = [{"Key": "team", "Value": "a"}]
    shared.sagemaker.create_model(ModelName="tagged", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "i"}, Tags=tags)
    resource = f"{ARN}:model/tagged"
    assert shared.sagemaker.list_tags(ResourceArn=resource)["Tags"] == tags
    shared.sagemaker.add_tags(ResourceArn=resource, Tags=[{"Key": "team", "Value": "b"}, {"Key": "x", "Value": "y"}])
    shared.sagemaker.delete_tags(ResourceArn=resource, TagKeys=["x"])
    assert shared.sagemaker.list_tags(ResourceArn=resource)["Tags"] == [{"Key": "team", "Value": "b"}]
    shared.sagemaker.delete_model(ModelName="tagged")
    code, _ = refusal(shared.sagemaker.list_tags, ResourceArn=resource)
    assert code == "ValidationException"


def test_what_is_no_arn_is_no_resource() -> None:
    resources = Resources()
    resources.add("model", REGION, "m", {"ModelName": "m"}, [])
    assert resources.exists(f"{ARN}:model/m")
    for other in (":model/", "model/m", "", "arn:aws:sagemaker:model/m", f"{ARN}:model", f"{ARN}:model/"):
        assert not resources.exists(other)


def test_operations_that_are_not_ours_reach_moto(shared: Local) -> None:
    assert shared.sagemaker.list_training_jobs()["TrainingJobSummaries"] == []
    assert shared.client("sts").get_caller_identity()["Account"] == "123456789012"
    shared.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    shared.client("ecr").create_repository(repositoryName="images")
    assert shared.client("cloudwatch").list_metrics(Namespace="none")["Metrics"] == []
    shared.client("logs").create_log_group(logGroupName="/aws/sagemaker/Endpoints/x")


def test_regions_do_not_see_each_others_endpoints(shared: Local) -> None:
    shared.create_model("regional")
    elsewhere = shared.client("sagemaker", region="eu-west-1")
    code, _ = refusal(elsewhere.describe_model, ModelName="regional")
    assert code == "ValidationException"


def test_an_endpoint_is_creating_until_its_container_answers(shared: Local) -> None:
    shared.create_model("slow", Environment={"FAKE_START_S": "1.5"})
    shared.create_config("slow", "slow")
    shared.sagemaker.create_endpoint(EndpointName="slow", EndpointConfigName="slow")
    created = shared.describe("slow")
    assert created["EndpointStatus"] == "Creating"
    assert "ProductionVariants" not in created
    _, message = refusal(shared.sagemaker.delete_endpoint, EndpointName="slow")
    assert message == f'Cannot update in-progress endpoint "{ARN}:endpoint/slow".'
    with pytest.raises(ClientError, match=r"Endpoint slow of account 123456789012 not found\."):
        shared.invoke("m.tar.gz", endpoint="slow")
    shared.sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="slow", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )
    variant = shared.describe("slow")["ProductionVariants"][0]
    assert variant["CurrentInstanceCount"] == variant["DesiredInstanceCount"] == 1
    assert variant["DeployedImages"][0]["SpecifiedImage"] == "an-image"
    shared.sagemaker.delete_endpoint(EndpointName="slow")
    shared.sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName="slow", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )


def test_a_corrupt_archive_of_a_single_model_fails_the_endpoint_with_the_reason(shared: Local) -> None:
    shared.upload("models/corrupt.tar.gz", b"rubbish")
    description = shared.deploy("corrupt", url=PREFIX + "corrupt.tar.gz", multi=False, wanted="Failed")
    assert description["FailureReason"].startswith(
        f'Failed to extract model data archive for container "container_1" from URL "{PREFIX}corrupt.tar.gz". '
        "Please ensure that the object located at the URL is a valid tar.gz archive."
    )
