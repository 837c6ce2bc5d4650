"""What containers write, in CloudWatch Logs: under AWS's names, in time, and after the endpoint is gone."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from moto.logs.models import LogEvent
from moto.s3.models import FakeKey

from benchmarks.servers.endpoint import container_logs
from local_endpoint.telemetry import logs as logs_module
from local_endpoint.telemetry.logs import Logs
from tests.endpoint.local import ROLE, Local, behaving, message, refused
from tests.endpoint.program import ROOT
from tests.endpoint.test_programs import call
from tests.harness.waiting import wait_until

GROUP = "/aws/sagemaker/Endpoints/endpoint"


def events(local: Local, group: str = GROUP, **request: Any) -> list[dict[str, Any]]:
    pages = local.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group, **request)
    return [event for page in pages for event in page["events"]]


def wait_for_line(local: Local, line: str, group: str = GROUP, **request: Any) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [each for each in events(local, group, **request) if each["message"] == line]
        return bool(found)

    wait_until(is_there, lambda: f"{line!r} is not in the log: {events(local, group)[-5:]}")
    assert len(found) == 1, found
    return found[0]


def test_what_a_container_writes_is_in_its_stream_and_stays_when_the_endpoint_is_gone(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(says="the model speaks: zwölf"))
    local.deploy(Environment={"FAKE_SAYS": "one\n\ntwo\r"})
    local.invoke("m.tar.gz")
    (instance,) = local.instances()
    spoken = wait_for_line(local, "the model speaks: zwölf")
    assert spoken["logStreamName"] == f"AllTraffic/{instance.id}"
    assert [each["message"] for each in events(local)] == ["one", "two", "the model speaks: zwölf"]
    described = local.client("logs").describe_log_streams(logGroupName=GROUP)["logStreams"]
    assert f"AllTraffic/{instance.id}" in [each["logStreamName"] for each in described]
    local.delete()
    assert wait_for_line(local, "the model speaks: zwölf") == spoken


def test_benchmarks_keep_all_that_containers_have_written(local: Local) -> None:
    lines = [f"line {number}" for number in range(12_000)]  # CloudWatch gives 10,000 at once
    local.upload("models/m.tar.gz", behaving(says="\n".join(lines)))
    local.deploy()
    local.invoke("m.tar.gz")
    (instance,) = local.instances()
    kept = "".join(f"{line}\n" for line in (f"---- AllTraffic/{instance.id} ----", *lines))
    wait_until(lambda: kept in container_logs(local.url, "endpoint"), "they are not whole")


def test_a_model_error_leads_to_the_log(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(invoke_status=500, invoke_body="no", says="why it failed"))
    local.deploy()
    response = refused(local, "ModelError", 424, "m.tar.gz")
    linked = re.search(r"#logEventViewer:group=(\S+) in account", message(response))
    assert linked
    assert response["LogStreamArn"] == f"arn:aws:logs:us-east-1:123456789012:log-group:{linked[1]}"
    groups = local.client("logs").describe_log_groups(logGroupNamePrefix=linked[1])["logGroups"]
    assert response["LogStreamArn"] in [each["logGroupArn"] for each in groups]
    wait_for_line(local, "why it failed", linked[1])


def test_a_container_that_does_not_come_up_has_its_log_there(local: Local) -> None:
    local.deploy("broken", wanted="Failed", Environment={"FAKE_SAYS": "before the end", "FAKE_EXIT": "3"})
    said = [each["message"] for each in events(local, "/aws/sagemaker/Endpoints/broken")]
    # it is started twice
    assert said == ["before the end", "the fake container was told to end"] * 2


def test_each_container_of_several_has_a_stream(local: Local) -> None:
    containers = [
        {"ContainerHostname": name, "Image": "an-image", "Environment": {"FAKE_SAYS": f"{name} is here"}}
        for name in ("first", "second")
    ]
    local.sagemaker.create_model(
        ModelName="endpoint",
        ExecutionRoleArn=ROLE,
        Containers=containers,
        InferenceExecutionConfig={"Mode": "Direct"},
    )
    local.create_config("endpoint", "endpoint")
    local.sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="endpoint")
    local.wait("endpoint", "InService")
    (instance,) = local.instances()
    for name in ("first", "second"):
        stream = f"AllTraffic/{instance.id}/{name}"
        assert wait_for_line(local, f"{name} is here")["logStreamName"] == stream
        chosen = events(local, logStreamNamePrefix=stream)
        assert [each["message"] for each in chosen] == [f"{name} is here"]
    assert events(local, logStreamNamePrefix="Other/") == []


def test_a_log_is_followed_by_the_token_of_its_last_page(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(says="again"))
    local.deploy("followed", Environment={"FAKE_SAYS": "first"})
    group = "/aws/sagemaker/Endpoints/followed"
    wait_for_line(local, "first", group)
    logs = local.client("logs")
    page = logs.filter_log_events(logGroupName=group)
    assert [each["message"] for each in page["events"]] == ["first"]
    later = logs.filter_log_events(logGroupName=group, nextToken=page["nextToken"])
    assert later["events"] == [] and "nextToken" not in later
    local.invoke("m.tar.gz", endpoint="followed")
    wait_for_line(local, "again", group)
    later = logs.filter_log_events(logGroupName=group, nextToken=page["nextToken"])
    assert [each["message"] for each in later["events"]] == ["again"]


# ---- the writer ----


@pytest.fixture
def logs(local: Local) -> Iterator[Logs]:
    """One whose thread does not run, in the back end of a local endpoint."""
    yield Logs()


def lines_of(local: Local, group: str) -> list[str]:
    return [each["message"] for each in events(local, group)]


def write_all(logs: Logs, group: str, stream: str, text: bytes) -> None:
    """All that a stream gets: it ends with it."""
    writer = logs.open("us-east-1", group, stream)
    writer.write(text)
    writer.close()


def test_lines_are_whole_however_they_come(local: Local, logs: Logs) -> None:
    writer = logs.open("us-east-1", "/pieces", "s")
    for piece in (b"on", b"e\ntw", b"o\nthr\xc3", b"\xbc\n\xffend"):
        writer.write(piece)
        logs.flush()
    assert lines_of(local, "/pieces") == ["one", "two", "thrü"]
    writer.close()
    assert lines_of(local, "/pieces") == ["one", "two", "thrü", "�end"]
    writer.close()
    assert len(lines_of(local, "/pieces")) == 4


def test_a_long_line_becomes_several_events(local: Local, logs: Logs) -> None:
    write_all(logs, "/long", "s", b"x" * 600_000)
    assert [len(each) for each in lines_of(local, "/long")] == [250_000, 250_000, 100_000]


def test_what_comes_too_fast_is_dropped_and_said_to_be(
    local: Local, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "PENDING_BYTES", 10)
    writer = logs.open("us-east-1", "/fast", "s")
    for _ in range(4):
        writer.write(b"0123456\n")
    writer.close()
    assert lines_of(local, "/fast") == ["0123456", "0123456", "(16 bytes were dropped: they came too fast)"]


def test_memory_for_logs_is_bounded_and_streams_that_ended_go_first(
    local: Local, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "STREAM_EVENTS", 40)
    monkeypatch.setattr(logs_module, "ALL_EVENTS", 50)
    running = logs.open("us-east-1", "/bounded", "running")
    running.write(b"r\n" * 100)
    write_all(logs, "/bounded", "ended", b"e\n" * 15)
    assert lines_of(local, "/bounded").count("r") == 30
    assert lines_of(local, "/bounded").count("e") == 15
    write_all(logs, "/bounded", "last", b"l\n" * 15)
    assert [lines_of(local, "/bounded").count(each) for each in "rel"] == [30, 0, 15]


def test_text_of_logs_is_bounded_and_streams_that_ended_go_first(
    local: Local, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "STREAM_CHARACTERS", 40)
    monkeypatch.setattr(logs_module, "ALL_CHARACTERS", 50)
    running = logs.open("us-east-1", "/long-lines", "running")
    running.write(b"rrrrr\n" * 7)
    logs.flush()
    running.write(b"rrrrr\n" * 2)
    write_all(logs, "/long-lines", "ended", b"eeeee\n" * 4)
    assert lines_of(local, "/long-lines") == ["rrrrr"] * 6 + ["eeeee"] * 4
    write_all(logs, "/long-lines", "last", b"lllll\n" * 2)
    assert lines_of(local, "/long-lines") == ["rrrrr"] * 6 + ["lllll"] * 2


def test_nothing_keeps_what_was_dropped_or_replaced(local: Local, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "STREAM_EVENTS", 40)
    writer = logs.open("us-east-1", "/dropped", "s")
    for _ in range(50):
        writer.write(b"dropped\n" * 10)
        logs.flush()
        local.upload("replaced", b"replaced")
    gc.collect()
    living = gc.get_objects()
    assert sum(isinstance(each, LogEvent) and each.message == "dropped" for each in living) <= 40
    assert sum(isinstance(each, FakeKey) and each.name == "replaced" for each in living) == 1


def test_a_stream_that_a_client_deleted_is_made_again(local: Local, logs: Logs) -> None:
    writer = logs.open("us-east-1", "/deleted", "s")
    local.client("logs").delete_log_group(logGroupName="/deleted")
    writer.write(b"on\n")
    logs.flush()
    assert lines_of(local, "/deleted") == ["on"]


# ---- the program ----


def test_the_program_prints_the_log_and_says_where_there_is_none(local: Local) -> None:
    local.deploy("told", Environment={"FAKE_SAYS": "hello"})
    (instance,) = local.instances("told")
    wait_for_line(local, "hello", "/aws/sagemaker/Endpoints/told")
    said = call(local, "logs", "--endpoint", "told").stdout
    assert re.fullmatch(rf"\d\d:\d\d:\d\d AllTraffic/{instance.id} hello\n", said), said
    failed = call(local, "logs", "--endpoint", "nobody", code=1)
    assert "there is no log group /aws/sagemaker/Endpoints/nobody" in failed.stderr


def test_the_program_follows(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(says="later"))
    local.deploy("live", Environment={"FAKE_SAYS": "at first"})
    command = [sys.executable, "-P", "-m", "scripts.programs.logs", "--endpoint", "live", "--follow"]
    environment = {**os.environ, "AWS_ENDPOINT_URL": local.url}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            assert following.stdout.readline().endswith(" at first\n")
            local.invoke("m.tar.gz", endpoint="live")
            assert following.stdout.readline().endswith(" later\n")
        finally:
            following.terminate()
