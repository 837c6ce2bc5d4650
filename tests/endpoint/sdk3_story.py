"""What a user of the SageMaker Python SDK 3.x does with a multi-model endpoint; run in that SDK's own environment.

usage: sdk3_story.py ROLE BUCKET FOLDER_OF_ARCHIVES      (AWS_ENDPOINT_URL and credentials in the environment)

Version 3 has no MultiDataModel: its classes for models, configurations and endpoints are those of the API.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import boto3
from botocore.exceptions import ClientError
from sagemaker.core.deserializers import JSONDeserializer  # type: ignore[import-not-found]
from sagemaker.core.resources import Endpoint, EndpointConfig, Model  # type: ignore[import-not-found]
from sagemaker.core.serializers import JSONSerializer  # type: ignore[import-not-found]
from sagemaker.core.shapes import (  # type: ignore[import-not-found]
    ContainerDefinition,
    InferenceExecutionConfig,
    ProductionVariant,
)

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/an-image:latest"
NAME = "sdk3"


def variant(instances: int, model_name: str = NAME) -> ProductionVariant:
    return ProductionVariant(
        variant_name="AllTraffic",
        model_name=model_name,
        initial_instance_count=instances,
        instance_type="ml.m5.xlarge",
    )


def main(role: str, bucket: str, folder: Path) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket=bucket)
    for name in ("one", "two"):
        s3.upload_file(str(folder / f"{name}.tar.gz"), bucket, f"models/{name}.tar.gz")
    container = ContainerDefinition(image=IMAGE, mode="MultiModel", model_data_url=f"s3://{bucket}/models/")
    model = Model.create(model_name=NAME, primary_container=container, execution_role_arn=role)
    assert model.primary_container.model_data_url == f"s3://{bucket}/models/", model
    configs = [
        EndpointConfig.create(endpoint_config_name=f"{NAME}-{instances}", production_variants=[variant(instances)])
        for instances in (1, 2)
    ]

    endpoint = Endpoint.create(endpoint_name=NAME, endpoint_config_name=configs[0])
    endpoint.wait_for_status("InService", poll=1, timeout=60)
    answer = endpoint.invoke(body="[[1]]", content_type="application/json", target_model="one.tar.gz")
    assert json.loads(answer.body.read()) == {"predictions": [[1, 2, 3, 4]]}, answer
    assert answer.invoked_production_variant == "AllTraffic", answer
    endpoint.serializer, endpoint.deserializer = JSONSerializer(), JSONDeserializer()
    answer = endpoint.invoke(body=[[1]], content_type="application/json", target_model="two.tar.gz")
    assert answer.body == {"predictions": [[2, 4, 6, 8]]}, answer
    try:
        endpoint.invoke(body=[[1]], content_type="application/json", target_model="missing.tar.gz")
    except ClientError as error:
        assert error.response["Error"]["Code"] == "ValidationError", error
        assert "Failed to download model data" in str(error)
    else:
        raise AssertionError("a missing model answered")

    endpoint.endpoint_config_name = configs[1].endpoint_config_name
    endpoint.update()
    assert endpoint.endpoint_status == "Updating", endpoint.endpoint_status
    endpoint.wait_for_status("InService", poll=1, timeout=60)
    assert endpoint.endpoint_config_name == f"{NAME}-2", endpoint
    assert endpoint.production_variants[0].current_instance_count == 2, endpoint
    answer = endpoint.invoke(body=[[1]], content_type="application/json", target_model="one.tar.gz")
    assert answer.body == {"predictions": [[1, 2, 3, 4]]}, answer

    assert [each.endpoint_name for each in Endpoint.get_all(name_contains=NAME)] == [NAME]
    endpoint.delete()
    endpoint.wait_for_delete(poll=1, timeout=60)
    for each in (*configs, model):
        each.delete()
    direct(role, f"s3://{bucket}/models/one.tar.gz")
    print("the story is told")


def direct(role: str, url: str) -> None:
    """Two containers of one endpoint, of which a request names one."""
    name = f"{NAME}-direct"
    containers = [
        ContainerDefinition(container_hostname="first", image=IMAGE),
        ContainerDefinition(container_hostname="second", image=IMAGE, model_data_url=url),
    ]
    mode = InferenceExecutionConfig(mode="Direct")
    model = Model.create(
        model_name=name, containers=containers, inference_execution_config=mode, execution_role_arn=role
    )
    config = EndpointConfig.create(endpoint_config_name=name, production_variants=[variant(1, name)])
    endpoint = Endpoint.create(endpoint_name=name, endpoint_config_name=config)
    endpoint.wait_for_status("InService", poll=1, timeout=60)
    request = {"body": "[[1]]", "content_type": "application/json"}
    answer = endpoint.invoke(**request, target_container_hostname="second")
    assert json.loads(answer.body.read()) == {"predictions": [[1, 2, 3, 4]]}, answer
    answer = endpoint.invoke(**request, target_container_hostname="first")
    assert json.loads(answer.body.read())["path"] == "/invocations", answer
    try:
        endpoint.invoke(**request, target_container_hostname="third")
    except ClientError as error:
        assert "Container third not found for endpoint sdk3-direct of account" in str(error)
    else:
        raise AssertionError("a container that is not there answered")
    endpoint.delete()
    endpoint.wait_for_delete(poll=1, timeout=60)
    for each in (config, model):
        each.delete()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
