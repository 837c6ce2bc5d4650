"""What the examples share: an endpoint on this machine, and the few calls of boto3 that a story is made of.

Written as for AWS: boto3 finds the local endpoint through AWS_ENDPOINT_URL. Against AWS itself you would give your own
image, role and bucket, and leave out ``LocalEndpoint``.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import requests
from botocore.exceptions import BotoCoreError, ClientError

from local_endpoint.app import LocalEndpoint
from local_endpoint.configuration import Configuration
from scripts.programs.archives import entries, write_archive
from scripts.programs.console import Failure, any_port
from scripts.programs.progress import waiting
from scripts.programs.quickstart import lead_boto3_to, log_to
from scripts.programs.server_process import refuse_taken_port, stop_on_signals

HOST = "127.0.0.1"
PREFIX = "models/"
# The local endpoint takes any image and role; AWS wants those of your account.
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/demo-sagemaker-multimodel:latest"
ROLE = "arn:aws:iam::123456789012:role/example"
WAITER = {"Delay": 1, "MaxAttempts": 300}
LOG_TAIL_LINES = 25


class Answer(NamedTuple):
    """What an invocation brought back."""

    body: bytes
    content_type: str
    latency_ms: float


class Story:
    """An endpoint called ``name``, of one container with many models or of several, from its bucket to its deletion."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self.name = name
        self.url = url
        self.folder = folder  # for models and archives; it goes with the story
        self.bucket = f"{name}-models"
        self._s3 = boto3.client("s3")
        self._sagemaker = boto3.client("sagemaker")
        self._runtime = boto3.client("sagemaker-runtime")

    def make_bucket(self) -> None:
        """An empty bucket for the models."""
        self._s3.create_bucket(Bucket=self.bucket)

    def upload(self, model_dir: Path, target: str) -> None:
        """Packs the folder of a model and puts it where invocations name it ``target``."""
        members, _ = entries(model_dir)
        archive = self.folder / target.replace("/", "-")
        write_archive(members, archive)
        self._s3.upload_file(str(archive), self.bucket, PREFIX + target)

    def upload_file(self, archive: Path, target: str) -> None:
        """The same for an archive that is there already."""
        self._s3.upload_file(str(archive), self.bucket, PREFIX + target)

    def deploy(self, **environment: str) -> None:
        """One container with all models that are uploaded; returns when it is in service. Raises ``Failure``."""
        self._deploy(PrimaryContainer={**self.many_models(), "Environment": environment})

    def deploy_containers(self, mode: str, **containers: dict[str, Any]) -> None:
        """Several, by their hostnames; ``mode`` is Serial or Direct. Returns when they are in service."""
        members = [{"ContainerHostname": hostname, **its} for hostname, its in containers.items()]
        self._deploy(Containers=members, InferenceExecutionConfig={"Mode": mode})

    def many_models(self, below: str = "") -> dict[str, Any]:
        """The definition of a container with all models whose target begins so."""
        return {"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": f"s3://{self.bucket}/{PREFIX}{below}"}

    def one_model(self, target: str) -> dict[str, Any]:
        """The definition of a container with one model."""
        return {"Image": IMAGE, "ModelDataUrl": f"s3://{self.bucket}/{PREFIX}{target}"}

    def _deploy(self, **containers: Any) -> None:
        """Model, endpoint configuration and endpoint."""
        variant = {"VariantName": "AllTraffic", "ModelName": self.name, "InitialInstanceCount": 1}
        self._sagemaker.create_model(ModelName=self.name, ExecutionRoleArn=ROLE, **containers)
        self._sagemaker.create_endpoint_config(
            EndpointConfigName=self.name, ProductionVariants=[{**variant, "InstanceType": "ml.m5.xlarge"}]
        )
        self._sagemaker.create_endpoint(EndpointName=self.name, EndpointConfigName=self.name)
        started_s = time.monotonic()
        with waiting(f"endpoint {self.name}: Creating"):
            self._sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=self.name, WaiterConfig=WAITER)
        print(f"  endpoint {self.name}: InService after {time.monotonic() - started_s:.1f} s", flush=True)

    def invoke(
        self,
        target: str | None,
        body: bytes | str,
        content_type: str,
        accept: str | None = None,
        container: str | None = None,
    ) -> Answer:
        """One invocation: of one model, of one ``container`` by its hostname, or of a whole chain."""
        wanted = {"TargetModel": target, "TargetContainerHostname": container, "Accept": accept}
        optional = {name: value for name, value in wanted.items() if value is not None}
        started_s = time.monotonic()
        answer = self._runtime.invoke_endpoint(EndpointName=self.name, ContentType=content_type, Body=body, **optional)
        content = answer["Body"].read()
        return Answer(content, answer["ContentType"], (time.monotonic() - started_s) * 1000)

    def clean_up(self) -> None:
        """Deletes everything that the story made."""
        self._sagemaker.delete_endpoint(EndpointName=self.name)
        self._sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=self.name, WaiterConfig=WAITER)
        self._sagemaker.delete_endpoint_config(EndpointConfigName=self.name)
        self._sagemaker.delete_model(ModelName=self.name)
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            keys = [{"Key": each["Key"]} for each in page.get("Contents", [])]
            if keys:
                self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": keys})
        self._s3.delete_bucket(Bucket=self.bucket)
        print("\nCleaned up: endpoint, configuration, model and bucket are gone.", flush=True)


def parser(example: str, description: str) -> argparse.ArgumentParser:
    """The command line that all examples have."""
    made = argparse.ArgumentParser(prog=f"./examples/{example}/run", description=description)
    made.add_argument("--port", type=any_port, default=8080, help="port of the local endpoint (default 8080)")
    return made


def tell(name: str, port: int, story: Callable[[Story], None], **settings: Any) -> int:
    """Runs ``story`` on a local endpoint of its own and cleans up. Raises ``Failure`` with the log where it fails.

    ``settings`` are the local endpoint's: members of its ``Configuration``.
    """
    stop_on_signals()
    refuse_taken_port(HOST, port)
    with (
        tempfile.TemporaryDirectory(prefix=f"mme-{name}-") as folder,
        log_to(Path(folder, "endpoint.log")) as log,
        LocalEndpoint(Configuration(HOST, port, **settings)) as local,
    ):
        lead_boto3_to(local.url)
        with _explained(log):
            told = Story(name, local.url, Path(folder))
            told.make_bucket()
            story(told)
            told.clean_up()
    return 0


def heading(text: str) -> None:
    """The next step."""
    print(f"\n== {text}", flush=True)


def expect(is_so: bool, what: str) -> None:
    """Raises ``Failure`` where an answer is not what it must be: an example that is wrong must not look right."""
    if not is_so:
        raise Failure(f"this is not as it must be: {what}")


@contextlib.contextmanager
def _explained(log: Path) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError, requests.RequestException) as error:
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        raise Failure(f"{error}\nThe end of the log:\n" + "\n".join(f"  | {line}" for line in lines)) from None
