"""Training jobs of SageMaker's XGBoost algorithm, as boto3 runs them: real data, the real library, a real model."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError, WaiterError

from local_endpoint.control_plane import training_jobs
from local_endpoint.storage.resources import Resources
from local_endpoint.training import job, log_metrics
from local_endpoint.training.hyperparameters import HYPERPARAMETERS, HyperparameterError, parsed
from local_endpoint.training.program import parameters_of
from tests.endpoint.local import BUCKET, KEYS, ROLE, Local
from tests.endpoint.program import Program
from tests.endpoint.test_metrics import statistics
from tests.endpoint.test_programs import call
from tests.harness.waiting import wait_until

if TYPE_CHECKING:  # else where it is used: its import takes longer than many a run of other tests
    import xgboost

IMAGE = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1"
GROUP = "/aws/sagemaker/TrainingJobs"
ONE_THREAD = {"nthread": 1}  # several wait for one another, each on a core of its own
FEATURES = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
LABELS = FEATURES @ np.array([1, -2, 3], np.float32)


def csv(rows: slice = slice(None)) -> str:
    return "".join(
        f"{label},{','.join(map(str, row))}\n" for label, row in zip(LABELS[rows], FEATURES[rows], strict=True)
    )


def libsvm(rows: slice = slice(None)) -> str:
    lines = [
        f"{label} " + " ".join(f"{index}:{value}" for index, value in enumerate(row))
        for label, row in zip(LABELS[rows], FEATURES[rows], strict=True)
    ]
    return "\n".join(lines) + "\n"


def channel(name: str, content_type: str | None = "text/csv", **source: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/data/{name}", **source}
    kind = {"ContentType": content_type} if content_type else {}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, **kind}


def request(name: str, **members: Any) -> dict[str, Any]:
    return {
        "TrainingJobName": name,
        "HyperParameters": {"objective": "reg:squarederror", "num_round": "5"},
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "InputDataConfig": [channel("train")],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/output"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        **members,
    }


def finish(local: Local, name: str, wanted: str = "Completed") -> dict[str, Any]:
    """The description of the job once it has come to its end."""
    described: dict[str, Any] = {}

    def is_over() -> bool:
        described.update(local.sagemaker.describe_training_job(TrainingJobName=name))
        return described["TrainingJobStatus"] not in ("InProgress", "Stopping")

    wait_until(is_over, lambda: f"{name} is still {described}", 60)
    assert described["TrainingJobStatus"] == wanted, described
    return described


def algorithm(**definitions: str) -> dict[str, Any]:
    """Ours, with metrics of a client's."""
    metrics = [{"Name": name, "Regex": regex} for name, regex in definitions.items()]
    return {"TrainingImage": IMAGE, "TrainingInputMode": "File", "MetricDefinitions": metrics}


def train(local: Local, name: str, wanted: str = "Completed", **members: Any) -> dict[str, Any]:
    local.sagemaker.create_training_job(**request(name, **members))
    return finish(local, name, wanted)


def said(local: Local, name: str) -> list[str]:
    pages = (
        local.client("logs")
        .get_paginator("filter_log_events")
        .paginate(logGroupName=GROUP, logStreamNamePrefix=f"{name}/")
    )
    return [event["message"] for page in pages for event in page["events"]]


def model_of(local: Local, described: dict[str, Any], folder: Path) -> xgboost.Booster:
    import xgboost

    url = described["ModelArtifacts"]["S3ModelArtifacts"]
    packed = local.s3.get_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getnames() == ["xgboost-model"]
        tar.extractall(folder, filter="data")
    return xgboost.Booster(ONE_THREAD, model_file=folder / "xgboost-model")


@pytest.fixture
def data(local: Local) -> None:
    local.upload("data/train/a.csv", csv(slice(0, 100)).encode())
    local.upload("data/train/b.csv", csv(slice(100, 200)).encode())
    local.upload("data/validation/v.csv", csv(slice(200, 300)).encode())


# ---- what is trained ----


