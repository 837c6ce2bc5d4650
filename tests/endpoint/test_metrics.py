"""CloudWatch's metrics of endpoints, as boto3 gets them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from local_endpoint.telemetry import metric_store
from local_endpoint.telemetry.metric_store import Aggregate, MetricStore, Series
from local_endpoint.telemetry.percentiles import of_data
from tests.endpoint.local import ROLE, Local, behaving, message, pack, refused
from tests.endpoint.test_programs import call
from tests.harness.waiting import wait_until

VARIANT = {"EndpointName": "endpoint", "VariantName": "AllTraffic"}
STATISTICS = ["SampleCount", "Sum", "Average", "Minimum", "Maximum"]


@pytest.fixture(scope="module")
def module_local() -> Iterator[Local]:
    """One that publishes every second."""
    with Local(metric_period_s=1, health_interval_s=0.2) as running:
        yield running


def dimensions(**values: str) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in values.items()]


def window() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    return {"StartTime": now - hour, "EndTime": now + hour}


def statistics(local: Local, name: str, namespace: str = "AWS/SageMaker", **values: str) -> dict[str, Any]:
    """Of two hours, in one; {} where there are none."""
    points = local.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=dimensions(**values),
        Period=7200,
        Statistics=STATISTICS,
        **window(),
    )["Datapoints"]
    assert len(points) <= 1
    return points[0] if points else {}


def percentiles(local: Local, name: str, namespace: str, *wanted: str, **values: str) -> list[float | None]:
    """Of two hours, in one."""
    (point,) = local.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=dimensions(**values),
        Period=7200,
        ExtendedStatistics=list(wanted),
        **window(),
    )["Datapoints"]
    return [point.get("ExtendedStatistics", {}).get(each) for each in wanted]


def wait_for_count(local: Local, name: str, count: int, namespace: str = "AWS/SageMaker", **values: str) -> Any:
    wait_until(
        lambda: statistics(local, name, namespace, **values).get("SampleCount") == count,
        lambda: f"{name} of {values} is {statistics(local, name, namespace, **values)}, not of {count} samples",
    )
    return statistics(local, name, namespace, **values)


# ---- those with a local endpoint of their own: one at a time per process ----


def test_an_invocation_that_found_no_instance_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with Local(metric_period_s=1, response_timeout_s=0.5) as local:
        local.deploy(Environment={})
        deployment = local.app.endpoints.deployment("us-east-1", "endpoint")
        assert deployment is not None
        monkeypatch.setattr(deployment.fleets["AllTraffic"], "_in_state", lambda *_: [])
        refused(local, "ServiceUnavailable", 503, "m.tar.gz")
        assert wait_for_count(local, "Invocations", 1, **VARIANT)["Sum"] == 1
        assert statistics(local, "InvocationModelErrors", **VARIANT)["Sum"] == 0
        assert statistics(local, "ModelLatency", **VARIANT) == {}
        assert statistics(local, "ModelCacheHit", **VARIANT) == {}


def test_a_time_out_is_an_error_of_the_model_without_a_status() -> None:
    with Local(metric_period_s=1, response_timeout_s=1.0) as local:
        local.upload("models/m.tar.gz", behaving(invoke_s=30))
        local.deploy(Environment={})
        refused(local, "ModelError", 424, "m.tar.gz")
        wait_for_count(local, "Invocations", 1, **VARIANT)
        sums = [
            statistics(local, name, **VARIANT)["Sum"]
            for name in ("InvocationModelErrors", "Invocation4XXErrors", "Invocation5XXErrors")
        ]
        assert sums == [1, 0, 0]


# ---- those that share one ----


def test_invocations_are_counted_by_what_the_model_answered(local: Local) -> None:
    for name, status in (("good", 200), ("client", 400), ("server", 500)):
        local.upload(f"models/{name}.tar.gz", behaving(invoke_status=status, invoke_body="x", invoke_s=0.01))
    names = {"EndpointName": "counted", "VariantName": "AllTraffic"}
    local.deploy("counted", instances=2)
    for _ in range(3):
        local.invoke_raw("good.tar.gz", endpoint="counted")
    refused(local, "ModelError", 424, "client.tar.gz", endpoint="counted")
    refused(local, "ModelError", 424, "server.tar.gz", endpoint="counted")
    assert wait_for_count(local, "Invocations", 5, **names)["Sum"] == 5
    for name, sum_ in (
        ("Invocation4XXErrors", 1),
        ("Invocation5XXErrors", 1),
        ("InvocationModelErrors", 2),
        ("InvocationsPerInstance", 2.5),
        ("ModelCacheHit", 2),
    ):
        found = statistics(local, name, **names)
        assert (found["SampleCount"], found["Sum"], found["Unit"]) == (5, sum_, "None"), name
    model = statistics(local, "ModelLatency", **names)
    assert model["SampleCount"] == 5 and model["Unit"] == "Microseconds"
    assert 10_000 <= model["Minimum"] <= model["Average"] <= model["Maximum"] < 60e6
    assert statistics(local, "OverheadLatency", **names)["SampleCount"] == 5
    assert statistics(local, "ModelLoadingWaitTime", **names)["SampleCount"] == 3
    for name in ("ModelDownloadingTime", "ModelLoadingTime"):
        assert statistics(local, name, **names)["SampleCount"] == 3
    # by model, in a namespace of our own
    own = {**names, "TargetModel": "good.tar.gz"}
    namespace = "LocalEndpoint/TargetModels"
    assert statistics(local, "Invocations", namespace, **own)["Sum"] == 3
    assert statistics(local, "ModelCacheHit", namespace, **own)["Average"] == pytest.approx(2 / 3)
    assert statistics(local, "ModelLatency", namespace, **own)["SampleCount"] == 3
    failing = {**names, "TargetModel": "server.tar.gz"}
    assert statistics(local, "Invocation5XXErrors", namespace, **failing)["Average"] == 1
    # a request has to name all dimensions, as on AWS
    assert statistics(local, "Invocations", namespace, **names) == {}
    assert statistics(local, "Invocations", EndpointName="counted") == {}
    assert statistics(local, "Invocations", "AWS/Other", **names) == {}


def test_what_does_not_fit_the_endpoint_counts_as_an_invocation(local: Local) -> None:
    local.upload("only.tar.gz", pack({"text": "it"}))
    local.deploy("many")
    local.deploy("single", url="s3://test-models/only.tar.gz", multi=False)
    refused(local, "ValidationError", 400, endpoint="many")  # no TargetModel
    refused(local, "ValidationError", 400, "m.tar.gz", endpoint="single")
    for name in ("many", "single"):
        names = {"EndpointName": name, "VariantName": "AllTraffic"}
        assert wait_for_count(local, "Invocations", 1, **names)["Sum"] == 1
        # these are by what a model answered, and none was asked
        assert statistics(local, "Invocation4XXErrors", **names)["Sum"] == 0
        assert statistics(local, "ModelLatency", **names) == {}
        own = {**names, "TargetModel": "m.tar.gz"}
        assert statistics(local, "Invocations", "LocalEndpoint/TargetModels", **own) == {}


def test_an_unload_takes_time_that_is_counted(local: Local) -> None:
    names = {"EndpointName": "tight", "VariantName": "AllTraffic"}
    local.deploy("tight", Environment={"FAKE_CAPACITY": "1"})
    for name in ("first", "second", "third"):
        local.upload(f"models/{name}.tar.gz", pack({"text": name}))
        local.invoke(f"{name}.tar.gz", endpoint="tight")
    found = wait_for_count(local, "ModelUnloadingTime", 2, **names)
    assert found["Unit"] == "Microseconds" and 0 < found["Minimum"] <= found["Maximum"] < 60e6
    for name, count in (("first", 1), ("second", 1), ("third", None)):
        own = {**names, "TargetModel": f"{name}.tar.gz"}
        by_model = statistics(local, "ModelUnloadingTime", "LocalEndpoint/TargetModels", **own)
        assert by_model.get("SampleCount") == count


def test_instances_are_looked_at_every_period(local: Local) -> None:
    local.upload("models/m.tar.gz", pack({"text": "it", "large": b"\0" * 10_000_000}))
    local.deploy("looked-at", instances=2, variant={"VolumeSizeInGB": 1})
    local.invoke("m.tar.gz", endpoint="looked-at")
    names = {"EndpointName": "looked-at", "VariantName": "AllTraffic"}
    namespace = "/aws/sagemaker/Endpoints"
    wait_until(
        lambda: statistics(local, "LoadedModelCount", namespace, **names).get("Maximum") == 1,
        "the loaded model is not counted",
    )
    loaded = statistics(local, "LoadedModelCount", namespace, **names)
    assert loaded["Minimum"] == 0 and loaded["SampleCount"] >= 2  # one sample per instance
    memory = statistics(local, "MemoryUtilization", namespace, **names)
    assert 0 < memory["Minimum"] <= memory["Maximum"] < 5 and memory["Unit"] == "Percent"
    disk = statistics(local, "DiskUtilization", namespace, **names)
    assert disk["Minimum"] < 0.5 and 0.9 < disk["Maximum"] < 2  # 10 MB of 1 GiB
    assert statistics(local, "CPUUtilization", namespace, **names)["SampleCount"] == disk["SampleCount"]


def test_each_container_of_several_has_metrics_of_its_own(local: Local) -> None:
    containers = [{"ContainerHostname": name, "Image": "an-image"} for name in ("first", "second")]
    local.sagemaker.create_model(ModelName="chain", ExecutionRoleArn=ROLE, Containers=containers)
    local.create_config("chain", "chain")
    local.sagemaker.create_endpoint(EndpointName="chain", EndpointConfigName="chain")
    local.wait("chain", "InService")
    local.invoke(endpoint="chain")
    names = {"EndpointName": "chain", "VariantName": "AllTraffic"}
    wait_for_count(local, "Invocations", 1, **names)
    latencies = 0.0
    for name in ("first", "second"):
        own = {**names, "ContainerName": name}
        assert statistics(local, "Invocations", **own)["Sum"] == 1
        assert statistics(local, "Invocation5XXErrors", **own)["Sum"] == 0
        latencies += statistics(local, "ContainerLatency", **own)["Sum"]
        for metric in ("CPUUtilization", "MemoryUtilization", "DiskUtilization"):
            assert statistics(local, metric, "/aws/sagemaker/Endpoints", **own)["SampleCount"] >= 1
    assert statistics(local, "ModelLatency", **names)["Sum"] == pytest.approx(latencies)


def invoked_once(local: Local, name: str) -> dict[str, str]:
    """The dimensions of a new endpoint's variant, whose one invocation has been counted."""
    local.upload("models/m.tar.gz", pack({"text": "it"}))
    local.deploy(name)
    local.invoke("m.tar.gz", endpoint=name)
    names = {"EndpointName": name, "VariantName": "AllTraffic"}
    wait_for_count(local, "Invocations", 1, **names)
    return names


