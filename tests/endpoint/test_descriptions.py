"""What Create… is sent is what Describe… shows, or it is refused: Terraform's plan is empty after an apply only then.

Each member that the requests may have is in one of the tables, also those that Terraform's provider does not send.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_endpoint.validation import service_model
from tests.endpoint.local import PREFIX, REGION, ROLE, Local, behaving
from tests.harness.waiting import wait_until

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/an-image:latest"
KMS_KEY = f"arn:aws:kms:{REGION}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture(scope="module")
def shared() -> Iterator[Local]:
    """One local endpoint with a model, ``served``, for tests that use names of their own."""
    with Local(health_interval_s=0.2) as running:
        running.upload("models/only.tar.gz", behaving())
        running.create_model("served")
        yield running


CONTAINER: dict[str, Any] = {
    "ContainerHostname": "first",
    "Image": IMAGE,
    "ImageConfig": {
        "RepositoryAccessMode": "Vpc",
        "RepositoryAuthConfig": {
            "RepositoryCredentialsProviderArn": "arn:aws:lambda:us-east-1:123456789012:function:f"
        },
    },
    "Mode": "MultiModel",
    "ModelDataUrl": PREFIX,
    "Environment": {"WHO": "first", "EMPTY": ""},
    "InferenceSpecificationName": "specification",
    "MultiModelConfig": {"ModelCacheSetting": "Disabled"},
    "ContainerMetricsConfig": {
        "MetricsEndpoints": [{"MetricsEndpointPath": "/metrics", "MetricPublishFrequencyInSeconds": 60}]
    },
}
VPC = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1", "subnet-2"]}
TAGS = [{"Key": "team", "Value": "tests"}, {"Key": "empty", "Value": ""}]
MODEL: dict[str, Any] = {
    "PrimaryContainer": CONTAINER,
    "ExecutionRoleArn": ROLE,
    "Tags": TAGS,
    "VpcConfig": VPC,
    "EnableNetworkIsolation": True,
}
PIPELINE: dict[str, Any] = {
    "Containers": [
        CONTAINER,
        {"ContainerHostname": "second", "Image": IMAGE, "Mode": "SingleModel", "ModelDataUrl": f"{PREFIX}only.tar.gz"},
    ],
    "InferenceExecutionConfig": {"Mode": "Direct"},
    "ExecutionRoleArn": ROLE,
    "EnableNetworkIsolation": False,
}
VARIANT: dict[str, Any] = {
    "VariantName": "first",
    "ModelName": "served",
    "InitialInstanceCount": 2,
    "InstanceType": "ml.m5.large",
    "VariantInstanceProvisionTimeoutInSeconds": 600,
    "InitialVariantWeight": 0.1,
    "AcceleratorType": "ml.eia2.medium",
    "CoreDumpConfig": {"DestinationS3Uri": "s3://b/cores", "KmsKeyId": KMS_KEY},
    "VolumeSizeInGB": 20,
    "ModelDataDownloadTimeoutInSeconds": 120,
    "ContainerStartupHealthCheckTimeoutInSeconds": 60,
    "EnableSSMAccess": False,
    "ManagedInstanceScaling": {
        "Status": "ENABLED",
        "MinInstanceCount": 1,
        "MaxInstanceCount": 3,
        "ScaleInPolicy": {"Strategy": "IDLE_RELEASE", "MaximumStepSize": 1, "CooldownInMinutes": 5},
    },
    "RoutingConfig": {
        "RoutingStrategy": "PREFIX_AWARE",
        "PrefixAwareRoutingConfig": {"PrefixLength": 1024, "ConcurrencyThreshold": 1},
    },
    "InferenceAmiVersion": "al2-ami-sagemaker-inference-gpu-2",
    "CapacityReservationConfig": {
        "CapacityReservationPreference": "capacity-reservations-only",
        "MlReservationArn": f"arn:aws:sagemaker:{REGION}:123456789012:training-plan/plan",
    },
    "AcceleratorPartitionLayouts": [{"AcceleratorPartitionTypes": ["mig-1g.5gb"]}],
}
EXPLAINER: dict[str, Any] = {
    "EnableExplanations": "`true`",
    "InferenceConfig": {
        "FeaturesAttribute": "features",
        "ContentTemplate": "{}",
        "MaxRecordCount": 1,
        "MaxPayloadInMB": 1,
        "ProbabilityIndex": 0,
        "LabelIndex": 0,
        "ProbabilityAttribute": "p",
        "LabelAttribute": "l",
        "LabelHeaders": ["l"],
        "FeatureHeaders": ["f"],
        "FeatureTypes": ["numerical"],
    },
    "ShapConfig": {
        "ShapBaselineConfig": {"MimeType": "text/csv", "ShapBaseline": "1", "ShapBaselineUri": "s3://b/baseline"},
        "NumberOfSamples": 1,
        "UseLogit": False,
        "Seed": 0,
        "TextConfig": {"Language": "en", "Granularity": "token"},
    },
}
CONFIG: dict[str, Any] = {
    "ProductionVariants": [
        VARIANT,
        {  # with the weight 0, which is a value like others
            "VariantName": "second",
            "ModelName": "served",
            "InitialInstanceCount": 1,
            "InstanceType": "ml.m5.large",
            "InitialVariantWeight": 0,
            "EnableSSMAccess": True,
        },
    ],
    "DataCaptureConfig": {
        "EnableCapture": False,
        "InitialSamplingPercentage": 0,
        "DestinationS3Uri": "s3://b/captured",
        "KmsKeyId": KMS_KEY,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
    },
    "Tags": TAGS,
    "KmsKeyId": KMS_KEY,
    "ExplainerConfig": {"ClarifyExplainerConfig": EXPLAINER},
    "ExecutionRoleArn": ROLE,
    "VpcConfig": VPC,
    "EnableNetworkIsolation": True,
    "MetricsConfig": {
        "EnableEnhancedMetrics": True,
        "EnableDetailedObservability": False,
        "MetricPublishFrequencyInSeconds": 60,
    },
    "CrossRegionTrafficConfig": {
        "MaxInvocationsPerSecondPerInstance": 1,
        "MaxCrossRegionPercentPerEndpoint": 1,
    },
}
BLUE_GREEN: dict[str, Any] = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "WaitIntervalInSeconds": 0,
            "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1},
            "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 50},
        },
        "TerminationWaitInSeconds": 0,
        "MaximumExecutionTimeoutInSeconds": 600,
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]},
}
ROLLING: dict[str, Any] = {
    "RollingUpdatePolicy": {
        "MaximumBatchSize": {"Type": "INSTANCE_COUNT", "Value": 1},
        "WaitIntervalInSeconds": 0,
        "MaximumExecutionTimeoutInSeconds": 600,
        "RollbackMaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 50},
    }
}
S3_SOURCE = {"S3DataSource": {"S3Uri": PREFIX, "S3DataType": "S3Prefix", "CompressionType": "None"}}
# What is refused, by the member of a container, a variant or a configuration.
REFUSED_CONTAINER: dict[str, Any] = {
    "ModelDataSource": S3_SOURCE,
    "AdditionalModelDataSources": [{"ChannelName": "more", **S3_SOURCE}],
    "ModelPackageName": f"arn:aws:sagemaker:{REGION}:123456789012:model-package/a/1",
}
REFUSED_VARIANT: dict[str, Any] = {
    "ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1},
    "InstancePools": [{"InstanceType": "ml.m5.large", "Priority": 1}],
}
REFUSED_CONFIG: dict[str, Any] = {
    "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/o"}},
    "ShadowProductionVariants": [{**VARIANT, "VariantName": "shadow"}],
}


def leaves(value: Any, where: str = "") -> set[str]:
    """``ProductionVariants.RoutingConfig.RoutingStrategy`` and so on, of all that a request has."""
    if isinstance(value, dict) and not where.endswith("Environment"):
        return {leaf for name, each in value.items() for leaf in leaves(each, f"{where}.{name}".lstrip("."))}
    if isinstance(value, list):
        return {leaf for each in value for leaf in leaves(each, where)}
    return {where}


def leaves_of_shape(shape: Any, where: str = "") -> set[str]:
    """The same of all that a request may have."""
    if shape.type_name == "structure":
        members = shape.members.items()
        return {leaf for name, each in members for leaf in leaves_of_shape(each, f"{where}.{name}".lstrip("."))}
    return leaves_of_shape(shape.member, where) if shape.type_name == "list" else {where}


def possible(operation: str) -> set[str]:
    return leaves_of_shape(service_model("sagemaker").operation_model(operation).input_shape)


# By operation: what the tests below send, and what they show to be refused.
SENT: dict[str, Any] = {
    "CreateModel": [MODEL, PIPELINE],
    "CreateEndpointConfig": [CONFIG],
    "CreateEndpoint": [{"DeploymentConfig": [BLUE_GREEN, ROLLING], "Tags": TAGS}],
}
REFUSED: dict[str, set[str]] = {
    "CreateModel": {f"{place}.{each}" for place in ("PrimaryContainer", "Containers") for each in REFUSED_CONTAINER},
    "CreateEndpointConfig": {*REFUSED_CONFIG, *(f"ProductionVariants.{each}" for each in REFUSED_VARIANT)},
    "CreateEndpoint": set(),
}
NAMES = {"ModelName", "EndpointConfigName", "EndpointName"}


@pytest.mark.parametrize("operation", SENT)
def test_every_member_of_a_request_is_sent_or_refused_below(operation: str) -> None:
    others = possible(operation) - leaves(SENT[operation]) - NAMES
    assert not {each for each in others if not each.startswith(tuple(REFUSED[operation]))}


@pytest.mark.parametrize("request_", [MODEL, PIPELINE], ids=["one container", "several"])
def test_a_model_is_read_as_it_was_sent(shared: Local, request_: dict[str, Any]) -> None:
    name = "Model-Of-One" if "PrimaryContainer" in request_ else "Model-Of-Several"
    arn = shared.sagemaker.create_model(ModelName=name, **request_)["ModelArn"]
    assert_read(shared.sagemaker.describe_model(ModelName=name), request_)
    assert shared.sagemaker.list_tags(ResourceArn=arn)["Tags"] == request_.get("Tags", [])


def test_a_configuration_is_read_as_it_was_sent(shared: Local) -> None:
    arn = shared.sagemaker.create_endpoint_config(EndpointConfigName="Whole", **CONFIG)["EndpointConfigArn"]
    assert_read(shared.sagemaker.describe_endpoint_config(EndpointConfigName="Whole"), CONFIG)
    assert shared.sagemaker.list_tags(ResourceArn=arn)["Tags"] == TAGS


def assert_read(described: dict[str, Any], sent: dict[str, Any]) -> None:
    """All that was sent, and of what the provider does not compute itself nothing else."""
    assert {name: described.get(name) for name in sent if name != "Tags"} == {
        name: value for name, value in sent.items() if name != "Tags"
    }
    added = {name for name in set(described) - set(sent) if name not in ("CreationTime", "ResponseMetadata")}
    assert added in ({"ModelName", "ModelArn"}, {"EndpointConfigName", "EndpointConfigArn"})


def test_a_deployment_configuration_is_read_as_it_was_sent_and_deletions_end_as_expected(shared: Local) -> None:
    client = shared.sagemaker
    shared.create_config("Served", "served")
    arn = client.create_endpoint(
        EndpointName="Served", EndpointConfigName="Served", DeploymentConfig=BLUE_GREEN, Tags=TAGS
    )["EndpointArn"]
    described = shared.wait("Served", "InService")
    assert (described["EndpointName"], described["EndpointConfigName"]) == ("Served", "Served")
    assert described["LastDeploymentConfig"] == BLUE_GREEN
    assert client.list_tags(ResourceArn=arn)["Tags"] == TAGS
    client.update_endpoint(EndpointName="Served", EndpointConfigName="Served", DeploymentConfig=ROLLING)
    assert shared.wait("Served", "InService")["LastDeploymentConfig"] == ROLLING

    # The provider knows by these texts and this code that something is gone.
    client.delete_endpoint(EndpointName="Served")
    wait_until(lambda: shared.is_gone("Served"), "the endpoint is not gone")
    client.delete_endpoint_config(EndpointConfigName="Served")
    for call, arguments, text in (
        (client.describe_endpoint, {"EndpointName": "Served"}, "Could not find endpoint"),
        (client.delete_endpoint_config, {"EndpointConfigName": "Served"}, "Could not find endpoint configuration"),
        (client.describe_endpoint_config, {"EndpointConfigName": "Served"}, "Could not find endpoint configuration"),
        (client.delete_model, {"ModelName": "nobody"}, "Could not find model"),
    ):
        assert refusal(call, **arguments).startswith(text)


@pytest.mark.parametrize("member", [*REFUSED_CONTAINER, *REFUSED_VARIANT, *REFUSED_CONFIG])
def test_what_would_not_be_acted_upon_is_refused_by_its_name(shared: Local, member: str) -> None:
    create_config = shared.sagemaker.create_endpoint_config
    if member in REFUSED_CONTAINER:
        container = {"Image": IMAGE, member: REFUSED_CONTAINER[member]}
        text = refusal(
            shared.sagemaker.create_model, ModelName="refused", ExecutionRoleArn=ROLE, PrimaryContainer=container
        )
    elif member in REFUSED_VARIANT:
        variant = {"VariantName": "v", "ModelName": "served", member: REFUSED_VARIANT[member]}
        text = refusal(create_config, EndpointConfigName="refused", ProductionVariants=[variant])
    else:
        text = refusal(
            create_config,
            EndpointConfigName="refused",
            ProductionVariants=[VARIANT],
            **{member: REFUSED_CONFIG[member]},
        )
    assert member.removesuffix("Config") in text


def refusal(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    return str(caught.value.response["Error"]["Message"])