@pytest.mark.usefixtures("data")
def test_a_model_is_trained_as_the_library_trains_it(local: Local, tmp_path: Path) -> None:
    import xgboost

    hyperparameters = {"objective": "reg:linear", "num_round": "20", "eta": "0.3", "max_depth": "4", "seed": "7"}
    hyperparameters["eval_metric"] = "rmse,mae"
    created = local.sagemaker.create_training_job(
        **request("trained", HyperParameters=hyperparameters, InputDataConfig=[channel("train"), channel("validation")])
    )
    assert created["TrainingJobArn"] == "arn:aws:sagemaker:us-east-1:123456789012:training-job/trained"
    waiter = local.sagemaker.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName="trained", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    described = finish(local, "trained")
    assert described["ModelArtifacts"] == {"S3ModelArtifacts": f"s3://{BUCKET}/output/trained/output/model.tar.gz"}
    statuses = [each["Status"] for each in described["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert described["HyperParameters"] == hyperparameters
    assert described["TrainingStartTime"] <= described["TrainingEndTime"] and described["TrainingTimeInSeconds"] >= 1

    booster = model_of(local, described, tmp_path)
    own = xgboost.train(
        {"objective": "reg:squarederror", "eta": 0.3, "max_depth": 4, "seed": 7, **ONE_THREAD},
        xgboost.DMatrix(FEATURES[:200], LABELS[:200], **ONE_THREAD),
        num_boost_round=20,
    )
    rest = xgboost.DMatrix(FEATURES[200:], **ONE_THREAD)
    assert booster.num_boosted_rounds() == 20
    np.testing.assert_allclose(booster.predict(rest), own.predict(rest), rtol=1e-4)

    lines = said(local, "trained")
    assert "Train matrix has 200 rows and 3 columns" in lines
    rounds = [line for line in lines if line.startswith("[")]
    assert len(rounds) == 20 and rounds[-1].startswith("[19]#011train-rmse:")
    final = {each["MetricName"]: each["Value"] for each in described["FinalMetricDataList"]}
    assert set(final) == {"train:rmse", "train:mae", "validation:rmse", "validation:mae"}
    error = float(np.sqrt(np.mean((booster.predict(rest) - LABELS[200:]) ** 2)))
    assert final["validation:rmse"] == pytest.approx(error, abs=1e-3)
    found = statistics(local, "validation:rmse", GROUP, TrainingJobName="trained")
    assert found["SampleCount"] == 20 and found["Minimum"] == pytest.approx(final["validation:rmse"], abs=1e-4)
    shown = call(local, "logs", "--training-job", "trained").stdout
    assert rounds[-1] in shown


def final_metrics(described: dict[str, Any]) -> dict[str, float]:
    return {each["MetricName"]: each["Value"] for each in described["FinalMetricDataList"]}


@pytest.mark.usefixtures("data")
def test_a_clients_expressions_find_metrics(local: Local) -> None:
    found = {"error": r"train-rmse:(\S+)", "round": r"^\[(\d+)\]"}
    nothing = {"optional": r"(a)?train", "no number": r"(train)", "no group": "train", "absent": r"absent (\d)"}
    final = final_metrics(train(local, "expressions", AlgorithmSpecification=algorithm(**found, **nothing)))
    assert set(final) == {"train:rmse", "error", "round"}
    assert final["error"] == final["train:rmse"] and final["round"] == 4


@pytest.mark.usefixtures("data")
@pytest.mark.ci  # waits for long
def test_an_expression_that_never_ends_costs_the_jobs_own_metrics_alone(local: Local) -> None:
    """The server goes on meanwhile, and so does the training."""
    endless = algorithm(endless="([^x]+)+!", error=r"train-rmse:(\S+)")
    local.sagemaker.create_training_job(**request("endless", AlgorithmSpecification=endless))
    longest_s = 0.0
    for _ in range(30):
        start_s = time.monotonic()
        local.s3.list_buckets()
        longest_s = max(longest_s, time.monotonic() - start_s)
        time.sleep(0.1)
    assert longest_s < log_metrics.LINE_TIMEOUT_S / 2
    assert set(final_metrics(finish(local, "endless"))) == {"train:rmse"}
    told = "MetricDefinitions: the expressions take too long for this log; they are left out."
    assert said(local, "endless").count(told) == 1


@pytest.mark.usefixtures("data")
def test_jobs_of_one_name_in_two_regions_train_side_by_side(local: Local, tmp_path: Path) -> None:
    elsewhere = boto3.client("sagemaker", endpoint_url=local.url, **{**KEYS, "region_name": "eu-west-1"})
    rounds = {"objective": "reg:squarederror", "num_round": "300"}
    here = request("twin", HyperParameters=rounds)
    there = request("twin", OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/elsewhere"})
    local.sagemaker.create_training_job(**here)
    elsewhere.create_training_job(**there)
    waiter = elsewhere.get_waiter("training_job_completed_or_stopped")
    waiter.wait(TrainingJobName="twin", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    assert elsewhere.describe_training_job(TrainingJobName="twin")["TrainingJobStatus"] == "Completed"
    booster = model_of(local, finish(local, "twin"), tmp_path)
    assert booster.num_boosted_rounds() == 300


@pytest.mark.ci  # trains twice; CSV is trained on by others
def test_libsvm_packed_data_and_the_older_image_are_understood(local: Local, tmp_path: Path) -> None:
    import xgboost

    local.upload("data/train", gzip.compress(libsvm(slice(0, 200)).encode()))
    image = "811284229777.dkr.ecr.us-east-1.amazonaws.com/xgboost:latest"
    described = train(
        local,
        "libsvm",
        AlgorithmSpecification={"TrainingImage": image, "TrainingInputMode": "File"},
        InputDataConfig=[channel("train", None)],
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}"},
    )
    assert described["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/libsvm/output/model.tar.gz"
    matrix = xgboost.DMatrix(FEATURES[:200], LABELS[:200], **ONE_THREAD)
    own = xgboost.train({"objective": "reg:squarederror", **ONE_THREAD}, matrix, num_boost_round=5)
    rest = xgboost.DMatrix(FEATURES[200:], **ONE_THREAD)
    np.testing.assert_allclose(model_of(local, described, tmp_path).predict(rest), own.predict(rest), rtol=1e-4)


def test_weights_and_missing_cells_of_csv_count(local: Local, tmp_path: Path) -> None:
    import xgboost

    rows: list[list[Any]] = [[1, 0.5, 2], [3, 1, ""], [5, 1, 4]]
    local.upload("data/train", "\n".join(",".join(str(cell) for cell in row) for row in rows * 20).encode())
    described = train(local, "weights", HyperParameters={"num_round": "3", "csv_weights": "1", "base_score": "0"})
    table = np.array([[np.nan if cell == "" else cell for cell in row] for row in rows * 20], np.float32)
    matrix = xgboost.DMatrix(table[:, 2:], label=table[:, 0], weight=table[:, 1], **ONE_THREAD)
    own = xgboost.train({"base_score": 0, **ONE_THREAD}, matrix, num_boost_round=3)
    booster = model_of(local, described, tmp_path)
    np.testing.assert_allclose(booster.predict(matrix), own.predict(matrix), rtol=1e-5)


@pytest.mark.usefixtures("data")
def test_early_stopping_keeps_the_best(local: Local, tmp_path: Path) -> None:
    local.upload("data/validation/v.csv", "".join(f"{x},1,1,{x}\n" for x in range(20)).encode())
    hyperparameters = {"num_round": "500", "early_stopping_rounds": "3", "eta": "0.5"}
    channels = [channel("train"), channel("validation")]
    described = train(local, "early", HyperParameters=hyperparameters, InputDataConfig=channels)
    rounds = len([line for line in said(local, "early") if line.startswith("[")])
    assert rounds < 500
    assert model_of(local, described, tmp_path).num_boosted_rounds() == rounds - 3


# ---- what fails, and how it is told ----


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    "hyperparameters, reason",
    [
        ({}, "Missing required hyperparameter: num_round"),
        ({"num_round": "5", "learning": "1"}, "Extraneous hyperparameter found: learning"),
        ({"num_round": "many"}, "Hyperparameter num_round: could not parse value"),
        ({"num_round": "5", "eta": "2"}, "Hyperparameter eta: 2.0 is not in [0, 1]"),
    ],
)
def test_a_wrong_hyperparameter_fails_the_job_in_the_algorithms_words(
    local: Local, hyperparameters: dict[str, str], reason: str
) -> None:
    name = f"wrong-{abs(hash(reason))}"
    described = train(local, name, "Failed", HyperParameters=hyperparameters)
    assert described["FailureReason"] == f"ClientError: {reason}, exit code: 1"
    assert described["SecondaryStatus"] == "Failed"
    assert said(local, name) == [f"ClientError: {reason}"]
    with pytest.raises(WaiterError, match="Failed"):
        local.sagemaker.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName=name)


def test_data_that_is_no_csv_fails_the_job(local: Local) -> None:
    local.upload("data/train", b"price,rooms\n1,2\n")
    described = train(local, "no-csv", "Failed")
    assert described["FailureReason"].startswith(
        "ClientError: Loading csv data failed with Exception, please ensure data is in csv format: could not convert"
    )
    assert not local.s3.list_objects_v2(Bucket=BUCKET, Prefix="output/").get("Contents")


@pytest.mark.ci  # trains until memory ends
def test_a_job_that_needs_more_memory_than_its_instance_has_fails(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "memory_bytes", lambda _: 1024**3)
    local.upload("data/train", b"1 0:1 2000000000:1\n0 0:2\n" * 10)  # a few bytes for each of 2e9 columns
    described = train(local, "large", "Failed", InputDataConfig=[channel("train", "text/libsvm")])
    assert "use an instance type with more memory" in described["FailureReason"], described["FailureReason"]


# ---- stopping ----


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("saves", [True, False])
def test_a_job_can_be_stopped(local: Local, saves: bool, tmp_path: Path) -> None:
    name = f"stopped-{saves}".lower()
    hyperparameters = {"num_round": "1000000", "save_model_on_termination": str(saves).lower()}
    local.sagemaker.create_training_job(**request(name, HyperParameters=hyperparameters))
    wait_until(
        lambda: len(said_or_nothing(local, name)) > 5, lambda: f"it does not train: {said_or_nothing(local, name)}"
    )
    local.sagemaker.stop_training_job(TrainingJobName=name)
    described = finish(local, name, "Stopped")
    assert described["SecondaryStatus"] == "Stopped"
    if saves:
        assert model_of(local, described, tmp_path).num_boosted_rounds() >= 1
    else:
        assert "ModelArtifacts" not in described
    with pytest.raises(ClientError, match="The request was rejected because the training job is in status Stopped"):
        local.sagemaker.stop_training_job(TrainingJobName=name)


def said_or_nothing(local: Local, name: str) -> list[str]:
    try:
        return said(local, name)
    except local.client("logs").exceptions.ResourceNotFoundException:
        return []


@pytest.mark.usefixtures("data")
def test_a_job_that_takes_too_long_is_stopped(local: Local) -> None:
    hyperparameters = {"num_round": "1000000"}
    condition = {"MaxRuntimeInSeconds": 2}
    described = train(local, "slow", "Stopped", HyperParameters=hyperparameters, StoppingCondition=condition)
    assert described["SecondaryStatus"] == "MaxRuntimeExceeded"


# ---- requests ----


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    "members, wanted",
    [
        (
            {
                "AlgorithmSpecification": {
                    "TrainingImage": "1.dkr.ecr.x.amazonaws.com/pytorch:2",
                    "TrainingInputMode": "File",
                }
            },
            "Training image 1.dkr.ecr.x.amazonaws.com/pytorch:2 is not available on this local endpoint",
        ),
        (
            {"AlgorithmSpecification": {"AlgorithmName": "mine", "TrainingInputMode": "File"}},
            "AlgorithmName is not available",
        ),
        (
            {"AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "Pipe"}},
            "TrainingInputMode Pipe is not available",
        ),
        ({"InputDataConfig": [channel("validation")]}, "must have a channel train"),
        ({"InputDataConfig": [channel("train"), channel("code")]}, "Channel code is not one of XGBoost's"),
        ({"InputDataConfig": [channel("train", "application/x-parquet")]}, "ContentType application/x-parquet"),
        ({"InputDataConfig": [channel("train", S3DataType="ManifestFile")]}, "S3DataType ManifestFile"),
        (
            {"InputDataConfig": [channel("train", S3DataDistributionType="ShardedByS3Key")]},
            "must be FullyReplicated",
        ),
        (
            {"InputDataConfig": [channel("train", S3Uri="s3://nowhere/data")]},
            'No S3 objects found under S3 URL "s3://nowhere/data" given in input data source. Please ensure that the '
            "bucket exists in the selected region (us-east-1)",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 5}},
            "InstanceCount must be 1",
        ),
        (
            {"AlgorithmSpecification": algorithm(good=r"rmse:(\S+)", bad="(")},
            "Regex ( of metric bad is no regular expression: missing ), unterminated subpattern at position 0.",
        ),
        ({"AlgorithmSpecification": algorithm(bad="(?<=a+)b")}, "Regex (?<=a+)b of metric bad"),
        ({"CheckpointConfig": {"S3Uri": "s3://b/c"}}, "CheckpointConfig is not available"),
    ],
)
def test_what_is_not_trained_here_is_refused(local: Local, members: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ClientError) as caught:
        local.sagemaker.create_training_job(**request("refused", **members))
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert wanted in caught.value.response["Error"]["Message"]
    with pytest.raises(ClientError, match="Requested resource not found"):
        local.sagemaker.describe_training_job(TrainingJobName="refused")


