"""Training jobs: CreateTrainingJob, DescribeTrainingJob, ListTrainingJobs, StopTrainingJob.

SageMaker's XGBoost algorithm is trained by the library itself; whatever else a job asks for is refused.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from typing import Any

from local_endpoint.control_plane.listing import filter_and_sort, page
from local_endpoint.control_plane.records import Call, Kind, Parameters, Records
from local_endpoint.errors import AwsError, ValidationException
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.objects import ObjectUnavailable
from local_endpoint.storage.resources import Resources, arn
from local_endpoint.training.job import Job, JobContext, JobFailure, JobStopped, content_type
from local_endpoint.training.log_metrics import LogMetrics, NotInTime

logger = logging.getLogger(__name__)

TRAINING_JOB = Kind("training-job", "training job", "TrainingJob")
# SageMaker's own images are in ECR, in an account of each region.
IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.[\w-]+\.amazonaws\.com(?:\.cn)?/(?:sagemaker-)?xgboost(?:[:@].+)?")
CHANNELS = ("train", "validation")
# What would change the outcome and is not done here.
UNAVAILABLE = (
    "VpcConfig", "CheckpointConfig", "RetryStrategy", "ServerlessJobConfig", "ModelPackageConfig", "MlflowConfig",
    "DebugRuleConfigurations", "TensorBoardOutputConfig", "RemoteDebugConfig", "SessionChainingConfig",
)  # fmt: skip
UNAVAILABLE_OF_ALGORITHM = ("AlgorithmName", "ContainerEntrypoint", "ContainerArguments", "TrainingImageConfig")
MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Stopping": "Stopping the training job",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
}
IN_PROGRESS = ("InProgress", "Stopping")
CLOSE_TIMEOUT_S = 10.0


class TrainingJobs:
    """Each operation is a method of its name. All raise ``AwsError``. ``close`` ends those that run."""

    def __init__(self, resources: Resources, context: JobContext) -> None:
        self._resources = resources
        self._records = Records(resources)
        self._context = context
        self._lock = threading.Lock()
        self._changing = threading.RLock()  # a job's status is read, and written anew, by its thread and by requests
        self._running: dict[tuple[str, str], Job] = {}
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    def resume(self) -> None:
        """After a restart: what was in progress has not been finished."""
        for record in self._resources.all(TRAINING_JOB.key):
            if record["TrainingJobStatus"] in IN_PROGRESS:
                reason = "InternalServerError: The local endpoint was stopped while the job was in progress."
                self._end(record["Region"], record["TrainingJobName"], "Failed", "Failed", FailureReason=reason)

    # ---- operations ----

    def create_training_job(self, call: Call) -> Parameters:
        request, name = call.parameters, call.parameters["TrainingJobName"]
        check(request)
        _check_metrics(request["AlgorithmSpecification"].get("MetricDefinitions", []))
        self._check_data(call.region, request)
        if self._resources.get(TRAINING_JOB.key, call.region, name) is not None:
            raise AwsError(
                "ResourceInUse",
                400,
                "Training job names must be unique within an AWS account and region, and a training job with this "
                f"name already exists ({arn(call.region, TRAINING_JOB.key, name)})",
            )
        request.setdefault("StoppingCondition", {"MaxRuntimeInSeconds": 86_400})
        now_s = time.time()
        first = {"Status": "Starting", "StartTime": now_s, "StatusMessage": MESSAGES["Starting"]}
        answer = self._records.add(
            TRAINING_JOB,
            call,
            TrainingJobStatus="InProgress",
            SecondaryStatus="Starting",
            SecondaryStatusTransitions=[first],
        )
        job = Job(call.region, request, self._context, lambda status: self._enter(call.region, name, status))
        thread = threading.Thread(target=self._run, args=(call.region, name, job), name=f"training {name}")
        with self._lock:
            self._running[(call.region, name)] = job
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()
        return answer

    def describe_training_job(self, call: Call) -> Parameters:
        self._require(call)
        return self._records.describe(TRAINING_JOB, call)

    def list_training_jobs(self, call: Call) -> Parameters:
        parameters = dict(call.parameters)
        wanted = parameters.pop("StatusEquals", None)
        records = self._resources.all(TRAINING_JOB.key, call.region)
        rows = [each for each in records if wanted in (None, each["TrainingJobStatus"])]
        rows = filter_and_sort(TRAINING_JOB, rows, parameters)
        if parameters.get("SortBy") == "Status":
            is_descending = parameters.get("SortOrder", "Descending") == "Descending"
            rows.sort(key=lambda each: str(each["TrainingJobStatus"]), reverse=is_descending)
        shown = ("TrainingJobName", "CreationTime", "LastModifiedTime", "TrainingJobStatus", "SecondaryStatus")
        answer = page(TRAINING_JOB, call.region, rows, shown, parameters)
        answer["TrainingJobSummaries"] = answer.pop("TrainingJobs")
        ends = {each["TrainingJobName"]: each.get("TrainingEndTime") for each in rows}
        for summary in answer["TrainingJobSummaries"]:
            if (end := ends[summary["TrainingJobName"]]) is not None:
                summary["TrainingEndTime"] = end
        return answer

    def stop_training_job(self, call: Call) -> Parameters:
        with self._changing:
            record = self._require(call)
            if record["TrainingJobStatus"] not in IN_PROGRESS:
                raise ValidationException(
                    f"The request was rejected because the training job is in status {record['TrainingJobStatus']}."
                )
            name = record["TrainingJobName"]
            with self._lock:
                job = self._running.get((call.region, name))
            if job is None or record["TrainingJobStatus"] == "Stopping":
                return {}
            self._enter(call.region, name, "Stopping", TrainingJobStatus="Stopping")
        job.stop()
        return {}

    def _require(self, call: Call) -> dict[str, Any]:
        record = self._resources.get(TRAINING_JOB.key, call.region, call.parameters["TrainingJobName"])
        if record is None:
            raise ValidationException("Requested resource not found.")
        return record

    def _check_data(self, region: str, request: Parameters) -> None:
        for channel in request["InputDataConfig"]:
            location = S3Location.parse(channel["DataSource"]["S3DataSource"]["S3Uri"])
            try:
                found = self._context.objects.as_role(request["RoleArn"]).below(location)
            except ObjectUnavailable:
                found = []
            if not found:
                raise ValidationException(
                    f'No S3 objects found under S3 URL "{location.url}" given in input data source. Please ensure that '
                    f"the bucket exists in the selected region ({region}), that objects exist under that S3 prefix, "
                    f'and that the role "{request["RoleArn"]}" has "s3:ListBucket" permissions on bucket '
                    f'"{location.bucket}".'
                )

    # ---- one job's life ----

    def _run(self, region: str, name: str, job: Job) -> None:
        try:
            url = job.run()
            self._end(region, name, "Completed", "Completed", job, ModelArtifacts={"S3ModelArtifacts": url})
        except JobStopped as stopped:
            self._end(region, name, "Stopped", "MaxRuntimeExceeded" if stopped.too_late else "Stopped", job)
        except JobFailure as failure:
            self._end(region, name, "Failed", "Failed", job, FailureReason=str(failure)[:1024])
        except Exception:
            logger.exception("training job %s failed", name)
            reason = "InternalServerError: We encountered an internal error. Please try again."
            self._end(region, name, "Failed", "Failed", job, FailureReason=reason)
        finally:
            with self._lock:
                self._running.pop((region, name), None)

    def _enter(self, region: str, name: str, status: str, **members: Any) -> None:
        """A SecondaryStatus begins, and the one before ends."""
        with self._changing:
            record = self._resources.get(TRAINING_JOB.key, region, name)
            if record is None or (record["SecondaryStatus"] == "Stopping" and status in ("Downloading", "Training")):
                return
            now_s = time.time()
            before = [dict(each) for each in record["SecondaryStatusTransitions"]]
            before[-1].setdefault("EndTime", now_s)
            transitions = [*before, {"Status": status, "StartTime": now_s, "StatusMessage": MESSAGES[status]}]
            if status == "Downloading":
                members["TrainingStartTime"] = now_s
            members |= {"SecondaryStatus": status, "SecondaryStatusTransitions": transitions}
            self._resources.change(TRAINING_JOB.key, region, name, **members)

    def _end(self, region: str, name: str, status: str, secondary: str, job: Job | None = None, **members: Any) -> None:
        if self._closing.is_set():
            return  # the next run says what became of it
        record = self._resources.get(TRAINING_JOB.key, region, name)
        if record is None:
            return
        now_s = time.time()
        if job is not None:
            if self._context.objects.exists(job.model_location):
                members.setdefault("ModelArtifacts", {"S3ModelArtifacts": job.model_location.url})
            metrics = [
                {"MetricName": each, "Value": value, "Timestamp": when}
                for each, (value, when) in job.final_metrics.items()
            ]
            members["FinalMetricDataList"] = metrics[:40] or None
        seconds = max(1, round(now_s - record.get("TrainingStartTime", now_s)))
        self._enter(
            region,
            name,
            secondary,
            TrainingJobStatus=status,
            TrainingEndTime=now_s,
            TrainingTimeInSeconds=seconds,
            BillableTimeInSeconds=seconds,
            **members,
        )
        logger.info("training job %s: %s", name, status)

    def close(self) -> None:
        """Ends every job."""
        self._closing.set()
        with self._lock:
            jobs, threads = list(self._running.values()), list(self._threads)
        for job in jobs:
            job.kill()
        deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))


# ---- what can be trained here ----


def check(request: Parameters) -> None:
    """Raises ``ValidationException`` for whatever is not what is trained here, naming it."""
    algorithm, resources = request["AlgorithmSpecification"], request.get("ResourceConfig", {})
    for where, names in ((request, UNAVAILABLE), (algorithm, UNAVAILABLE_OF_ALGORITHM)):
        for name in names:
            if where.get(name):
                raise ValidationException(f"{name} is not available on this local endpoint: leave it out.")
    image = algorithm.get("TrainingImage", "")
    if not IMAGE.fullmatch(image):
        raise ValidationException(
            f"Training image {image} is not available on this local endpoint, which trains SageMaker's XGBoost "
            "algorithm only (ACCOUNT.dkr.ecr.REGION.amazonaws.com/sagemaker-xgboost:VERSION). Train elsewhere, and "
            "upload the model."
        )
    if algorithm["TrainingInputMode"] == "Pipe":
        raise ValidationException("TrainingInputMode Pipe is not available on this local endpoint: use File.")
    if not resources.get("InstanceType"):
        raise ValidationException(
            "ResourceConfig must have an InstanceType: this local endpoint has no instance groups."
        )
    if resources.get("InstanceCount", 1) != 1:
        raise ValidationException("InstanceCount must be 1: this local endpoint trains on one instance.")
    _check_channels(request.get("InputDataConfig") or [])
    for url in (request["OutputDataConfig"]["S3OutputPath"],):
        _check_url(url)


def _check_channels(channels: list[Parameters]) -> None:
    names = [each["ChannelName"] for each in channels]
    if "train" not in names:
        raise ValidationException("InputDataConfig must have a channel train: XGBoost needs it.")
    for name in names:
        if name not in CHANNELS or names.count(name) > 1:
            raise ValidationException(
                f"Channel {name} is not one of XGBoost's: it has train and validation, once each."
            )
    kinds = set()
    for channel in channels:
        name, source = channel["ChannelName"], channel["DataSource"].get("S3DataSource")
        if source is None:
            raise ValidationException(f"Channel {name} must have an S3DataSource: no other is available here.")
        if source["S3DataType"] != "S3Prefix":
            raise ValidationException(
                f"S3DataType {source['S3DataType']} of channel {name} is not available: use S3Prefix."
            )
        if source.get("S3DataDistributionType", "FullyReplicated") != "FullyReplicated":
            raise ValidationException(f"S3DataDistributionType of channel {name} must be FullyReplicated here.")
        if channel.get("RecordWrapperType", "None") != "None" or channel.get("InputMode") == "Pipe":
            raise ValidationException(f"Channel {name}: neither RecordIO nor Pipe is available here.")
        _check_url(source["S3Uri"])
        try:
            kinds.add(content_type(channel))
        except ValueError as error:
            raise ValidationException(
                f"ContentType {error} of channel {name} is not available here: use text/csv or text/libsvm."
            ) from None
    if len(kinds) > 1:
        raise ValidationException("The channels must have the same ContentType.")


def _check_metrics(definitions: list[Parameters]) -> None:
    try:
        LogMetrics(definitions).close()
    except ValueError as error:
        raise ValidationException(f"{error}.") from None
    except NotInTime:
        raise ValidationException("MetricDefinitions: the expressions take too long to compile.") from None


def _check_url(url: str) -> None:
    try:
        S3Location.parse(url)
    except ValueError as error:
        raise ValidationException(f"{error}.") from None
