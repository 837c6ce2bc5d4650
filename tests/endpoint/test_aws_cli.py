"""The AWS CLI against the local endpoint: nothing but AWS_ENDPOINT_URL is set."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.endpoint.local import KEYS, ROLE, Local, behaving, pack
from tests.harness.waiting import wait_until

AWS = Path(sys.executable).with_name("aws")


@pytest.fixture(scope="module")
def module_local() -> Iterator[Local]:
    """One that publishes every second."""
    with Local(metric_period_s=1, health_interval_s=0.2) as running:
        yield running


def environment_for(local: Local) -> dict[str, str]:
    return {
        **os.environ,
        "AWS_ENDPOINT_URL": local.url,
        "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
        "AWS_DEFAULT_REGION": KEYS["region_name"],
        "AWS_PAGER": "",
    }


def version_2() -> str:
    """The path of release 2 of the CLI, which alone has ``logs tail``, and which PyPI does not have."""
    found = shutil.which("aws", path=os.pathsep.join(("/usr/local/bin", "/usr/bin")))
    if found is None or "aws-cli/2." not in subprocess.run([found, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("no release 2 of the AWS CLI here: Debian's package awscli is one")
    return found


def aws(local: Local, *arguments: str | Path, code: int = 0) -> Any:
    """The parsed output, or what it says on standard error if it is to fail."""
    done = subprocess.run(
        [sys.executable, str(AWS), *map(str, arguments)],
        env=environment_for(local),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    if code:
        return done.stderr
    return json.loads(done.stdout) if done.stdout.startswith("{") else done.stdout


@pytest.mark.ci  # two dozen programs that import half a second each
def test_an_endpoint_from_bucket_to_deletion(local: Local, tmp_path: Path) -> None:
    (tmp_path / "m.tar.gz").write_bytes(behaving(invoke_body='{"predictions": [[3, 6, 9, 12]]}'))
    (tmp_path / "request").write_text("[[1, 2, 3, 4]]")
    (tmp_path / "large.tar.gz").write_bytes(pack({"large": os.urandom(12_000_000)}))
    aws(local, "s3", "mb", "s3://cli-bucket")
    aws(local, "s3", "cp", tmp_path / "m.tar.gz", "s3://cli-bucket/models/")
    aws(local, "s3", "cp", tmp_path / "large.tar.gz", "s3://cli-bucket/models/")  # in parts
    listed = [line.split()[2:] for line in aws(local, "s3", "ls", "s3://cli-bucket/models/").splitlines()]
    sizes = {name: str((tmp_path / name).stat().st_size) for name in ("large.tar.gz", "m.tar.gz")}
    assert listed == [[sizes[name], name] for name in sizes]
    aws(local, "s3", "cp", "s3://cli-bucket/models/large.tar.gz", tmp_path / "back.tar.gz")
    assert (tmp_path / "back.tar.gz").read_bytes() == (tmp_path / "large.tar.gz").read_bytes()

    container: dict[str, Any] = {"Image": "an-image", "Mode": "MultiModel", "ModelDataUrl": "s3://cli-bucket/models/"}
    container["Environment"] = {"FAKE_SAYS": "hello"}
    aws(
        local, "sagemaker", "create-model", "--model-name", "cli", "--execution-role-arn", ROLE,
        "--primary-container", json.dumps(container),
    )  # fmt: skip
    variant = {
        "VariantName": "AllTraffic",
        "ModelName": "cli",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.c6i.large",
    }
    aws(
        local, "sagemaker", "create-endpoint-config", "--endpoint-config-name", "cli",
        "--production-variants", json.dumps([variant]),
    )  # fmt: skip
    aws(local, "sagemaker", "create-endpoint", "--endpoint-name", "cli", "--endpoint-config-name", "cli")
    local.wait("cli", "InService")  # the CLI's own waiter looks every 30 s only
    aws(local, "sagemaker", "wait", "endpoint-in-service", "--endpoint-name", "cli")
    described = aws(local, "sagemaker", "describe-endpoint", "--endpoint-name", "cli")
    assert described["EndpointStatus"] == "InService"

    invoke = (
        "sagemaker-runtime",
        "invoke-endpoint",
        "--endpoint-name",
        "cli",
        "--body",
        f"fileb://{tmp_path}/request",
        "--content-type",
        "application/json",
    )
    answer = aws(local, *invoke, "--target-model", "m.tar.gz", tmp_path / "out")
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert json.loads((tmp_path / "out").read_text()) == {"predictions": [[3, 6, 9, 12]]}
    told = aws(local, *invoke, "--target-model", "missing.tar.gz", tmp_path / "out", code=255)
    assert "(ValidationError) when calling the InvokeEndpoint operation: Failed to download model data" in told

    group = "/aws/sagemaker/Endpoints/cli"
    wait_until(lambda: aws(local, "logs", "filter-log-events", "--log-group-name", group)["events"], "no log", 60)
    streams = aws(local, "logs", "describe-log-streams", "--log-group-name", group)["logStreams"]
    assert [each["logStreamName"].partition("/")[0] for each in streams] == ["AllTraffic"]

    aws(local, "sagemaker", "delete-endpoint", "--endpoint-name", "cli")
    wait_until(lambda: local.is_gone("cli"), "the endpoint is not gone", 60)
    aws(local, "sagemaker", "wait", "endpoint-deleted", "--endpoint-name", "cli")
    assert aws(local, "sts", "get-caller-identity")["Account"] == "123456789012"


@pytest.mark.ci  # programs that import half a second each
def test_invocations_are_counted_in_cloudwatch(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving())
    local.deploy("counted")
    for _ in range(2):
        local.invoke_raw("m.tar.gz", endpoint="counted")
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    statistics = (
        "cloudwatch", "get-metric-statistics", "--namespace", "AWS/SageMaker", "--metric-name", "Invocations",
        "--dimensions", "Name=EndpointName,Value=counted", "Name=VariantName,Value=AllTraffic",
        "--start-time", (now - hour).isoformat(), "--end-time", (now + hour).isoformat(),
        "--period", "7200", "--statistics", "Sum",
    )  # fmt: skip
    wait_until(
        lambda: [each["Sum"] for each in aws(local, *statistics)["Datapoints"]] == [2.0],
        "the two invocations are not counted",
        60,
    )


@pytest.mark.ci  # needs a second CLI, a large one
def test_release_2_of_the_cli_follows_the_log(local: Local, tmp_path: Path) -> None:
    program = version_2()
    local.upload("models/early.tar.gz", behaving(says="before anybody looks"))
    local.upload("models/late.tar.gz", behaving(says="while somebody looks"))
    local.deploy()
    local.invoke("early.tar.gz")
    said = tmp_path / "said"
    # given as an option, too: releases before 2.13 do not know the variable
    tail = [program, "--endpoint-url", local.url, "logs", "tail", "/aws/sagemaker/Endpoints/endpoint", "--follow"]
    with (
        said.open("w") as output,
        subprocess.Popen(tail, env=environment_for(local), stdout=output, stderr=subprocess.STDOUT) as following,
    ):
        try:
            wait_until(lambda: "before anybody looks" in said.read_text(), said.read_text, 60)
            local.invoke("late.tar.gz")
            wait_until(lambda: "while somebody looks" in said.read_text(), said.read_text, 60)
        finally:
            following.kill()
    (line,) = [each for each in said.read_text().splitlines() if each.endswith("while somebody looks")]
    (instance,) = local.instances()
    assert f" AllTraffic/{instance.id} " in line
