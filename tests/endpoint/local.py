"""What tests of the local endpoint have in common: one that runs, with boto3 clients and the steps of a deployment."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config

from local_endpoint.app import LocalEndpoint
from local_endpoint.configuration import Configuration, Limits, RootKey
from local_endpoint.events import Event, ModelLoaded, ModelUnloaded
from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes import RunningContainer, Runtime, make_runtime
from local_endpoint.hosting.runtimes.process import ContainerProcess, ProcessRuntime
from tests.harness.waiting import wait_until

FAKE_CONTAINER = Path(__file__).with_name("fake_container.py")
POLL_S = 0.05  # to ask through boto3 costs both sides ten milliseconds of a processor
REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/tests"
BUCKET = "test-models"
PREFIX = f"s3://{BUCKET}/models/"
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}


def pack(files: dict[str, bytes | str]) -> bytes:
    """A tar.gz of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def pack_folder(folder: Path) -> bytes:
    """A tar.gz of a folder's files."""
    return pack({path.name: path.read_bytes() for path in sorted(folder.iterdir())})


def behaving(**behaviour: Any) -> bytes:
    """A model that makes the fake container behave so."""
    return pack({"behaviour.json": json.dumps(behaviour)})


def _fake_container(_: Configuration, janitor: Janitor) -> Runtime:
    return ProcessRuntime(janitor, [sys.executable, "-S", str(FAKE_CONTAINER)])  # -S: nothing of the environment


