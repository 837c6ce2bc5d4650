"""A soak of the local endpoint: ``./scripts/soak --endpoint``.

Containers of three kinds of endpoints, clients that check every answer, and meanwhile instances that are killed, scaled
out and in, endpoints that are updated, models that are uploaded and replaced; logs and metrics are on.

What a client may be answered beside its right answer, and nothing else (docs/local_endpoint.md):

    ServiceUnavailable 503      every instance of the endpoint was down for too long, or three containers died under it
    ModelNotReadyException 429  its model was not loaded in time, on an instance that takes a dead one's place
    ModelError 424              a container was killed in that moment: its workers ended a little before what answers

All three only from a kill of an instance of that endpoint until another has taken its place, and how many they were is
told. CloudWatch must have counted every invocation.
"""

from __future__ import annotations

import datetime
import math
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.failure import BenchmarkError
from benchmarks.report import Result, Target, progress
from benchmarks.servers.endpoint import client, local_endpoint
from benchmarks.soak.hosted import CONTAINERS, INSTANCES, MANY, MARK, NAMES, Catalogue, create
from benchmarks.soak.options import SoakOptions
from benchmarks.soak.record import MOST_EXAMPLES

METRIC_PERIOD_S = 5
KILL_EVERY_S, CHANGE_EVERY_S = 8.0, 4.0
PAUSE_S = 0.02
UP_TIMEOUT_S, GONE_TIMEOUT_S, SETTLE_S = 240.0, 120.0, 30.0
PROGRESS_S = 10.0
_POLL_S = 0.25
# How long after a kill a client may be told so at most, by the error's code: it ends when the endpoint is whole again.
EXCUSED_S = {"ServiceUnavailable": 90.0, "ModelNotReadyException": 90.0, "ModelError": 1.0}
MOST_INSTANCES = 3


@dataclass
class Kill:
    """One instance's. Moments are monotonic."""

    endpoint: str
    at_s: float
    done_s: float = math.inf
    whole_s: float = math.inf
    """When the endpoint was seen with all of its instances again."""

    def excuses(self, code: str, from_s: float, to_s: float) -> bool:
        until_s = min(self.whole_s, self.at_s + EXCUSED_S.get(code, -math.inf))
        return self.at_s <= to_s and from_s <= until_s


