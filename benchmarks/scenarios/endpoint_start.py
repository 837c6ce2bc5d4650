"""How long until an endpoint of two instances is in service on the local endpoint, with MXNet preloaded and without.

The local endpoint runs as users run it (./scripts/local_endpoint); an instance is a process of this checkout's
container. Time is from CreateEndpoint to the first DescribeEndpoint that says InService; the two settings take turns.
Then a model is invoked for the first time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import models, options
from benchmarks.failure import BenchmarkError
from benchmarks.options import Options
from benchmarks.report import Result, Target, progress
from benchmarks.servers.endpoint import INSTANCE_TYPE, PREFIX, client, local_endpoint, pack

MODEL = models.multiplier(2)
BUCKET, TARGET = "start", "model.tar.gz"
PRELOADS = ("none", "mxnet")
INSTANCES = 2
TIMEOUT_S = 120.0
POLL_S = 0.05
WANTED_S = 3.0


@dataclass(frozen=True)
class StartOptions(Options):
    """How many starts with each setting."""

    rounds: int = 5

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> StartOptions:
        """The command line after the scenario's name."""
        parser = options.parser("endpoint_start", __doc__)
        parser.add_argument("--rounds", type=options.positive, help="starts with each setting (default 5, quick 2)")
        given = parser.parse_args(arguments)
        return cls(**options.common(given), rounds=given.rounds or (2 if given.quick else cls.rounds))


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = StartOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: StartOptions) -> Result:
    """All starts."""
    result = Result("endpoint_start", {**chosen.recorded(), "model": MODEL, "instances": INSTANCES})
    packed = pack(models.ensure([MODEL])[MODEL])
    taken_s: dict[str, list[tuple[float, float]]] = {preload: [] for preload in PRELOADS}
    with local_endpoint() as (url, _):
        s3, sagemaker, runtime = (client(url, service) for service in ("s3", "sagemaker", "sagemaker-runtime"))
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key=PREFIX + TARGET, Body=packed)
        for number in range(chosen.rounds):
            progress(f"round {number + 1} of {chosen.rounds}")
            for preload, found in taken_s.items():
                found.append(start_once(sagemaker, runtime, f"{preload}-{number}", preload))
    report(taken_s, result)
    return result


def start_once(sagemaker: Any, runtime: Any, name: str, preload: str) -> tuple[float, float]:
    """Seconds until it is in service, and of its first invocation. Raises ``BenchmarkError``."""
    container = {
        "Image": "mme",
        "Mode": "MultiModel",
        "ModelDataUrl": f"s3://{BUCKET}/{PREFIX}",
        "Environment": {"MME_PRELOAD": preload},
    }
    role = "arn:aws:iam::123456789012:role/benchmark"
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=role, PrimaryContainer=container)
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": name,
        "InitialInstanceCount": INSTANCES,
        "InstanceType": INSTANCE_TYPE,
    }
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    started_s = time.perf_counter()
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    while (described := sagemaker.describe_endpoint(EndpointName=name))["EndpointStatus"] == "Creating":
        if time.perf_counter() - started_s > TIMEOUT_S:
            raise BenchmarkError(f"the endpoint is not in service after {TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    up_s = time.perf_counter() - started_s
    if described["EndpointStatus"] != "InService":
        raise BenchmarkError(f"the endpoint failed: {described.get('FailureReason')}")
    started_s = time.perf_counter()
    runtime.invoke_endpoint(
        EndpointName=name, TargetModel=TARGET, ContentType="application/json", Body=b"[[1, 2, 3, 4]]"
    )["Body"].read()
    first_s = time.perf_counter() - started_s
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    return up_s, first_s


def report(taken_s: dict[str, list[tuple[float, float]]], result: Result) -> None:
    """Fills the table and the targets in."""
    result.headers = ["MME_PRELOAD", "in service, s", "lowest", "highest", "first invocation, s"]
    for preload, found in taken_s.items():
        up_s = [each for each, _ in found]
        first_s = [each for _, each in found]
        cells = (median(up_s), min(up_s), max(up_s), median(first_s))
        result.table.append([preload, *(f"{each:.2f}" for each in cells)])
        result.rows.append({"preload": preload, "up_s": up_s, "first_invocation_s": first_s})
        result.targets.append(Target(f"in service, MME_PRELOAD={preload}", median(up_s), "≤", WANTED_S, "s"))