class Local:
    """A local endpoint in this process, from ``with`` to its end. Containers are fake containers unless ``real``."""

    def __init__(
        self,
        *,
        real: bool = False,
        runtime: str = "process",
        state_dir: Path | None = None,
        metric_period_s: float = 60.0,
        auth: bool = False,
        **limits: float,
    ) -> None:
        """With ``auth`` the clients' key is the root user's."""
        configuration = Configuration(
            port=0,
            runtime=runtime,
            state_dir=state_dir,
            metric_period_s=metric_period_s,
            limits=Limits(**limits),  # type: ignore[arg-type]
            root_key=RootKey(KEYS["aws_access_key_id"], KEYS["aws_secret_access_key"]) if auth else None,
        )
        self.app = LocalEndpoint(configuration, make_runtime if real else _fake_container)
        self.events: list[Event] = []
        self.app.events.subscribe(self.events.append)

    def __enter__(self) -> Local:
        self.app.start()
        self.s3 = self.client("s3")
        self.sagemaker = self.client("sagemaker")
        # a test wants to see the first answer
        self.runtime = self.client("sagemaker-runtime", retries={"total_max_attempts": 1}, max_pool_connections=64)
        if BUCKET not in [bucket["Name"] for bucket in self.s3.list_buckets()["Buckets"]]:
            self.s3.create_bucket(Bucket=BUCKET)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        self.app.stop()

    def clear(self) -> None:
        """Deletes all endpoints, configurations, models and objects."""
        endpoints = [each["EndpointName"] for each in self.sagemaker.list_endpoints(MaxResults=100)["Endpoints"]]
        for name in endpoints:
            wait_until(
                lambda name=name: self.describe(name)["EndpointStatus"] in ("InService", "Failed"),  # type: ignore[misc]
                f"{name} does not come to rest",
                poll_s=POLL_S,
            )
            self.sagemaker.delete_endpoint(EndpointName=name)
        wait_until(lambda: not self.sagemaker.list_endpoints()["Endpoints"], "endpoints are left", poll_s=POLL_S)
        for config in self.sagemaker.list_endpoint_configs(MaxResults=100)["EndpointConfigs"]:
            self.sagemaker.delete_endpoint_config(EndpointConfigName=config["EndpointConfigName"])
        for model in self.sagemaker.list_models(MaxResults=100)["Models"]:
            self.sagemaker.delete_model(ModelName=model["ModelName"])
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            keys = [{"Key": each["Key"]} for each in page.get("Contents", [])]
            if keys:
                self.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})

    @property
    def url(self) -> str:
        return self.app.url

    def client(self, service: str, region: str = REGION, **config: Any) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.app.url,
            config=Config(read_timeout=70, **config),
            **{**KEYS, "region_name": region},
        )

    def upload(self, key: str, data: bytes, bucket: str = BUCKET) -> None:
        self.s3.put_object(Bucket=bucket, Key=key, Body=data)

    def create_model(self, name: str, url: str | None = PREFIX, multi: bool = True, **container: Any) -> None:
        definition = {"Image": "an-image", "Mode": "MultiModel" if multi else "SingleModel", **container}
        if url is not None:
            definition["ModelDataUrl"] = url
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=definition)

    def create_config(self, name: str, model: str, instances: int = 1, **variant: Any) -> None:
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[
                {
                    "VariantName": "AllTraffic",
                    "ModelName": model,
                    "InitialInstanceCount": instances,
                    "InstanceType": "ml.m5.xlarge",
                    **variant,
                }
            ],
        )

    def deploy(
        self,
        name: str = "endpoint",
        *,
        instances: int = 1,
        wanted: str = "InService",
        variant: dict[str, Any] | None = None,
        **model: Any,
    ) -> dict[str, Any]:
        """Model, configuration and endpoint of one name; returns the description once its status is ``wanted``."""
        self.begin_to_deploy(name, instances=instances, variant=variant, **model)
        return self.wait(name, wanted)

    def begin_to_deploy(
        self, name: str, *, instances: int = 1, variant: dict[str, Any] | None = None, **model: Any
    ) -> None:
        """As ``deploy``, without waiting."""
        self.create_model(name, **model)
        self.create_config(name, name, instances, **(variant or {}))
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)

    def describe(self, name: str) -> dict[str, Any]:
        description: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=name)
        return description

    def wait(self, name: str, status: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The description, once it has come to rest with ``status``."""
        last: dict[str, Any] = {}

        def is_at_rest() -> bool:
            last.update(self.describe(name))
            return last["EndpointStatus"] in ("InService", "Failed")

        wait_until(is_at_rest, lambda: f"{name} is still {last}", timeout_s, POLL_S)
        final = self.describe(name)
        assert final["EndpointStatus"] == status, final.get("FailureReason")
        return final

    def invoke(self, target: str | None = None, body: bytes = b"{}", endpoint: str = "endpoint", **more: Any) -> Any:
        """The parsed answer."""
        return json.loads(self.invoke_raw(target, body, endpoint, **more)["Body"].read())

    def invoke_raw(
        self, target: str | None = None, body: bytes = b"{}", endpoint: str = "endpoint", **more: Any
    ) -> dict[str, Any]:
        arguments = {"ContentType": "application/json", **more}
        if target is not None:
            arguments["TargetModel"] = target
        answer: dict[str, Any] = self.runtime.invoke_endpoint(EndpointName=endpoint, Body=body, **arguments)
        return answer

    def post(self, headers: dict[str, str], body: bytes = b"{}", endpoint: str = "endpoint") -> requests.Response:
        """An invocation as it comes, unsigned: boto3 refuses or strips some headers itself."""
        encoded = {name: value.encode() for name, value in headers.items()}
        return requests.post(f"{self.url}/endpoints/{endpoint}/invocations", data=body, headers=encoded, timeout=30)

    def delete(self, name: str = "endpoint") -> None:
        """Deletes the endpoint and waits until it is gone."""
        self.sagemaker.delete_endpoint(EndpointName=name)
        wait_until(lambda: self.is_gone(name), f"{name} is not gone", 60, POLL_S)

    def is_gone(self, name: str) -> bool:
        return name not in [each["EndpointName"] for each in self.sagemaker.list_endpoints()["Endpoints"]]

    def loaded(self, instance: Instance) -> list[str]:
        """Targets of the models that are loaded on ``instance``, sorted: as its events tell."""
        found: set[str] = set()
        for event in list(self.events):
            if event.where.instance == instance.id and isinstance(event, ModelLoaded):
                found.add(event.target)
            elif event.where.instance == instance.id and isinstance(event, ModelUnloaded):
                found.discard(event.target)
        return sorted(found)

    def folder(self, instance: Instance) -> Path:
        """The instance's disk."""
        assert self.app.work_dir is not None
        return self.app.work_dir / instance.id

    def count(self, kind: type[Event], target: str) -> int:
        """How many events of this kind there have been of a model."""
        return sum(isinstance(event, kind) and event.target == target for event in list(self.events))

    def instances(self, name: str = "endpoint", variant: str = "AllTraffic") -> list[Instance]:
        deployment = self.app.endpoints.deployment(REGION, name)
        assert deployment is not None
        return deployment.fleets[variant].instances


def running(instance: Instance) -> RunningContainer:
    """The only container of an instance, as the runtime has it."""
    (container,) = instance.containers
    return container.running


def base_dir(instance: Instance) -> Path:
    """What is /opt/ml in the instance's only container, as this machine sees it (not with Docker)."""
    return Path(running(instance).base_dir)


def address(instance: Instance) -> str:
    """Where the instance's only container listens."""
    return f"http://{running(instance).host}:{running(instance).port}"


def on_disk(instance: Instance) -> list[str]:
    """Targets of the models whose artifacts are on the disk of a fake container's instance, sorted."""
    targets_by_name = {line["name"]: line["target"] for line in journal(instance, "load")}
    return sorted(targets_by_name.get(path.name, path.name) for path in (base_dir(instance) / "models").iterdir())


def journal(instance: Instance, call: str | None = None) -> list[dict[str, Any]]:
    """What a fake container was asked, in order."""
    file = base_dir(instance) / "journal.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if call is None or line["call"] == call]


def targets(lines: list[dict[str, Any]]) -> list[str]:
    """The target models of journal lines."""
    return [line["target"] for line in lines]


def refused(local: Local, kind: str, status: int, *arguments: Any, **named: Any) -> dict[str, Any]:
    """Invokes, and returns the error's response; the exception is of boto3's own class for it."""
    with pytest.raises(getattr(local.runtime.exceptions, kind)) as caught:
        local.invoke_raw(*arguments, **named)
    response: dict[str, Any] = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert response["Error"]["Code"] == kind
    return response


def message(response: dict[str, Any]) -> str:
    """The text of an error's response."""
    return str(response["Error"]["Message"])


def pids(local: Local, name: str = "endpoint") -> set[int]:
    """The processes of an endpoint's containers."""
    return {pid_of(instance) for instance in local.instances(name)}


def pid_of(instance: Instance) -> int:
    process = running(instance)
    assert isinstance(process, ContainerProcess)
    return process.pid