class Record:
    """What happened, as all threads saw it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.violation_count = 0
        self.kills: list[Kill] = []
        self.longest_s = 0.0
        self._lock = threading.Lock()

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def violates(self, text: str) -> None:
        with self._lock:
            self.violation_count += 1
            if len(self.violations) < MOST_EXAMPLES:
                self.violations.append(f"{datetime.datetime.now():%H:%M:%S} {text}")

    def killed(self, endpoint: str) -> Kill:
        """An instance is about to be killed."""
        kill = Kill(endpoint, time.monotonic())
        with self._lock:
            self.kills.append(kill)
            self.counts[f"instances of {endpoint} killed"] += 1
        return kill

    def broken(self) -> set[str]:
        """Endpoints that have not been seen whole since a kill."""
        with self._lock:
            return {each.endpoint for each in self.kills if math.isinf(each.whole_s)}

    def is_whole(self, endpoint: str, looked_s: float, now_s: float) -> None:
        """It has all of its instances; the look at it began at ``looked_s``."""
        with self._lock:
            for each in self.kills:
                if each.endpoint == endpoint and each.done_s < looked_s and math.isinf(each.whole_s):
                    each.whole_s = now_s

    def excuses(self, endpoint: str, code: str, from_s: float, to_s: float) -> bool:
        """Whether a call between these moments (monotonic) may have been answered so."""
        with self._lock:
            return any(each.excuses(code, from_s, to_s) for each in self.kills if each.endpoint == endpoint)


class Soak:
    """One run; fills ``result``."""

    def __init__(self, url: str, process: psutil.Process, folder: Path, options: SoakOptions, result: Result) -> None:
        self.process = process
        self.folder = folder
        self.options = options
        self.result = result
        self.record = Record()
        self.catalogue = Catalogue()
        self.s3, self.sagemaker = client(url, "s3"), client(url, "sagemaker")
        self.cloudwatch, self.logs = client(url, "cloudwatch"), client(url, "logs")
        settings = Config(
            retries={"total_max_attempts": 1}, read_timeout=75, max_pool_connections=max(10, options.clients)
        )
        self.runtime = client(url, "sagemaker-runtime", config=settings)
        self.stopping = threading.Event()

    def run(self) -> None:
        """The whole of it. Raises ``BenchmarkError`` where the endpoints do not come up."""
        self.catalogue.upload_all(self.s3)
        self.sagemaker.list_endpoints()
        self.cloudwatch.list_metrics()
        self.logs.describe_log_groups()
        start = self.census()
        progress("bringing three endpoints up")
        create(self.sagemaker)
        self.wait_until_up()
        started = datetime.datetime.now(datetime.UTC)
        progress(f"{self.options.clients} clients for {self.options.minutes:g} min; {in_words(self.census())}")
        threads = [threading.Thread(target=self.serve, args=(number,)) for number in range(self.options.clients)]
        threads += [
            threading.Thread(target=self.again, args=(name, every_s, act))
            for name, every_s, act in (("killer", KILL_EVERY_S, self.kill), ("changer", CHANGE_EVERY_S, self.change))
        ]
        for thread in threads:
            thread.start()
        try:
            self.watch()
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(UP_TIMEOUT_S)
        self.wait_until_up()
        self.check_metrics(started)
        self.check_logs()
        for name in NAMES:
            self.sagemaker.delete_endpoint(EndpointName=name)
        self.wait(lambda: not self.sagemaker.list_endpoints()["Endpoints"], GONE_TIMEOUT_S, "endpoints are left")
        self.runtime.close()
        self.judge(start, self.settle(start))

    # ---- threads ----

    def serve(self, number: int) -> None:
        """A client."""
        chance = random.Random(f"{self.options.seed}-client-{number}")
        while not self.stopping.wait(PAUSE_S):
            question = self.catalogue.question(chance)
            started_s = time.monotonic()
            self.record.count("invocations")
            try:
                answer = self.runtime.invoke_endpoint(EndpointName=question.endpoint, **question.arguments)
                body = answer["Body"].read()
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if self.record.excuses(question.endpoint, code, started_s, time.monotonic()):
                    self.record.count(f"excused: {question.endpoint} {code}")
                else:
                    self.record.violates(f"{question.title}: {error}"[:400])
            except BotoCoreError as error:
                self.record.violates(f"{question.title}: no answer: {error}"[:400])
            else:
                self.record.longest_s = max(self.record.longest_s, time.monotonic() - started_s)
                if question.is_answered_by(body):
                    self.record.count("right answers")
                else:
                    self.record.violates(f"{question.title}: {dict(question.arguments)} was answered {body[:200]!r}")

    def again(self, name: str, every_s: float, act: Callable[[random.Random], None]) -> None:
        """Does something until the end, at random moments."""
        chance = random.Random(f"{self.options.seed}-{name}")
        try:
            while not self.stopping.wait(chance.uniform(0.5, 1.5) * every_s):
                act(chance)
        except Exception as error:
            self.record.violates(f"the soak itself: {name}: {error!r}")

    def kill(self, chance: random.Random) -> None:
        """All processes of one container at once: its instance dies with it."""
        containers = self.containers()
        if not containers:
            return
        pid, endpoint = chance.choice(containers)
        kill = self.record.killed(endpoint)
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            self.record.count("killed too late")
        kill.done_s = time.monotonic()

    def containers(self) -> list[tuple[int, str]]:
        """First processes of the containers, with their endpoints."""
        found = []
        for child in self.process.children():
            try:
                name = child.environ().get(MARK)
                if name is not None and os.getpgid(child.pid) == child.pid:
                    found.append((child.pid, name))
            except (psutil.Error, ProcessLookupError):
                continue
        return found

    def change(self, chance: random.Random) -> None:
        """What people do with endpoints, one of it."""
        what = chance.choice((self.scale, self.scale, self.update, self.upload, self.replace, self.look))
        what(chance)

    def scale(self, chance: random.Random) -> None:
        count = chance.randint(1, MOST_INSTANCES)
        wanted = [{"VariantName": "AllTraffic", "DesiredInstanceCount": count}]
        self.unless_busy(
            f"scaled {MANY} to {count}",
            lambda: self.sagemaker.update_endpoint_weights_and_capacities(
                EndpointName=MANY, DesiredWeightsAndCapacities=wanted
            ),
        )

    def update(self, chance: random.Random) -> None:
        name = chance.choice(NAMES)
        now = self.sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]
        config = f"{name}-{'b' if now.endswith('a') else 'a'}"
        self.unless_busy(
            f"updated {name}", lambda: self.sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=config)
        )

    def unless_busy(self, title: str, act: Callable[[], Any]) -> None:
        """AWS refuses a change while another one is under way."""
        try:
            act()
        except ClientError as error:
            if "Cannot update in-progress endpoint" not in str(error):
                raise
            self.record.count("changes refused during another")
        else:
            self.record.count(title)

    def upload(self, _: random.Random) -> None:
        self.catalogue.upload_another(self.s3)
        self.record.count("models uploaded")

    def replace(self, _: random.Random) -> None:
        self.catalogue.replace(self.s3)
        self.record.count("models replaced")

    def look(self, chance: random.Random) -> None:
        name = chance.choice(NAMES)
        self.sagemaker.describe_endpoint(EndpointName=name)
        self.logs.filter_log_events(logGroupName=f"/aws/sagemaker/Endpoints/{name}", limit=100)
        self.cloudwatch.list_metrics(Namespace="AWS/SageMaker")
        self.record.count("descriptions, logs and metrics read")

    def watch(self) -> None:
        """Tells what happens, every few seconds."""
        began_s = told_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + self.options.minutes * 60:
            if not self.process.is_running():
                raise BenchmarkError("the local endpoint ended")
            for name in self.record.broken():
                looked_s = time.monotonic()
                if self.is_up(name):
                    self.record.is_whole(name, looked_s, time.monotonic())
            if now_s - told_s >= PROGRESS_S:
                told_s = now_s
                counts = self.record.counts
                progress(
                    f"{now_s - began_s:5.0f} s  {counts['invocations']} invocations, {counts['right answers']} right, "
                    f"{len(self.record.kills)} killed, {self.record.violation_count} violations"
                )
            time.sleep(_POLL_S)

    # ---- the verdict ----

    def wait(self, condition: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        """Raises ``BenchmarkError``."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise BenchmarkError(otherwise)
            time.sleep(_POLL_S)

    def wait_until_up(self) -> None:
        """All endpoints are in service, with as many containers as they should have."""

        self.wait(
            lambda: all(self.is_up(name) for name in NAMES),
            UP_TIMEOUT_S,
            "the endpoints are not in service, or not with all of their containers",
        )

    def is_up(self, name: str) -> bool:
        """Raises ``BenchmarkError`` where it failed."""
        alive = sum(its == name for _, its in self.containers())
        described = self.sagemaker.describe_endpoint(EndpointName=name)
        if described["EndpointStatus"] == "Failed":
            raise BenchmarkError(f"{name} failed: {described.get('FailureReason')}")
        variants = described.get("ProductionVariants") or [{}]
        wanted = variants[0].get("DesiredInstanceCount", INSTANCES[name])
        is_there = variants[0].get("CurrentInstanceCount") == wanted
        return described["EndpointStatus"] == "InService" and is_there and alive == wanted * CONTAINERS[name]

    def check_metrics(self, started: datetime.datetime) -> None:
        """Every invocation was counted once."""
        time.sleep(2 * METRIC_PERIOD_S + 1)
        counted = 0.0
        for name in NAMES:
            dimensions = [{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "AllTraffic"}]
            found = self.cloudwatch.get_metric_statistics(
                Namespace="AWS/SageMaker",
                MetricName="Invocations",
                Dimensions=dimensions,
                StartTime=started - datetime.timedelta(minutes=2),
                EndTime=datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1),
                Period=60,
                Statistics=["Sum"],
            )
            counted += sum(point["Sum"] for point in found["Datapoints"])
        self.record.counts["invocations in CloudWatch"] = int(counted)
        if counted != self.record.counts["invocations"]:
            self.record.violates(f"CloudWatch counted {counted:.0f} of {self.record.counts['invocations']} invocations")

    def check_logs(self) -> None:
        """Every endpoint has said something."""
        for name in NAMES:
            events = self.logs.filter_log_events(logGroupName=f"/aws/sagemaker/Endpoints/{name}", limit=10)["events"]
            if not events:
                self.record.violates(f"there are no logs of {name}")

    def census(self) -> dict[str, int]:
        """What the local endpoint has at this moment."""
        temporary = [path for path in self.folder.iterdir() if not path.name.startswith("local-endpoint-")]
        inside = list(self.folder.glob("local-endpoint-*/i-*"))
        return {
            "processes": len(self.process.children(recursive=True)),
            "descriptors": self.process.num_fds(),
            "threads": self.process.num_threads(),
            "folders": len(temporary) + len(inside),
            "memory_bytes": self.process.memory_full_info().uss,
        }

    def settle(self, start: dict[str, int]) -> dict[str, int]:
        """The census once nothing is left, or when time is up."""
        deadline_s = time.monotonic() + SETTLE_S
        while (found := self.census()) and time.monotonic() < deadline_s:
            if all(found[each] <= start[each] for each in ("processes", "descriptors", "threads", "folders")):
                break
            time.sleep(1.0)
        return found

    def judge(self, start: dict[str, int], end: dict[str, int]) -> None:
        """Fills the result."""
        record, result = self.record, self.result
        excused = sum(count for name, count in record.counts.items() if name.startswith("excused: "))
        result.headers = ["", ""]
        rows = [
            *sorted(record.counts.items()),
            ("answers excused", str(excused)),
            ("whole again after a kill, s", in_seconds(each.whole_s - each.at_s for each in record.kills)),
            ("longest right answer, s", f"{record.longest_s:.1f}"),
            ("at the start", in_words(start)),
            ("at the end", in_words(end)),
        ]
        result.table = [[name, str(value)] for name, value in rows]
        result.rows = [
            {
                "counts": dict(record.counts),
                "excused": excused,
                "start": start,
                "end": end,
                "violations": record.violations,
            }
        ]
        result.targets = [Target("answers that are wrong, missing or not excused", record.violation_count, "≤", 0.0)]
        for each in ("processes", "descriptors", "threads", "folders"):
            result.targets.append(Target(f"{each} left", float(end[each] - start[each]), "≤", 0.0))
            if end[each] > start[each]:
                record.violates(f"{end[each]} {each}, {start[each]} at the start")
        result.notes.append(f"memory: {(end['memory_bytes'] - start['memory_bytes']) / 1e6:+.0f} MB")
        result.errors = [f"NOT MET: {text}" for text in record.violations]


def in_seconds(times_s: Iterable[float]) -> str:
    """The median and the longest of those that ended."""
    ended_s = [each for each in times_s if math.isfinite(each)]
    return f"{median(ended_s):.1f}, {max(ended_s):.1f} at most" if ended_s else "none"


def in_words(census: dict[str, int]) -> str:
    return (
        f"{census['processes']} processes below it, {census['descriptors']} descriptors, {census['threads']} threads, "
        f"{census['folders']} temporary folders, {census['memory_bytes'] / 1e6:.0f} MB"
    )


def run(options: SoakOptions) -> int:
    """Returns the exit code."""
    result = Result("soak_endpoint", options.recorded())
    with tempfile.TemporaryDirectory(prefix="se-") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        with local_endpoint(
            more=("--metric-period", str(METRIC_PERIOD_S)), environment=environment, log=options.log
        ) as (url, process):
            progress(f"the local endpoint runs: {url}")
            Soak(url, process, Path(folder), options, result).run()
        left = [path.name for path in Path(folder).iterdir()]
        if left:
            result.errors.append(f"NOT MET: left in the temporary folder after the end: {left}")
    return result.finish(options.output)
