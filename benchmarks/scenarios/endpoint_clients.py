"""64 clients on a prefix of 1,000 models of the local endpoint, metrics and logs on: nothing may be answered wrongly.

The local endpoint runs as users run it (./scripts/local_endpoint), with one instance: a real container, whose models
are of a few lines without a framework. Each client has a connection of its own and asks one model after the other at
random, each of which is loaded when it is first asked. In the end CloudWatch must have counted every call. Where
anything is wrong, the logs of the local endpoint and of its containers are kept beside the result.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import random
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import options
from benchmarks.connection import Connection
from benchmarks.failure import BenchmarkError
from benchmarks.options import Options
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.scenarios.endpoint_overhead import port_of
from benchmarks.servers.endpoint import client, container_logs, deploy, local_endpoint
from benchmarks.summary import Summary

NAME = "clients"
METRIC_PERIOD_S = 5
# How long CloudWatch has, after the last call, to have counted all.
COUNT_TIMEOUT_S = 6 * METRIC_PERIOD_S
POLL_S = 0.5
EXAMPLES = 5
HANDLER = """
import json

def handle(data, context):
    rows = [json.loads(item.get("body")) for item in data or []]
    return [[{number} + value for value in row] for row in rows]
"""


@dataclass(frozen=True)
class ClientsOptions(Options):
    """How many clients and models, and for how long."""

    clients: int = 64
    models: int = 1000
    seconds: int = 60

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> ClientsOptions:
        """The command line after the scenario's name."""
        parser = options.parser("endpoint_clients", __doc__)
        parser.add_argument("--clients", type=options.positive, default=cls.clients, help="(default 64)")
        parser.add_argument("--models", type=options.positive, help="(default 1000, quick 50)")
        parser.add_argument("--seconds", type=options.positive, help="(default 60, quick 10)")
        given = parser.parse_args(arguments)
        return cls(
            **options.common(given),
            clients=given.clients,
            models=given.models or (50 if given.quick else cls.models),
            seconds=given.seconds or (10 if given.quick else cls.seconds),
        )


@dataclass
class Record:
    """What all clients saw."""

    times_s: list[float] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    """By their text."""

    @property
    def calls(self) -> int:
        """All, whatever their answer was."""
        return len(self.times_s) + self.errors.total()


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = ClientsOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: ClientsOptions) -> Result:
    """The whole of it."""
    result = Result("endpoint_clients", chosen.recorded())
    started = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1)
    endpoint_log, container_log = (result.beside(chosen.output, f"-{which}.log") for which in ("endpoint", "container"))
    with local_endpoint(more=["--metric-period", str(METRIC_PERIOD_S)], log=endpoint_log) as (url, _):
        cloudwatch = client(url, "cloudwatch")
        cloudwatch.list_metrics()
        progress(f"uploading {chosen.models} models")
        archives = {target(number): model(number) for number in range(chosen.models)}
        deploy(url, NAME, archives, {"MME_PRELOAD": "none"})
        progress(f"{chosen.clients} clients for {chosen.seconds} s")
        record = call(port_of(url), chosen)
        counted = count(cloudwatch, started, record.calls)
        report(record, counted, result)
        if result.errors:
            container_log.write_text(container_logs(url, NAME))
    keep_or_remove([endpoint_log, container_log], result)
    return result


def keep_or_remove(logs: Iterable[Path], result: Result) -> None:
    """Names them in the result where there was an error; else nobody needs them."""
    for path in logs:
        if not result.errors:
            path.unlink(missing_ok=True)
        elif path.exists():
            result.notes.append(f"log: {os.path.relpath(path)}")


def target(number: int) -> str:
    """A model's name."""
    return f"{number}.tar.gz"


def model(number: int) -> bytes:
    """An archive in Multi Model Server's own form: it adds its number."""
    manifest = json.dumps({"model": {"handler": "add:handle"}})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, text in (("MAR-INF/MANIFEST.json", manifest), ("add.py", HANDLER.format(number=number))):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def call(port: int, chosen: ClientsOptions) -> Record:
    """All clients at once, until the time is over."""
    record, lock = Record(), threading.Lock()
    end_s = time.monotonic() + chosen.seconds

    def serve(number: int) -> None:
        chance = random.Random(number)
        with Connection(port) as connection:
            while time.monotonic() < end_s:
                asked = chance.randrange(chosen.models)
                error, elapsed_s = ask(connection, asked)
                with lock:
                    record.asked.add(asked)
                    if error is None:
                        record.times_s.append(elapsed_s)
                    else:
                        record.errors[error] += 1

    with ThreadPoolExecutor(chosen.clients) as clients:
        list(clients.map(serve, range(chosen.clients)))
    return record


def ask(connection: Connection, number: int) -> tuple[str | None, float]:
    """What was wrong, if anything, and the seconds that the answer took."""
    headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Target-Model": target(number)}
    try:
        answer = connection.request("POST", f"/endpoints/{NAME}/invocations", b"[1, 2]", headers)
    except (OSError, BenchmarkError) as error:
        return f"no answer: {error}", 0.0
    if answer.status != 200:
        return f"{answer.status} {answer.body[:200]!r}", answer.elapsed_s
    wanted = [number + 1, number + 2]
    return (None if json.loads(answer.body) == wanted else f"a wrong answer: {answer.body[:200]!r}"), answer.elapsed_s


def count(cloudwatch: Any, started: datetime.datetime, calls: int) -> int:
    """How many invocations CloudWatch has in the end."""
    deadline_s = time.monotonic() + COUNT_TIMEOUT_S
    while True:
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/SageMaker",
            MetricName="Invocations",
            Dimensions=[{"Name": "EndpointName", "Value": NAME}, {"Name": "VariantName", "Value": NAME}],
            StartTime=started,
            EndTime=datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1),
            Period=60,
            Statistics=["Sum"],
        )["Datapoints"]
        counted = round(sum(each["Sum"] for each in points))
        if counted >= calls or time.monotonic() > deadline_s:
            return counted
        time.sleep(POLL_S)


def report(record: Record, counted: int, result: Result) -> None:
    """Fills the table, the targets and the errors in."""
    result.headers = ["calls", "models asked", "counted by CloudWatch", "errors", "p50, ms", "p99, ms"]
    errors = record.errors.total()
    times = [milliseconds(its) for its in _percentiles(record.times_s)]
    result.table.append([str(record.calls), str(len(record.asked)), str(counted), str(errors), *times])
    result.rows.append({"calls": record.calls, "asked": len(record.asked), "counted": counted, "errors": errors})
    result.targets.append(Target("errors", float(errors), "≤", 0))
    result.errors += [f"{times} × {text}" for text, times in record.errors.most_common(EXAMPLES)]
    if counted != record.calls:
        result.errors.append(f"CloudWatch has {counted} invocations, the clients made {record.calls}")


def _percentiles(times_s: list[float]) -> list[float]:
    if not times_s:
        return []
    summary = Summary.of(times_s)
    return [summary.p50, summary.p99]
