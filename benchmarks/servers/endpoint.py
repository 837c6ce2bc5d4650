"""The local endpoint as users run it (./scripts/local_endpoint), with one endpoint of one instance on it."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config

from benchmarks.failure import BenchmarkError
from benchmarks.report import ROOT
from benchmarks.servers.base import python
from tests.harness.marked_process import MarkedProcess

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
PREFIX = "models/"
INSTANCE_TYPE = "ml.m5.large"
_UP = re.compile(r"is up on (http://\S+:\d+)")


# With --auth it is the root user's.
ACCESS_KEY, SECRET_KEY = "AKIALOCALBENCHMARK00", "local"


@contextmanager
def local_endpoint(
    auth: bool = False,
    more: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[tuple[str, psutil.Process]]:
    """The program, up and running: its address and its process. Raises ``BenchmarkError`` where it does not come up.

    ``more`` are further options of it; its output is copied to ``log`` at the end.
    """
    with tempfile.TemporaryDirectory(prefix="mb-") as folder:
        program = MarkedProcess(Path(folder) / "local_endpoint.log")
        checks = ["--auth", "--root-key", f"{ACCESS_KEY}:{SECRET_KEY}"] if auth else []
        program.spawn(
            python("-m", "scripts.programs.local_endpoint", "--port", "0", *checks, *more),
            environment=environment,
            cwd=ROOT,
        )
        assert program.process is not None
        try:
            program.wait_until_ready(lambda: _UP.search(program.log()) is not None, timeout_s=START_TIMEOUT_S)
            found = _UP.search(program.log())
            assert found is not None
            yield found[1], psutil.Process(program.process.pid)
        except AssertionError as error:
            raise BenchmarkError(f"the local endpoint did not come up: {error}") from None
        finally:
            program.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(STOP_TIMEOUT_S)
            program.kill()
            if log is not None:
                log.write_text(program.log())


def pack(folder: Path) -> bytes:
    """A tar.gz of a model's files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for path in folder.iterdir():
            archive.add(path, path.name)
    return packed.getvalue()


def client(
    url: str, service: str, access_key: str = ACCESS_KEY, secret: str = SECRET_KEY, config: Config | None = None
) -> Any:
    """A boto3 client."""
    keys = {"aws_access_key_id": access_key, "aws_secret_access_key": secret, "region_name": "us-east-1"}
    return boto3.client(service, endpoint_url=url, config=config, **keys)


def role(url: str) -> None:
    """Makes the role of ``deploy``'s models, which may read all objects."""
    iam = client(url, "iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    iam.create_role(RoleName="benchmark", AssumeRolePolicyDocument=policy(trust))
    read = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    iam.put_role_policy(RoleName="benchmark", PolicyName="read", PolicyDocument=policy(read))


def invoker(url: str, endpoint: str, target: str) -> tuple[str, str]:
    """Key and secret of a new user who may invoke this model of this endpoint only."""
    iam = client(url, "iam")
    iam.create_user(UserName="invoker")
    allow = {
        "Effect": "Allow",
        "Action": "sagemaker:InvokeEndpoint",
        "Resource": f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/{endpoint}",
        "Condition": {"StringLike": {"sagemaker:TargetModel": target}},
    }
    iam.put_user_policy(UserName="invoker", PolicyName="invoke", PolicyDocument=policy(allow))
    key = iam.create_access_key(UserName="invoker")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def policy(statement: dict[str, Any]) -> str:
    """A document of one statement."""
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def deploy(url: str, name: str, archives: Mapping[str, bytes], environment: Mapping[str, str] | None = None) -> Any:
    """One endpoint with these archives (by target model) in its bucket; returns a boto3 client to invoke them."""
    s3, sagemaker = client(url, "s3"), client(url, "sagemaker")
    s3.create_bucket(Bucket=name)
    for target, packed in archives.items():
        s3.put_object(Bucket=name, Key=PREFIX + target, Body=packed)
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn="arn:aws:iam::123456789012:role/benchmark",
        PrimaryContainer={
            "Image": name,
            "Mode": "MultiModel",
            "ModelDataUrl": f"s3://{name}/{PREFIX}",
            "Environment": dict(environment or {}),
        },
    )
    variant = {"VariantName": name, "ModelName": name, "InitialInstanceCount": 1, "InstanceType": INSTANCE_TYPE}
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": int(START_TIMEOUT_S)}
    )
    return client(url, "sagemaker-runtime")


def container_logs(url: str, name: str) -> str:
    """What the endpoint's containers have written, one after the other, each below its stream's name."""
    written: dict[str, list[str]] = {}
    pages = (
        client(url, "logs").get_paginator("filter_log_events").paginate(logGroupName=f"/aws/sagemaker/Endpoints/{name}")
    )
    for event in itertools.chain.from_iterable(page["events"] for page in pages):
        written.setdefault(event["logStreamName"], []).append(event["message"])
    return "".join(
        "".join(f"{line}\n" for line in (f"---- {stream} ----", *lines)) for stream, lines in written.items()
    )


def container_port(program: psutil.Process) -> int:
    """The port that the endpoint's container was given."""
    for child in program.children():
        port = child.environ().get("SAGEMAKER_BIND_TO_PORT")
        if port:
            return int(port)
    raise BenchmarkError("the local endpoint has no container")
