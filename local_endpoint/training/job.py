"""One training job that runs: data from S3, a process, the model to S3.

Lifetime   Starting, Downloading, Training, Uploading, then Completed, Failed or Stopped
Watched by the thread that runs it; ``stop`` from any other
Ended by   itself, ``stop``, or its time (MaxRuntimeInSeconds)
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_endpoint.configuration import child_environment
from local_endpoint.hosting.instance_types import memory_bytes
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.objects import ObjectReader, ObjectUnavailable
from local_endpoint.telemetry.logs import Logs, LogWriter
from local_endpoint.telemetry.metric_store import Aggregate, MetricStore, Series
from local_endpoint.training.hyperparameters import HyperparameterError, parsed
from local_endpoint.training.log_metrics import LogMetrics, NotInTime

logger = logging.getLogger(__name__)

LOG_GROUP = "/aws/sagemaker/TrainingJobs"
NAMESPACE = "/aws/sagemaker/TrainingJobs"
# What the algorithm's own metrics look like in its log; a client's MetricDefinitions come on top.
ROUND = re.compile(r"#011(train|validation)-([\w@.-]+?):([-+]?[\d.]+(?:[eE][-+]?\d+)?)")
STOP_TIMEOUT_S = 120.0  # from SIGTERM to SIGKILL, as on AWS
PIECE_BYTES = 64 * 1024


class JobFailure(Exception):
    """The text is the FailureReason."""


class JobStopped(Exception):
    """It was told to stop, or its time was over (``too_late``)."""

    def __init__(self, too_late: bool) -> None:
        super().__init__()
        self.too_late = too_late


@dataclass(frozen=True)
class JobContext:
    """What all jobs share."""

    objects: ObjectReader
    logs: Logs
    metrics: MetricStore
    janitor: Janitor
    work_dir: Path


class Job:
    """``run`` once, in a thread of its own; ``stop`` at any time."""

    def __init__(
        self, region: str, request: Mapping[str, Any], context: JobContext, on_status: Callable[[str], None]
    ) -> None:
        """``request`` is CreateTrainingJob's, checked. ``on_status`` gets each SecondaryStatus as it begins."""
        self._region = region
        self._request = request
        self._context = context
        self._objects = context.objects.as_role(request["RoleArn"])
        self._on_status = on_status
        self._name: str = request["TrainingJobName"]
        self._folder = context.work_dir  # until it runs
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._too_late = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self.final_metrics: dict[str, tuple[float, float]] = {}
        """Value and time, by name."""

    def run(self) -> str | None:
        """The model's address in S3 (None where it was stopped before it had one).

        Raises ``JobFailure``, and ``JobStopped`` after whatever there was of a model is in S3.
        """
        # not called by the job: another region may have one of the same name
        self._folder = Path(tempfile.mkdtemp(prefix="training-", dir=self._context.work_dir))
        log = self._context.logs.open(self._region, LOG_GROUP, f"{self._name}/algo-1-{int(time.time())}")
        try:
            try:
                hyperparameters = parsed(self._request.get("HyperParameters", {}))
            except HyperparameterError as error:
                log.write(f"ClientError: {error}\n".encode())
                raise JobFailure(f"ClientError: {error}, exit code: 1") from None
            self._on_status("Downloading")
            channels = {each["ChannelName"]: each for each in self._request["InputDataConfig"]}
            for name, channel in channels.items():
                self._download(name, channel)
            self._on_status("Training")
            self._train(hyperparameters, channels, log)
            return self._upload()
        finally:
            log.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def stop(self) -> None:
        """Returns at once."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        killer = threading.Timer(STOP_TIMEOUT_S, self._signal, [signal.SIGKILL])
        killer.daemon = True
        killer.start()

    def kill(self) -> None:
        """Ends it now; what it made is lost."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock, contextlib.suppress(ProcessLookupError):
            if self._process is not None and self._process.returncode is None:
                os.killpg(self._process.pid, number)

    @property
    def model_location(self) -> S3Location:
        """Where SageMaker puts it: below the output path, by the job's name."""
        path = S3Location.parse(self._request["OutputDataConfig"]["S3OutputPath"])
        prefix = path.key if not path.key or path.key.endswith("/") else path.key + "/"
        return S3Location(path.bucket, f"{prefix}{self._name}/output/model.tar.gz")

    # ---- phases ----

    def _check_stopped(self) -> None:
        if self._stopping.is_set():
            raise JobStopped(self._too_late.is_set())

    def _download(self, name: str, channel: Mapping[str, Any]) -> None:
        folder = self._folder / "input" / name
        folder.mkdir(parents=True)
        prefix = S3Location.parse(channel["DataSource"]["S3DataSource"]["S3Uri"])
        try:
            for number, location in enumerate(self._objects.below(prefix)):
                self._check_stopped()
                with (folder / f"{number:06}").open("wb") as file:
                    file.writelines(self._objects.read(location))
        except ObjectUnavailable as error:
            raise JobFailure(f"ClientError: Data download failed: {error}") from None

    def _train(self, hyperparameters: dict[str, Any], channels: Iterable[str], log: LogWriter) -> None:
        job = {
            "hyperparameters": hyperparameters,
            "content_types": {name: content_type(self._channel(name)) for name in channels},
            "memory_bytes": memory_bytes(self._request["ResourceConfig"]["InstanceType"]),
        }
        (self._folder / "job.json").write_text(json.dumps(job))
        with self._lock:
            self._check_stopped()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "local_endpoint.training.program", str(self._folder)],
                # threads that wait for one another give up the core: others use this machine, too
                env={**child_environment(), "OMP_WAIT_POLICY": "PASSIVE"},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = self._process
        self._context.janitor.watch_group(process.pid)
        limit_s = self._request["StoppingCondition"].get("MaxRuntimeInSeconds", 86_400)
        timer = threading.Timer(limit_s, self._time_is_over)
        timer.daemon = True
        timer.start()
        try:
            self._copy_output(process, log)
            status = process.wait()
        finally:
            timer.cancel()
            self._signal(signal.SIGKILL)
            process.wait()
            self._context.janitor.forget_group(process.pid)
        if status == 0 or self._stopping.is_set():
            return
        failure = self._folder / "failure"
        if failure.exists():
            raise JobFailure(f"{failure.read_text()}, exit code: {status}"[:1024])
        raise JobFailure(f"AlgorithmError: the algorithm ended with exit code: {status}")

    def _channel(self, name: str) -> Mapping[str, Any]:
        return next(each for each in self._request["InputDataConfig"] if each["ChannelName"] == name)

    def _time_is_over(self) -> None:
        self._too_late.set()
        self.stop()

    def _copy_output(self, process: subprocess.Popen[bytes], log: LogWriter) -> None:
        assert process.stdout is not None
        definitions = self._request["AlgorithmSpecification"].get("MetricDefinitions", [])
        too_long = b"MetricDefinitions: the expressions take too long for this log; they are left out.\n"
        try:
            of_client = LogMetrics(definitions)
        except NotInTime:
            log.write(too_long)
            of_client = LogMetrics([])
        with process.stdout, contextlib.closing(of_client):
            for line in process.stdout:
                log.write(line)
                text = line.decode(errors="replace")
                found = {f"{channel}:{metric}": value for channel, metric, value in ROUND.findall(text)}
                try:
                    found |= of_client.find(text)
                except NotInTime:
                    log.write(too_long)
                self._note_metrics(found)

    def _note_metrics(self, found: Mapping[str, str]) -> None:
        now_s = float(int(time.time()))
        values: dict[Series, Aggregate] = {}
        for name, text in found.items():
            with contextlib.suppress(ValueError):  # a client's expression may find anything
                value = float(text)
                self.final_metrics[name] = (value, now_s)
                series = Series(self._region, NAMESPACE, name, (("TrainingJobName", self._name),), "None")
                values.setdefault(series, Aggregate()).add(value)
        if values:
            self._context.metrics.publish(now_s, values)

    def _upload(self) -> str | None:
        """Raises ``JobStopped`` where it was told to stop."""
        folder = self._folder / "model"
        if not folder.exists():
            self._check_stopped()
            raise JobFailure("AlgorithmError: the algorithm left no model")
        self._on_status("Uploading")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
        location = self.model_location
        try:
            self._objects.write(location, packed.getvalue())
        except ObjectUnavailable as error:
            raise JobFailure(f"ClientError: Artifact upload failed: {error}") from None
        if self._stopping.is_set():
            raise JobStopped(self._too_late.is_set())
        return location.url


def content_type(channel: Mapping[str, Any]) -> str:
    """``csv`` or ``libsvm``, which is the algorithm's default. Raises ``ValueError``."""
    given = channel.get("ContentType") or "libsvm"
    plain = given.partition(";")[0].strip().lower().removeprefix("text/").removeprefix("x-")
    if plain not in ("csv", "libsvm"):
        raise ValueError(given)
    return str(plain)