def test_metrics_are_listed_and_got_many_at_once(local: Local) -> None:
    names = invoked_once(local, "listed")
    cloudwatch = local.client("cloudwatch")
    listed = cloudwatch.list_metrics(Dimensions=dimensions(EndpointName="listed"))["Metrics"]
    shown = {(each["Namespace"], each["MetricName"], len(each["Dimensions"])) for each in listed}
    assert len(shown) == len(listed)
    assert {("AWS/SageMaker", "ModelLatency", 2), ("LocalEndpoint/TargetModels", "ModelLatency", 3)} <= shown
    by_name = cloudwatch.list_metrics(Namespace="AWS/SageMaker", MetricName="Invocations")["Metrics"]
    assert names in [{each["Name"]: each["Value"] for each in its["Dimensions"]} for its in by_name]

    queries = [
        {
            "Id": f"q{number}",
            "MetricStat": {
                "Metric": {"Namespace": "AWS/SageMaker", "MetricName": name, "Dimensions": dimensions(**names)},
                "Period": 3600,
                "Stat": "Sum",
            },
        }
        for number, name in enumerate(("Invocations", "Invocation4XXErrors", "NoSuchMetric"))
    ]
    results = cloudwatch.get_metric_data(MetricDataQueries=queries, **window())["MetricDataResults"]
    assert [each["Values"] for each in results] == [[1.0], [0.0], []]


