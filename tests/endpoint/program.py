"""The program ``local_endpoint`` as users run it, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config

from tests.endpoint.local import KEYS, PREFIX, ROLE
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Program:
    """The running program; its log goes to a file."""

    def __init__(self, folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> None:
        """``before`` is a command that is to start it."""
        self.log = folder / "program.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-P", "-m", "scripts.programs.local_endpoint", "--port", "0", *arguments],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        found = wait_until(lambda: re.search(r"is up on (http://\S+:\d+)", self.log.read_text()), self.log.read_text)
        assert found
        self.url = found[1]
        self.ps = psutil.Process(self.process.pid)

    def client(self, service: str, **config: Any) -> Any:
        return boto3.client(service, endpoint_url=self.url, config=Config(**config), **KEYS)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def deploy_real(program: Program, image: str = "an-image", instances: int = 2) -> list[psutil.Process]:
    """An endpoint of real containers; returns all processes below the program."""
    program.client("s3").create_bucket(Bucket="test-models")
    sagemaker = program.client("sagemaker")
    # no model is going to be loaded
    environment = {"MME_PRELOAD": "none"}
    container = {"Image": image, "Mode": "MultiModel", "ModelDataUrl": PREFIX, "Environment": environment}
    sagemaker.create_model(ModelName="m", ExecutionRoleArn=ROLE, PrimaryContainer=container)
    variant = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(
        EndpointConfigName="c", ProductionVariants=[{**variant, "InitialInstanceCount": instances}]
    )
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    wait_until(
        lambda: sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "InService",
        program.log.read_text,
        60,
    )
    return program.ps.children(recursive=True)