@pytest.mark.usefixtures("data")
def test_jobs_are_listed_and_their_names_are_taken(local: Local) -> None:
    train(local, "list-a")
    for name in ("list-b", "list-c"):
        train(local, name, "Failed", HyperParameters={})
    listed = local.sagemaker.list_training_jobs(NameContains="list-")["TrainingJobSummaries"]
    assert [each["TrainingJobName"] for each in listed] == ["list-c", "list-b", "list-a"]
    assert all(each["TrainingEndTime"] for each in listed)
    failed = local.sagemaker.list_training_jobs(NameContains="list-", StatusEquals="Failed")["TrainingJobSummaries"]
    assert [each["TrainingJobName"] for each in failed] == ["list-c", "list-b"]
    pages = local.sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains="list-", SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2}
    )
    names = [[each["TrainingJobName"] for each in page["TrainingJobSummaries"]] for page in pages]
    assert names == [["list-a", "list-b"], ["list-c"]]
    with pytest.raises(ClientError, match="a training job with this name already exists") as caught:
        local.sagemaker.create_training_job(**request("list-a"))
    assert caught.value.response["Error"]["Code"] == "ResourceInUse"


# What AWS's container knows (algorithm_mode/hyperparameter_validation.py of sagemaker-xgboost-container), without the
# three of cross-validation and tuning, which begin with an underscore; silent is of 0.72.
AWS_NAMES = """
    num_round csv_weights early_stopping_rounds booster verbosity nthread eta gamma max_depth min_child_weight
    max_delta_step subsample colsample_bytree colsample_bylevel colsample_bynode lambda alpha tree_method sketch_eps
    scale_pos_weight updater dsplit refresh_leaf process_type grow_policy max_leaves max_bin predictor
    monotone_constraints interaction_constraints sample_type normalize_type rate_drop one_drop skip_drop lambda_bias
    tweedie_variance_power objective num_class base_score eval_metric seed num_parallel_tree save_model_on_termination
    aft_loss_distribution aft_loss_distribution_scale single_precision_histogram deterministic_histogram
    sampling_method prob_buffer_row silent
"""