def test_a_query_gets_each_series_once_however_many_statistics_it_asks_for(local: Local) -> None:
    names = invoked_once(local, "once")
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocations", "Dimensions": dimensions(**names)}
    queries = [
        {"Id": stat.lower(), "MetricStat": {"Metric": metric, "Period": 3600, "Stat": stat}} for stat in STATISTICS
    ]
    results = local.client("cloudwatch").get_metric_data(MetricDataQueries=queries, **window())["MetricDataResults"]
    assert {each["Id"]: each["Values"] for each in results} == {stat.lower(): [1.0] for stat in STATISTICS}


def test_what_clients_put_is_there_too(local: Local) -> None:
    local.client("cloudwatch").put_metric_data(
        Namespace="Mine", MetricData=[{"MetricName": "m", "Value": 7, "Dimensions": dimensions(a="b")}]
    )
    assert statistics(local, "m", "Mine", a="b")["Sum"] == 7
    listed = local.client("cloudwatch").list_metrics(Namespace="Mine")["Metrics"]
    assert [each["MetricName"] for each in listed] == ["m"]


def test_percentiles_of_what_clients_put_are_among_its_values(local: Local) -> None:
    cloudwatch = local.client("cloudwatch")
    for value in range(1, 101):
        cloudwatch.put_metric_data(Namespace="shares", MetricData=[{"MetricName": "mine", "Value": float(value)}])
    assert percentiles(local, "mine", "shares", "p0", "p50", "p99", "p99.9", "p100") == [1, 50, 99, 100, 100]
    query = {
        "Id": "q",
        "MetricStat": {"Metric": {"Namespace": "shares", "MetricName": "mine"}, "Period": 7200, "Stat": "p90"},
    }
    (result,) = cloudwatch.get_metric_data(MetricDataQueries=[query], **window())["MetricDataResults"]
    assert result["Values"] == [90]


