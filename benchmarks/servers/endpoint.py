"""The local endpoint as users run it (./scripts/local_endpoint), with one endpoint of one instance on it."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psutil

from benchmarks.failure import BenchmarkError
from benchmarks.report import ROOT
from benchmarks.servers.base import python
from tests.harness.marked_process import MarkedProcess

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
PREFIX = "models/"
INSTANCE_TYPE = "ml.m5.large"
_UP = re.compile(r"is up on (http://\S+:\d+)")


@contextmanager
def local_endpoint() -> Iterator[tuple[str, psutil.Process]]:
    """The program, up and running: its address and its process. Raises ``BenchmarkError`` where it does not come up."""
    with tempfile.TemporaryDirectory(prefix="mb-") as folder:
        program = MarkedProcess(Path(folder) / "local_endpoint.log")
        program.spawn(python("-m", "scripts.programs.local_endpoint", "--port", "0"), cwd=ROOT)
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


def pack(folder: Path) -> bytes:
    """A tar.gz of a model's files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for path in folder.iterdir():
            archive.add(path, path.name)
    return packed.getvalue()


def deploy(url: str, name: str, archives: Mapping[str, bytes], environment: Mapping[str, str] | None = None) -> Any:
    """One endpoint with these archives (by target model) in its bucket; returns a boto3 client to invoke them."""

    def client(service: str) -> Any:
        keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
        return boto3.client(service, endpoint_url=url, **keys)

    s3, sagemaker = client("s3"), client("sagemaker")
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
    return client("sagemaker-runtime")


def container_port(program: psutil.Process) -> int:
    """The port that the endpoint's container was given."""
    for child in program.children():
        port = child.environ().get("SAGEMAKER_BIND_TO_PORT")
        if port:
            return int(port)
    raise BenchmarkError("the local endpoint has no container")
