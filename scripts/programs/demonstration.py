"""A multi-model endpoint from the first bucket to the last deletion, step by step, told on standard output.

Written as for AWS: plain boto3, which finds the local endpoint through AWS_ENDPOINT_URL. Only ``look_inside`` knows
more, for it talks to one instance's container directly, which nobody can on AWS.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import requests
from botocore.exceptions import ClientError, WaiterError

from scripts.programs import other_frameworks
from scripts.programs.aws import is_missing
from scripts.programs.call_statistics import CallStatistics
from scripts.programs.console import readable_size
from scripts.programs.container_api import ContainerApi
from scripts.programs.progress import steps_bar, waiting
from scripts.programs.samples import Model, Samples

NAME = "digits"  # of the endpoint, its configuration and its model
BUCKET = "digits-models"
PREFIX = "zoo/"
# The local endpoint takes any image and role; AWS wants those of your account.
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/demo-sagemaker-multimodel:latest"
ROLE = "arn:aws:iam::123456789012:role/quickstart"
INSTANCES = 2
INSTANCE_TYPE = "ml.m5.xlarge"
SHOWN_DIGIT = 7
TREES = f"{other_frameworks.XGBOOST}.tar.gz"  # takes pixels as CSV, and answers a score for each digit
RANDOM_CALLS = 100
LISTED = 3  # so many models of a longer list are shown
# A waiter of boto3 asks every 30 s, which suits AWS; a local endpoint is up in seconds.
WAITER = {"Delay": 1, "MaxAttempts": 300}


class Unexpected(Exception):
    """An answer that is not what it must be."""


class Instance(NamedTuple):
    """One instance of the endpoint, as the local endpoint knows it."""

    id: str
    container: ContainerApi


class Demonstration:
    """The steps, in their order. Each may raise ``Unexpected`` and what boto3 and requests raise."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._s3 = boto3.client("s3")
        self._sagemaker = boto3.client("sagemaker")
        self._runtime = boto3.client("sagemaker-runtime")
        self._uploaded: list[Model] = []
        self._step = 2  # what comes before is the caller's

    def show(self, instances: Callable[[], list[Instance]], opaque_name: Callable[[str], str]) -> None:
        """Everything but the clean-up. ``opaque_name`` of a target model is how the containers know it."""
        self.upload()
        self.deploy()
        self.invoke_each()
        self.add_ten()
        self.invoke_at_random()
        self.replace_one()
        self.look_inside(instances(), opaque_name)

    def upload(self) -> None:
        """A bucket, and the first models in it."""
        self._heading("Upload them:  create_bucket, upload_file")
        self._s3.create_bucket(Bucket=BUCKET)
        for model in self._samples.first:
            self._upload(model)

    def deploy(self) -> None:
        """Model, endpoint configuration and endpoint. The waiter returns when it is in service."""
        self._heading("Deploy:  create_model (Mode=MultiModel), create_endpoint_config, create_endpoint")
        container = {
            "Image": IMAGE,
            "Mode": "MultiModel",
            "ModelDataUrl": f"s3://{BUCKET}/{PREFIX}",
            # what the models are of, so that the first load need not wait
            "Environment": {"MME_PRELOAD": "mxnet,onnx,xgboost"},
        }
        variant = {
            "VariantName": "AllTraffic",
            "ModelName": NAME,
            "InstanceType": INSTANCE_TYPE,
            "InitialInstanceCount": INSTANCES,
        }
        self._sagemaker.create_model(ModelName=NAME, ExecutionRoleArn=ROLE, PrimaryContainer=container)
        self._sagemaker.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
        self._sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
        started_s = time.monotonic()
        try:
            with waiting(f"endpoint {NAME}: Creating"):
                self._sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=NAME, WaiterConfig=WAITER)
        except WaiterError:
            described = self._sagemaker.describe_endpoint(EndpointName=NAME)
            reason = described.get("FailureReason", f"it is still {described['EndpointStatus']}")
            raise Unexpected(f"endpoint {NAME} does not come into service: {reason}") from None
        elapsed_s = time.monotonic() - started_s
        print(f"  endpoint {NAME}, {INSTANCES} instances: InService after {elapsed_s:.1f} s", flush=True)

    def invoke_each(self) -> None:
        """Four models of three frameworks behind one endpoint; the first call of each loads it."""
        self._heading(
            f"Invoke each with a picture of a {SHOWN_DIGIT} that training never saw:  invoke_endpoint(TargetModel=…)"
        )
        picture = self._samples.picture_of(SHOWN_DIGIT)
        for model in self._samples.first:
            _, first_ms = self._invoke(model, picture)
            best, second_ms = self._invoke(model, picture)
            how = f"{model.framework}, {'a row of CSV' if model.target == TREES else 'an image'}"
            took = f"first call {first_ms:.0f} ms (download, load, answer), second {second_ms:.0f} ms"
            print(f"  {model.target} ({how}): {took}")
            for line in best:
                print(f"    {line}")
        print(f"  the truth: {SHOWN_DIGIT}", flush=True)

    def add_ten(self) -> None:
        """More models: they need an upload and nothing else."""
        self._heading(f"Ten more models (small perceptrons), {NAME} untouched:  upload_file")
        for model in self._samples.more:
            self._upload(model, tell=False)
        first, last = self._samples.more[0], self._samples.more[-1]
        print(f"  {first.archive.name} … {last.archive.name} -> s3://{BUCKET}/{PREFIX}")
        accuracies = [model.accuracy for model in self._samples.more]
        print(f"  right on the held-out pictures: {min(accuracies):.0%} to {max(accuracies):.0%}", flush=True)

    def invoke_at_random(self) -> None:
        """Any of the models, any of the pictures; the answers are held against the truth."""
        models = [*self._samples.first, *self._samples.more]
        self._heading(
            f"{RANDOM_CALLS} invocations: any of the {len(models)} models, any of the {len(self._samples.pictures)} "
            "held-out pictures"
        )
        statistics = CallStatistics(model.target for model in models)
        with steps_bar("invoking", RANDOM_CALLS, "calls") as bar:
            for _ in range(RANDOM_CALLS):
                model, picture = random.choice(models), random.choice(self._samples.pictures)
                best, latency_ms = self._invoke(model, picture.file)
                statistics.add(model.target, f"class={picture.truth} " in best[0], latency_ms)
                bar.update()
        for line in statistics.table():
            print(f"  {line}")
        print("  The first call of a new model is its longest: download and load.", flush=True)

    def replace_one(self) -> None:
        """A new version under a new name: an object overwritten in place would not reach loaded models."""
        old, new = self._samples.first[0], self._samples.successor
        self._heading("Update a model:  upload_file of the new version under a new name")
        self._upload(new)
        for model, which in ((old, "as before"), (new, "the new one")):
            best, latency_ms = self._invoke(model, self._samples.picture_of(SHOWN_DIGIT))
            print(f"  {model.target:22} {which:11}  {best[0]}, in {latency_ms:.0f} ms", flush=True)

    def look_inside(self, instances: list[Instance], opaque_name: Callable[[str], str]) -> None:
        """The APIs that the endpoint calls on its containers, called here on one of them."""
        model = self._samples.first[0]
        name = opaque_name(model.target)
        instance, models = holder_of(name, instances)
        container = instance.container
        self._heading(f"The other side: the container of instance {instance.id}, {container.url}")
        print(f"  GET /models: {len(models)} loaded")
        targets = {opaque_name(each.target): each.target for each in self._uploaded}
        loaded = [each["modelName"] for each in models]
        for each in sorted(loaded, key=lambda each: each != name)[:LISTED]:
            print(f"    {each}  {targets[each]}")
        if len(loaded) > LISTED:
            print(f"    … and {len(loaded) - LISTED} more")
        expect(200, container.unload(name), f"unload {model.target}")
        print(f"  DELETE /models/{name}: {model.target} is gone")
        picture = self._samples.picture_of(SHOWN_DIGIT)
        answer = expect(404, container.invoke(name, picture.read_bytes(), {"Content-Type": "image/png"}), "invoke")
        print(f"  POST /models/{name}/invoke: 404 {answer.json()['message']}")
        _, latency_ms = self._invoke(model, picture)
        print(f"  The endpoint, asked for it again, loads it again: answered in {latency_ms:.0f} ms", flush=True)

    def clean_up(self) -> None:
        """Deletes everything that the steps made; what somebody deleted by hand meanwhile is no trouble."""
        self._heading("Clean up:  delete_endpoint, delete_endpoint_config, delete_model, delete_bucket")
        started_s = time.monotonic()
        with waiting(f"endpoint {NAME}: Deleting"):
            unless_missing(lambda: self._sagemaker.delete_endpoint(EndpointName=NAME))
            self._sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=NAME, WaiterConfig=WAITER)
        unless_missing(lambda: self._sagemaker.delete_endpoint_config(EndpointConfigName=NAME))
        unless_missing(lambda: self._sagemaker.delete_model(ModelName=NAME))
        unless_missing(self._delete_bucket)
        print(f"  all gone after {time.monotonic() - started_s:.1f} s", flush=True)

    def _delete_bucket(self) -> None:
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            objects = [{"Key": each["Key"]} for each in page.get("Contents", [])]
            if objects:
                self._s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})
        self._s3.delete_bucket(Bucket=BUCKET)

    def _heading(self, text: str) -> None:
        self._step += 1
        heading(self._step, text)

    def _upload(self, model: Model, tell: bool = True) -> None:
        key = PREFIX + model.archive.name
        self._s3.upload_file(str(model.archive), BUCKET, key)
        self._uploaded.append(model)
        if tell:
            size = readable_size(model.archive.stat().st_size)
            print(f"  {model.archive.name:22} -> s3://{BUCKET}/{key} ({size})", flush=True)

    def _invoke(self, model: Model, picture: Path) -> tuple[list[str], float]:
        """The five best, and the milliseconds until they were there."""
        is_trees = model.target == TREES
        body = other_frameworks.as_csv(picture) if is_trees else picture.read_bytes()
        content_type = other_frameworks.CSV if is_trees else "image/png"
        started_s = time.monotonic()
        answer = self._runtime.invoke_endpoint(
            EndpointName=NAME, TargetModel=model.target, ContentType=content_type, Body=body
        )
        best = json.loads(answer["Body"].read())
        elapsed_ms = (time.monotonic() - started_s) * 1000
        return other_frameworks.five_best(best[0]) if is_trees else best, elapsed_ms


def heading(number: int, text: str) -> None:
    """One step of the story begins."""
    print(f"\n{number}. {text}", flush=True)


def holder_of(name: str, instances: list[Instance]) -> tuple[Instance, list[dict[str, Any]]]:
    """The instance that has the model loaded, and all that it has. Raises ``Unexpected`` if none has it."""
    for instance in instances:
        models = instance.container.models()
        if name in [each["modelName"] for each in models]:
            return instance, models
    raise Unexpected(f"no container lists {name}, which was just invoked")


def expect(status: int, response: requests.Response, what: str) -> requests.Response:
    """``response``, where it has ``status``. Raises ``Unexpected`` otherwise."""
    if response.status_code != status:
        reason = " ".join(response.text.split())
        raise Unexpected(f"{what}: answered {response.status_code} instead of {status}, {reason}")
    return response


def unless_missing(delete: Callable[[], Any]) -> None:
    """Deletes; that there is nothing to delete is fine."""
    try:
        delete()
    except ClientError as error:
        if not is_missing(error) and error.response["Error"].get("Code") != "NoSuchBucket":
            raise