def test_every_hyperparameter_of_aws_can_be_given() -> None:
    assert set(AWS_NAMES.split()) == set(HYPERPARAMETERS)
    samples = {
        "eval_metric": "rmse", "objective": "reg:squarederror", "booster": "dart",
        "interaction_constraints": "[[0, 1]]", "monotone_constraints": "(1,0,-1)", "num_class": "2",
        "tree_method": "hist", "process_type": "default", "updater": "grow_colmaker,prune", "prob_buffer_row": "2",
    }  # fmt: skip
    values = {}
    for name, hyperparameter in HYPERPARAMETERS.items():
        allowed = hyperparameter.allowed
        text = samples.get(name) or (allowed[0] if isinstance(allowed, tuple) else "1")
        for each in (text, "0.5", "1.5"):
            try:
                values.update(parsed({"num_round": "1", "tree_method": "hist", name: each}))
                break
            except HyperparameterError:
                continue
        else:
            raise AssertionError(name)
    assert set(values) == set(HYPERPARAMETERS)


def test_a_hyperparameter_has_the_librarys_other_name() -> None:
    names = {"learning_rate": "0.5", "min_split_loss": "1", "reg_lambda": "2", "reg_alpha": "3"}
    assert parsed({"num_round": "1", **names}) == {
        "num_round": 1,
        "eta": 0.5,
        "gamma": 1.0,
        "lambda": 2.0,
        "alpha": 3.0,
    }


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"updater": "shotgun"}, "Tree updater should be selected from these options: "),
        ({"updater": "grow_colmaker,grow_histmaker"}, "Only one tree grow plugin can be selected."),
        ({"updater": "prune", "booster": "gblinear"}, "Linear updater should be one of these options: 'shotgun', 'coo"),
        ({"updater": "grow_colmaker", "process_type": "update"}, "process_type 'update' can only be used with updater"),
        ({"monotone_constraints": "(1,0)"}, "monotone_constraints can be used only when the tree_method parameter is "),
        ({"monotone_constraints": "(1,0)", "tree_method": "approx"}, "is set to either 'exact' or 'hist'."),
        ({"interaction_constraints": "[[0, 1]]"}, "is set to either 'exact', 'hist' or 'approx'."),
        ({"eval_metric": "aft-nloglik"}, "Metric 'aft-nloglik' can only be applied for 'survival:aft' objective."),
        ({"eval_metric": "rmse@1"}, "Metric 'rmse@1' is not supported."),
        ({"eval_metric": "error@x"}, "Threshold value 't' in 'error@t' expects float input."),
        ({"dsplit": "both"}, "Hyperparameter dsplit: both is not in ['row', 'col']"),
        ({"lambda_bias": "2"}, "Hyperparameter lambda_bias: 2.0 is not in [0, 1]"),
    ],
)
def test_hyperparameters_that_do_not_go_together_are_refused(given: dict[str, str], text: str) -> None:
    with pytest.raises(HyperparameterError) as caught:
        parsed({"num_round": "1", **given})
    assert text in str(caught.value)


