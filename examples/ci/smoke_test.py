"""A test as a project of your own may have it: deploys a multi-model endpoint, invokes two models, and cleans up.

It knows no address: AWS_ENDPOINT_URL, a region and a key are in the environment. So it runs against AWS, too, with an
image, a role and a bucket of yours.
"""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from typing import Any

import boto3
from botocore.config import Config

ROLE = "arn:aws:iam::123456789012:role/any"
SCRIPT = """\
import json, pathlib

def model_fn(model_dir):
    return json.loads((pathlib.Path(model_dir) / "factor.json").read_text())

def input_fn(body, content_type):
    return json.loads(body)

def predict_fn(numbers, factor):
    return [factor * number for number in numbers]

def output_fn(numbers, accept):
    return json.dumps(numbers), "application/json"
"""


def archive(factor: int) -> bytes:
    """A model that multiplies: a tar.gz of its data and its inference.py."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in (("factor.json", json.dumps(factor)), ("code/inference.py", SCRIPT)):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def clean_up(sagemaker: Any, s3: Any, name: str) -> None:
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1})
    sagemaker.delete_endpoint_config(EndpointConfigName=name)
    sagemaker.delete_model(ModelName=name)
    for each in s3.list_objects_v2(Bucket=name)["Contents"]:
        s3.delete_object(Bucket=name, Key=each["Key"])
    s3.delete_bucket(Bucket=name)


def test_two_models_of_one_endpoint() -> None:
    name = f"smoke-test-{uuid.uuid4().hex[:8]}"
    s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
    # an answer may take 60 s
    runtime = boto3.client("sagemaker-runtime", config=Config(read_timeout=70))
    s3.create_bucket(Bucket=name)
    for factor in (2, 3):
        s3.put_object(Bucket=name, Key=f"models/times-{factor}.tar.gz", Body=archive(factor))
    container = {"Image": "any-name", "Mode": "MultiModel", "ModelDataUrl": f"s3://{name}/models/"}
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": name, "InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 240})
    for factor in (2, 3):
        answer = runtime.invoke_endpoint(
            EndpointName=name, TargetModel=f"times-{factor}.tar.gz", ContentType="application/json", Body="[1, 20]"
        )
        assert json.loads(answer["Body"].read()) == [factor, 20 * factor]
    clean_up(sagemaker, s3, name)


if __name__ == "__main__":
    test_two_models_of_one_endpoint()
    print("two models of one endpoint have answered")
