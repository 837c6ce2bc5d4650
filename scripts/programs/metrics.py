"""Prints the CloudWatch metrics of an endpoint as a table: of each variant, container and target model."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Container
from typing import Any

from scripts.programs.aws import client, plain_errors
from scripts.programs.console import at_least_one, run

NAMESPACES = ("AWS/SageMaker", "/aws/sagemaker/Endpoints")
# Of the local endpoint alone: AWS has none by model.
TARGET_MODELS = "LocalEndpoint/TargetModels"
COLUMNS = ("samples", "sum", "average", "minimum", "maximum")
STATISTICS = {"SampleCount": "samples", "Sum": "sum", "Average": "average", "Minimum": "minimum", "Maximum": "maximum"}
QUERIES_AT_ONCE = 50  # CloudWatch takes 500; moto's time grows with their square
# Those of target models are one line each, by these.
OF_MODELS = {
    "Invocations": ("Invocations", "Sum"),
    "errors": ("InvocationModelErrors", "Sum"),
    "hit ratio": ("ModelCacheHit", "Average"),
    "latency ms": ("ModelLatency", "Average"),
    "slowest ms": ("ModelLatency", "Maximum"),
    "load ms": ("ModelLoadingTime", "Average"),
    "loads": ("ModelLoadingTime", "SampleCount"),
    "unloads": ("ModelUnloadingTime", "SampleCount"),
}

Dimensions = tuple[tuple[str, str], ...]
Table = dict[Dimensions, dict[tuple[str, str], float]]
"""By dimensions: values by metric and statistic."""


def main() -> int:
    """Returns 0, also where there are none."""
    arguments = parse()
    with plain_errors(f"reading the metrics of {arguments.endpoint}"):
        cloudwatch = client("cloudwatch")
        found: Table = {}
        for namespace in NAMESPACES:
            for dimensions, values in read(cloudwatch, namespace, arguments.endpoint, arguments.minutes).items():
                found.setdefault(dimensions, {}).update(values)
        models = read(cloudwatch, TARGET_MODELS, arguments.endpoint, arguments.minutes, set(OF_MODELS.values()))
    if not found:
        print(
            f"there are no metrics of {arguments.endpoint} in the last {arguments.minutes} minutes: they are published "
            "once a minute (./scripts/local_endpoint --metric-period)"
        )
    for dimensions in sorted(found):
        print_all(dimensions, found[dimensions])
    if models:
        print_models(models)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/metrics",
        description="Prints the CloudWatch metrics of an endpoint as a table, of each variant, of each container where "
        "an instance has several, and, of a local endpoint, of each target model. Times are in milliseconds.",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument(
        "--endpoint", required=True, metavar="NAME", help="name of an endpoint, also of one that is gone"
    )
    parser.add_argument(
        "--minutes", type=at_least_one, default=60, metavar="N", help="of the last N minutes (default 60)"
    )
    return parser.parse_args()


def read(
    cloudwatch: Any, namespace: str, endpoint: str, minutes: int, only: Container[tuple[str, str]] | None = None
) -> Table:
    """All metrics of the endpoint in the namespace (``only`` these and their statistics); times in milliseconds."""
    pages = cloudwatch.get_paginator("list_metrics").paginate(
        Namespace=namespace, Dimensions=[{"Name": "EndpointName", "Value": endpoint}]
    )
    metrics = [metric for page in pages for metric in page["Metrics"]]
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
    window = {"StartTime": end - datetime.timedelta(minutes=minutes + 1), "EndTime": end}
    wanted = [
        (metric, each)
        for metric in metrics
        for each in STATISTICS
        if only is None or (metric["MetricName"], each) in only
    ]
    queries = [
        {"Id": f"q{number}", "MetricStat": {"Metric": metric, "Period": 60 * (minutes + 1), "Stat": statistic}}
        for number, (metric, statistic) in enumerate(wanted)
    ]
    table: Table = {}
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries[start : start + QUERIES_AT_ONCE]
        results = cloudwatch.get_metric_data(MetricDataQueries=some, **window)["MetricDataResults"]
        values = {result["Id"]: result["Values"] for result in results}
        for query in some:
            if values.get(query["Id"]):
                stat: Any = query["MetricStat"]
                metric, name = stat["Metric"], stat["Metric"]["MetricName"]
                dimensions = tuple((each["Name"], each["Value"]) for each in metric["Dimensions"])
                value = _combined(stat["Stat"], values[query["Id"]])
                unit = 1e-3 if name.endswith(("Time", "Latency")) and stat["Stat"] != "SampleCount" else 1
                table.setdefault(dimensions, {})[(name, stat["Stat"])] = value * unit
    return table


def _combined(statistic: str, values: list[float]) -> float:
    """CloudWatch cuts time at whole periods, so that a window may be in two of them. The newest is first."""
    if statistic in ("SampleCount", "Sum"):
        return sum(values)
    return {"Minimum": min, "Maximum": max}.get(statistic, lambda each: each[0])(values)


def print_all(dimensions: Dimensions, values: dict[tuple[str, str], float]) -> None:
    """One line per metric."""
    print("\n" + ", ".join(f"{name} {value}" for name, value in dimensions if name != "EndpointName"))
    names = sorted({name for name, _ in values})
    rows = [[name, *(number(values.get((name, each))) for each in STATISTICS)] for name in names]
    print_table(["", *COLUMNS], rows)


def print_models(models: Table) -> None:
    """One line per model, the one invoked most first."""
    print("\nby target model (times in ms)")
    rows = []
    for dimensions in sorted(models, key=lambda each: -models[each].get(OF_MODELS["Invocations"], 0)):
        its = dict(dimensions)
        name = " ".join(its[each] for each in ("VariantName", "ContainerName", "TargetModel") if each in its)
        rows.append([name, *(number(models[dimensions].get(each)) for each in OF_MODELS.values())])
    print_table(["", *OF_MODELS], rows)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """The first column is text, the others are numbers."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for first, *others in [head, *rows]:
        cells = [f"{each:>{width}}" for each, width in zip(others, widths[1:], strict=True)]
        print("  ".join(["", f"{first:<{widths[0]}}", *cells]).rstrip())


def number(value: float | None) -> str:
    """Whole where it is whole, else with two decimals; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


if __name__ == "__main__":
    run(main)