def test_hyperparameters_that_go_together_are_taken() -> None:
    for given in (
        {"updater": "coord_descent", "booster": "gblinear"},
        {"updater": "refresh, prune", "process_type": "update"},
        {"monotone_constraints": "(1,0)", "tree_method": "exact"},
        {"interaction_constraints": "[[0, 1]]", "tree_method": "approx"},
        {"eval_metric": "aft-nloglik", "objective": "survival:aft"},
        {"eval_metric": "error@0.7,ndcg@3"},
    ):
        parsed({"num_round": "1", **given})
    assert parameters_of(parsed({"num_round": "1", "updater": "grow_colmaker, prune", "dsplit": "row"})) == {
        "updater": "grow_colmaker,prune"
    }


@pytest.mark.parametrize(
    ("image", "is_one"),
    [
        ("683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1", True),
        ("141502667606.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-xgboost:1.5-1-cpu-py3", True),
        ("226302683700.dkr.ecr.us-gov-west-1.amazonaws.com/sagemaker-xgboost@sha256:00", True),
        ("450853457545.dkr.ecr.cn-north-1.amazonaws.com.cn/sagemaker-xgboost:1.7-1", True),
        ("811284229777.dkr.ecr.us-east-1.amazonaws.com/xgboost:latest", True),
        ("sagemaker-xgboost:1.7-1", False),
        ("registry.example.com/sagemaker-xgboost:1.7-1", False),
        ("registry.example.com/683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1", False),
        ("683313688378.dkr.ecr.us-east-1.amazonaws.com.example.com/sagemaker-xgboost:1.7-1", False),
        ("683313688378.dkr.ecr.us-east-1.amazonaws.com/team/sagemaker-xgboost:1.7-1", False),
        ("683313688378.dkr.ecr.us-east-1.amazonaws.com/my-xgboost:1", False),
    ],
)
def test_an_image_of_sagemakers_xgboost_is_known_by_its_address(image: str, is_one: bool) -> None:
    assert bool(training_jobs.IMAGE.fullmatch(image)) is is_one


