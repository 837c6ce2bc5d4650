"""Prints what the containers of an endpoint, or a training job, write: its log group in CloudWatch Logs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from scripts.programs.aws import client, plain_errors
from scripts.programs.console import Failure, at_least_one, run

POLL_S = 1.0
# What CloudWatch took in late is looked for again so far back.
OVERLAP_MS = 5_000


def main() -> int:
    """Returns 0, also where nothing was written."""
    arguments = parse()
    if arguments.endpoint:
        group, prefix = f"/aws/sagemaker/Endpoints/{arguments.endpoint}", ""
    else:
        group, prefix = "/aws/sagemaker/TrainingJobs", f"{arguments.training_job}/"
    start_ms = int((time.time() - 60 * arguments.since) * 1000)
    with plain_errors(f"reading {group}"):
        for event in events(client("logs"), group, prefix, start_ms, arguments.follow):
            when = time.strftime("%H:%M:%S", time.localtime(event["timestamp"] / 1000))
            print(f"{when} {event['logStreamName']} {event['message']}", flush=True)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/logs",
        description="Prints what the containers of an endpoint write, in order, each line with its time and its stream "
        "(variant, instance and, of several containers, hostname). It is there after the endpoint is gone, too.",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--endpoint", metavar="NAME", help="name of an endpoint")
    what.add_argument("--training-job", metavar="NAME", help="name of a training job")
    parser.add_argument("--follow", action="store_true", help="go on with what is written from now on, until Ctrl-C")
    parser.add_argument(
        "--since", type=at_least_one, default=60, metavar="MINUTES", help="begin so many minutes ago (default 60)"
    )
    return parser.parse_args()


def events(logs: Any, group: str, prefix: str, start_ms: int, follow: bool) -> Iterator[dict[str, Any]]:
    """Every event once, in the order of time; without end where it is followed. Raises ``Failure``."""
    shown: dict[str, int] = {}  # when each was written, by its id
    while True:
        found = sorted(_read(logs, group, prefix, start_ms, follow), key=lambda event: event["timestamp"])
        for event in found:
            if event["eventId"] not in shown:
                shown[event["eventId"]] = event["timestamp"]
                yield event
        if not follow:
            return
        if shown:
            start_ms = max(start_ms, max(shown.values()) - OVERLAP_MS)
            shown = {each: when for each, when in shown.items() if when >= start_ms}
        time.sleep(POLL_S)


def _read(logs: Any, group: str, prefix: str, start_ms: int, follow: bool) -> list[dict[str, Any]]:
    request = {"logGroupName": group, "startTime": start_ms, **({"logStreamNamePrefix": prefix} if prefix else {})}
    try:
        pages = logs.get_paginator("filter_log_events").paginate(**request)
        return [event for page in pages for event in page["events"]]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
        if follow:
            return []
        raise Failure(f"there is no log group {group}: is the name right, and has it been started?") from None


if __name__ == "__main__":
    run(main)