def test_percentiles_of_latencies_are_there(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving())
    local.deploy("shares")
    for _ in range(20):
        local.invoke("m.tar.gz", endpoint="shares")
    where = {"EndpointName": "shares", "VariantName": "AllTraffic"}
    found = wait_for_count(local, "ModelLatency", 20, **where)
    low, middle, high = percentiles(local, "ModelLatency", "AWS/SageMaker", "p0", "p50", "p100", **where)
    assert low is not None and middle is not None and high is not None
    assert low == pytest.approx(found["Minimum"], rel=0.01) and high == pytest.approx(found["Maximum"], rel=0.01)
    assert low <= middle <= high


def test_a_percentile_of_a_summary_is_not_known(local: Local) -> None:
    summary = {"SampleCount": 3.0, "Sum": 6.0, "Minimum": 1.0, "Maximum": 3.0}
    local.client("cloudwatch").put_metric_data(
        Namespace="summaries", MetricData=[{"MetricName": "mine", "StatisticValues": summary}]
    )
    assert percentiles(local, "mine", "summaries", "p50") == [None]


@pytest.mark.parametrize("statistic", ["p101", "p", "tm90", "Median"])
def test_a_statistic_that_is_not_there_is_refused_by_its_name(local: Local, statistic: str) -> None:
    with pytest.raises(ClientError) as refusal:
        percentiles(local, "Invocations", "AWS/SageMaker", statistic)
    assert refusal.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert statistic in message(refusal.value.response) and "p99.9" in message(refusal.value.response)
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocations"}
    query = {"Id": "q", "MetricStat": {"Metric": metric, "Period": 60, "Stat": statistic}}
    with pytest.raises(ClientError, match=f"The statistic {statistic} is not supported"):
        local.client("cloudwatch").get_metric_data(MetricDataQueries=[query], **window())


@given(
    st.lists(st.floats(-1e9, 1e9, allow_subnormal=False), min_size=1, max_size=200),
    st.integers(0, 1000).map(lambda tenths: tenths / 10),
)
def test_a_percentile_of_an_aggregate_is_within_one_part_in_a_hundred(values: list[float], percent: float) -> None:
    aggregate = Aggregate()
    for value in values:
        aggregate.add(value)
    series = Series("us-east-1", "n", "m", (), "None")
    datum = metric_store._datum(series, datetime.datetime(2026, 1, 1), aggregate)
    rank = max(1, math.ceil(percent / 100 * len(values)))
    found = of_data([datum], f"p{percent:g}")
    assert found == pytest.approx(sorted(values)[rank - 1], rel=0.0101)


def test_the_number_of_points_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_store, "POINTS", 10)
    store = MetricStore()
    series = [Series("r", "n", f"m{number}", (), "None") for number in range(4)]
    for second in range(5):
        store.publish(second, {each: Aggregate() for each in series[: 3 if second else 4]})
    kept = {each.name: len(points) for each, points in store._points.items()}
    assert kept == {"m0": 3, "m1": 3, "m2": 4} and sum(kept.values()) == 10


# ---- the program ----


def test_the_program_prints_a_table_of_the_variant_and_one_of_its_models(local: Local) -> None:
    for name in ("one", "two"):
        local.upload(f"models/{name}.tar.gz", pack({"text": name}))
    local.deploy("shown")
    for target in ("one.tar.gz", "two.tar.gz", "two.tar.gz"):
        local.invoke(target, endpoint="shown")
    wait_for_count(local, "Invocations", 3, EndpointName="shown", VariantName="AllTraffic")
    said = call(local, "metrics", "--endpoint", "shown").stdout
    lines = [line.split() for line in said.splitlines()]
    assert ["VariantName", "AllTraffic"] in lines
    assert ["Invocations", "3", "3", "1", "1", "1"] in lines
    assert any(line[:1] == ["MemoryUtilization"] for line in lines)
    by_model = {line[1]: line[2:5] for line in lines if len(line) > 2 and line[1].endswith(".tar.gz")}
    assert by_model == {"two.tar.gz": ["2", "0", "0.50"], "one.tar.gz": ["1", "0", "0"]}
    assert list(by_model) == ["two.tar.gz", "one.tar.gz"]  # the one invoked most first
    assert "there are no metrics of nothing" in call(local, "metrics", "--endpoint", "nothing").stdout
