"""What the local endpoint adds to a warm invocation: through its front, against calling the same container directly.

The local endpoint runs as users run it (./scripts/local_endpoint), one endpoint with one instance on it. The model
multiplies four numbers, so that next to nothing is computed. Both ways take turns in blocks, each on one keep-alive
connection; boto3 is measured too, for what a client's own library adds.

With --auth a user invokes whom a policy allows this model only. Requests are signed before they are measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from benchmarks import models, options
from benchmarks.connection import Connection
from benchmarks.options import Options
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers.endpoint import client, container_port, deploy, invoker, local_endpoint, pack, role
from benchmarks.summary import Summary

MODEL = models.multiplier(2)
TARGET = "model.tar.gz"
BODY = b"[[1, 2, 3, 4]]"
TYPE = "application/json"
NAME = "overhead"
WARM_UP_INVOCATIONS = 50
WANTED_OVERHEAD_MS = 1.5
WANTED_OVERHEAD_WITH_AUTH_MS = 2.5
DIRECT, FRONT, BOTO3 = "container directly", "through the front", "through the front, by boto3"
# What performs so many invocations in a row and returns the seconds of each.
Block = Callable[[int], list[float]]


@dataclass(frozen=True)
class OverheadOptions(Options):
    """How many blocks of each way, and how many invocations in a block."""

    rounds: int = 20
    block: int = 100
    auth: bool = False

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> OverheadOptions:
        """The command line after the scenario's name."""
        parser = options.parser("endpoint_overhead", __doc__)
        parser.add_argument("--rounds", type=options.positive, help="blocks of each (default 20, quick 5)")
        parser.add_argument(
            "--block", type=options.positive, default=cls.block, help="invocations per block (default 100)"
        )
        parser.add_argument("--auth", action="store_true", help="the local endpoint checks signatures and policies")
        given = parser.parse_args(arguments)
        rounds = given.rounds or (5 if given.quick else cls.rounds)
        return cls(**options.common(given), rounds=rounds, block=given.block, auth=given.auth)


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = OverheadOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: OverheadOptions) -> Result:
    """The three ways in turn."""
    result = Result("endpoint_overhead", {**chosen.recorded(), "model": MODEL})
    folder = models.ensure([MODEL])[MODEL]
    progress("starting the local endpoint")
    with local_endpoint(chosen.auth) as (url, process):
        if chosen.auth:
            role(url)
        runtime = deploy(url, NAME, {TARGET: pack(folder)})
        key = ("local", "local")
        if chosen.auth:
            key = invoker(url, NAME, TARGET)
            runtime = client(url, "sagemaker-runtime", *key)
        with Connection(port_of(url)) as front, Connection(container_port(process)) as container:
            samples = take_turns(blocks(front, container, runtime, signed(*key)), chosen)
    report(samples, result, WANTED_OVERHEAD_WITH_AUTH_MS if chosen.auth else WANTED_OVERHEAD_MS)
    return result


def port_of(url: str) -> int:
    """The port in an address."""
    return int(url.rpartition(":")[2])


def signed(access_key: str, secret: str) -> dict[str, str]:
    """The headers of an invocation, signed by this key for the next 15 minutes. ``Connection`` names no port."""
    headers = {"Content-Type": TYPE, "X-Amzn-SageMaker-Target-Model": TARGET}
    request = AWSRequest("POST", f"http://127.0.0.1/endpoints/{NAME}/invocations", headers, BODY)
    SigV4Auth(Credentials(access_key, secret), "sagemaker", "us-east-1").add_auth(request)
    return dict(request.headers)


def blocks(front: Connection, container: Connection, runtime: Any, headers: dict[str, str]) -> dict[str, Block]:
    """The three ways to the same model, which is loaded by the first of them."""

    def through_the_front(count: int) -> list[float]:
        path = f"/endpoints/{NAME}/invocations"
        return [
            front.request("POST", path, BODY, headers).must_be_ok("through the front").elapsed_s for _ in range(count)
        ]

    through_the_front(1)
    listed = container.request("GET", "/models").must_be_ok("listing models")
    name = re.findall(rb'"modelName": *"(\w+)"', listed.body)[0].decode()

    def directly(count: int) -> list[float]:
        return [container.invoke(name, BODY, TYPE).must_be_ok("directly").elapsed_s for _ in range(count)]

    def by_boto3(count: int) -> list[float]:
        times_s = []
        for _ in range(count):
            started_s = time.perf_counter()
            answer = runtime.invoke_endpoint(EndpointName=NAME, TargetModel=TARGET, ContentType=TYPE, Body=BODY)
            answer["Body"].read()
            times_s.append(time.perf_counter() - started_s)
        return times_s

    return {DIRECT: directly, FRONT: through_the_front, BOTO3: by_boto3}


def take_turns(ways: dict[str, Block], chosen: OverheadOptions) -> dict[str, list[float]]:
    """All samples of each way, in seconds."""
    samples: dict[str, list[float]] = {way: [] for way in ways}
    for invoke in ways.values():
        invoke(WARM_UP_INVOCATIONS)
    for number in range(chosen.rounds):
        progress(f"round {number + 1} of {chosen.rounds}")
        for way, invoke in ways.items():
            samples[way] += invoke(chosen.block)
    return samples


def report(samples: dict[str, list[float]], result: Result, wanted_ms: float) -> None:
    """Fills the table and the target in."""
    summaries = {way: Summary.of(times_s) for way, times_s in samples.items()}
    direct = summaries[DIRECT]
    result.headers = ["warm invocation, ms", "p50", "p95", "p99", "added at p50"]
    for way, its in summaries.items():
        added = "" if way == DIRECT else milliseconds(its.p50 - direct.p50)
        result.table.append([way, milliseconds(its.p50), milliseconds(its.p95), milliseconds(its.p99), added])
        result.rows.append({"way": way, "count": its.count, "p50_s": its.p50, "p95_s": its.p95, "p99_s": its.p99})
    overhead_ms = (summaries[FRONT].p50 - direct.p50) * 1000
    result.targets = [Target("added by the local endpoint at p50", overhead_ms, "≤", wanted_ms, "ms")]