@pytest.mark.ci  # trains for long
def test_a_job_in_progress_is_failed_after_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = Program(tmp_path, "--state", str(state))
    try:
        first.client("s3").create_bucket(Bucket=BUCKET)
        first.client("s3").put_object(Bucket=BUCKET, Key="data/train", Body=csv().encode())
        first.client("sagemaker").create_training_job(**request("cut", HyperParameters={"num_round": "1000000"}))
        kept = state / "sagemaker.json"
        wait_until(lambda: '"Training"' in kept.read_text(), kept.read_text)
        children = first.ps.children(recursive=True)
        first.process.terminate()
        assert first.process.wait(40) == 0
    finally:
        first.kill()
    assert not [each for each in children if each.is_running() and "training" in " ".join(each.cmdline())]
    second = Program(tmp_path, "--state", str(state))
    try:
        described = second.client("sagemaker").describe_training_job(TrainingJobName="cut")
        assert described["TrainingJobStatus"] == "Failed"
        assert "was stopped while the job was in progress" in described["FailureReason"]
    finally:
        second.process.terminate()
        second.process.wait(40)
        second.kill()
    assert json.loads(kept.read_text())["records"]["training-job"]


def test_a_status_that_begins_while_another_does_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = Resources(None)
    key = training_jobs.TRAINING_JOB.key
    first = {"Status": "Starting", "StartTime": 0.0, "StatusMessage": "m"}
    record = {"TrainingJobName": "j", "SecondaryStatus": "Starting", "SecondaryStatusTransitions": [first]}
    resources.add(key, "us-east-1", "j", record, [])
    read = resources.get

    def read_and_wait(*which: str) -> dict[str, Any] | None:
        found = read(*which)
        time.sleep(0.2)  # so that all have read before the first writes, where nothing keeps them apart
        return found

    monkeypatch.setattr(resources, "get", read_and_wait)
    context = job.JobContext(objects=None, logs=None, metrics=None, janitor=None, work_dir=tmp_path)  # type: ignore[arg-type]
    jobs = training_jobs.TrainingJobs(resources, context)
    statuses = ["Downloading", "Training", "Uploading"]
    threads = [threading.Thread(target=jobs._enter, args=("us-east-1", "j", status)) for status in statuses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = read(key, "us-east-1", "j")
    assert found is not None
    transitions = found["SecondaryStatusTransitions"]
    assert sorted(each["Status"] for each in transitions) == ["Downloading", "Starting", "Training", "Uploading"]
    assert [each["Status"] for each in transitions if "EndTime" not in each] == [found["SecondaryStatus"]]


def test_a_job_that_is_stopped_as_soon_as_it_is_listed_stops(
    local: Local, data: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is seen before CreateTrainingJob has returned: the control plane does one thing at a time."""
    add, stoppers = Resources.add, []

    def add_and_let_others_in(resources: Resources, *arguments: Any) -> bool:
        added = add(resources, *arguments)
        stop = local.sagemaker.stop_training_job
        stoppers.append(threading.Thread(target=stop, kwargs={"TrainingJobName": "at-once"}))
        stoppers[0].start()
        stoppers[0].join(0.2)  # it waits for us
        return added

    monkeypatch.setattr(Resources, "add", add_and_let_others_in)
    local.sagemaker.create_training_job(**request("at-once", HyperParameters={"num_round": "1000000"}))
    stoppers[0].join(10)
    finish(local, "at-once", "Stopped")
