"""Where moto still finds something else in a request than was authorized, it does nothing."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from botocore.exceptions import ClientError

from local_endpoint.access import operations, s3_permissions
from tests.endpoint.access.conftest import Guarded


def test_operations_of_every_protocol_are_dispatched(guarded: Guarded) -> None:
    guarded.client("cloudwatch").put_metric_data(Namespace="n", MetricData=[{"MetricName": "m", "Value": 1.0}])
    names = [f"metric-{number}-{'x' * 100}" for number in range(200)]
    # SDKs compress what is large
    guarded.client("cloudwatch").put_metric_data(
        Namespace="n", MetricData=[{"MetricName": name, "Value": 1.0} for name in names]
    )
    assert guarded.client("cloudwatch").list_metrics(Namespace="n", MetricName="m")["Metrics"]
    guarded.client("logs").describe_log_groups()
    guarded.client("ecr").describe_repositories()
    guarded.client("sts").get_caller_identity()
    guarded.client("sqs").list_queues()
    guarded.client("sns").list_topics()
    guarded.client("lambda").list_functions()
    guarded.client("dynamodb").list_tables()
    guarded.client("secretsmanager").list_secrets()
    guarded.client("ec2").describe_instances()
    guarded.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
    guarded.sagemaker.list_notebook_instances()


def test_another_operation_is_not_run(guarded: Guarded) -> None:
    def wrong(*arguments: Any) -> operations.Named:
        return operations.Named("ListUsers", {}, b"")

    with (
        patch("local_endpoint.access.permissions.named_operation", wrong),
        pytest.raises(ClientError) as caught,
    ):
        guarded.iam.create_user(UserName="never")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert "never" not in [user["UserName"] for user in guarded.iam.list_users()["Users"]]


@pytest.mark.parametrize("found", [("test-models", "other"), ("other", "kept")])
def test_another_object_is_not_touched(guarded: Guarded, found: tuple[str, str]) -> None:
    guarded.s3.put_object(Bucket="test-models", Key="kept", Body=b"kept")
    with (
        patch.object(s3_permissions, "bucket_and_key", lambda *_: found),
        pytest.raises(ClientError) as caught,
    ):
        guarded.s3.delete_object(Bucket="test-models", Key="kept")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert guarded.s3.get_object(Bucket="test-models", Key="kept")["Body"].read() == b"kept"


@pytest.mark.parametrize(
    ("service", "operation", "needed"),
    [
        ("batch", "describe_compute_environments", {}),
        ("cloudfront", "list_distributions", {}),
        ("polly", "describe_voices", {}),
        ("synthetics", "describe_canaries", {}),
        ("xray", "get_trace_summaries", {"StartTime": 0, "EndTime": 1}),
    ],
)
def test_a_service_that_finds_operations_in_its_own_way_is_the_root_users(
    guarded: Guarded, service: str, operation: str, needed: dict[str, Any]
) -> None:
    """Nothing compares what was authorized with what moto is about to do."""
    user = guarded.user({"Effect": "Allow", "Action": "*", "Resource": "*"})
    with pytest.raises(ClientError, match="only the root user may") as caught:
        getattr(user.client(service), operation)(**needed)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    getattr(guarded.client(service), operation)(**needed)
