"""The programs that users call, against a local endpoint: the main ones of the whole story as processes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from scripts.programs.console import run
from tests.endpoint.local import BUCKET, PREFIX, ROLE, Local, behaving, pack

ROOT = Path(__file__).resolve().parents[2]


def call(
    local: Local | None,
    name: str,
    *arguments: str | Path,
    code: int = 0,
    stdin: bytes = b"",
    in_process: bool = True,
    **environment: Any,
) -> Done:
    """Runs ``scripts/NAME`` (without its setup); fails on another exit code.

    In this process, with the environment, streams and exit of one of its own: importing boto3 takes a second each time.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    target = {"AWS_ENDPOINT_URL": local.url} if local else {}
    whole = {**kept, "AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent", **target, **environment}
    way = run_here if in_process else run_as_process
    done = way(name, list(map(str, arguments)), whole, stdin)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@dataclass
class Done:
    """What became of a program."""

    returncode: int
    stdout: str
    stderr: str


def run_as_process(name: str, arguments: list[str], environment: dict[str, str], stdin: bytes) -> Done:
    command = [sys.executable, "-P", "-m", f"scripts.programs.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, input=stdin, capture_output=True, timeout=100)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_here(name: str, arguments: list[str], environment: dict[str, str], stdin: bytes) -> Done:
    program = importlib.import_module(f"scripts.programs.{name}")
    output, errors = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "argv", [name, *arguments]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        run(program.main)
    status = ended.value.code
    assert isinstance(status, int)
    return Done(status, output.buffer.getvalue().decode(), errors.buffer.getvalue().decode())


as_process = functools.partial(call, in_process=False)


def test_the_whole_story_from_upload_to_deletion(local: Local, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.tar.gz").write_bytes(pack({"text": name}))
    (tmp_path / "request.json").write_text("{}")
    files = [tmp_path / "one.tar.gz", tmp_path / "two.tar.gz"]
    uploaded = as_process(local, "upload_models", *files, "s3://fresh-bucket/zoo", "--create-bucket")
    assert f"{files[0]} -> s3://fresh-bucket/zoo/one.tar.gz" in uploaded.stdout

    deploy = ("deploy", "--name", "mme", "--image", "an-image", "--models", "s3://fresh-bucket/zoo", "--role", ROLE)
    deployed = as_process(local, *deploy, "--instances", "2", "--cache", "disabled", "--env", "COLOUR=red")
    assert "endpoint mme is in service" in deployed.stdout
    assert "./scripts/invoke --endpoint mme" in deployed.stdout
    container = local.sagemaker.describe_model(ModelName="mme")["PrimaryContainer"]
    assert container["MultiModelConfig"] == {"ModelCacheSetting": "Disabled"}
    assert container["ModelDataUrl"] == "s3://fresh-bucket/zoo/"

    listed = call(local, "list_models", "--endpoint", "mme").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["one.tar.gz", "two.tar.gz"]

    invoke = ("invoke", "--endpoint", "mme", "--target-model", "two.tar.gz", tmp_path / "request.json")
    answer = as_process(local, *invoke).stdout
    assert '"text": "two"' in answer
    assert '"COLOUR": "red"' in answer

    updated = call(local, "update_endpoint", "--name", "mme", "--env", "COLOUR=blue", "--delete-old").stdout
    assert "endpoint mme serves with mme-" in updated
    assert '"COLOUR": "blue"' in call(local, *invoke).stdout
    assert local.sagemaker.list_models()["Models"][0]["ModelName"].startswith("mme-")

    deleted = as_process(local, "delete_endpoint", "--name", "mme", "--all").stdout
    assert "deleted endpoint mme" in deleted
    assert local.is_gone("mme")
    assert not local.sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert not local.sagemaker.list_models()["Models"]
    assert local.s3.list_objects_v2(Bucket="fresh-bucket")["KeyCount"] == 2


def test_several_containers_are_deployed_and_invoked_each_by_its_name(local: Local, tmp_path: Path) -> None:
    local.upload("models/m.tar.gz", pack({"text": "of many"}))
    local.upload("only.tar.gz", pack({"text": "the only one"}))
    request = tmp_path / "request.json"
    request.write_text("{}")
    members = (
        *("--container", f"first=an-image,{PREFIX},multi"),
        *("--container", f"second=other-image,s3://{BUCKET}/only.tar.gz"),
    )
    told = call(local, "deploy", "--name", "two", *members, "--direct", "--role", ROLE, "--env", "COLOUR=red").stdout
    assert "./scripts/invoke --endpoint two --container first --target-model MODEL.tar.gz --content-type" in told
    assert "./scripts/invoke --endpoint two --container second --content-type" in told
    described = local.sagemaker.describe_model(ModelName="two")
    assert described["InferenceExecutionConfig"] == {"Mode": "Direct"}
    assert [each["ContainerHostname"] for each in described["Containers"]] == ["first", "second"]

    invoke = ("invoke", "--endpoint", "two", request)
    answer = call(local, *invoke, "--container", "first", "--target-model", "m.tar.gz").stdout
    assert '"text": "of many"' in answer and '"COLOUR": "red"' in answer
    assert '"text": "the only one"' in call(local, *invoke, "--container", "second").stdout
    assert "Container third not found" in call(local, *invoke, "--container", "third", code=1).stderr

    listing = ("list_models", "--endpoint", "two", "--container")
    assert call(local, *listing, "first").stdout.startswith("m.tar.gz ")
    assert "two has no multi-model container second." in call(local, *listing, "second", code=1).stderr
    update = ("update_endpoint", "--name", "two", "--env", "COLOUR=blue")
    assert "name the container to change with --container: first, second." in call(local, *update, code=1).stderr
    call(local, *update, "--container", "second", "--delete-old")
    assert '"COLOUR": "blue"' in call(local, *invoke, "--container", "second").stdout
    first = call(local, *invoke, "--container", "first", "--target-model", "m.tar.gz").stdout
    assert '"COLOUR": "red"' in first
    call(local, "delete_endpoint", "--name", "two", "--all")
    assert not local.sagemaker.list_models()["Models"]


def test_containers_are_a_chain_unless_told_otherwise(local: Local, tmp_path: Path) -> None:
    local.upload("models/m.tar.gz", behaving(invoke_body="made by the first"))
    members = ("--container", f"first=i,{PREFIX},multi", "--container", "second=i,")
    told = call(local, "deploy", "--name", "chain", *members, "--role", ROLE).stdout
    assert "./scripts/invoke --endpoint chain --target-model MODEL.tar.gz --content-type" in told
    request = tmp_path / "request.json"
    request.write_text("{}")
    answer = call(local, "invoke", "--endpoint", "chain", "--target-model", "m.tar.gz", request).stdout
    assert '"body": "made by the first"' in answer


@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (("--container", "a=i,"), "--container is given 1 times; 2 to 15 are possible"),
        (
            ("--container", "a=i,", "--container", "b=i,", "--image", "i"),
            "--container goes without --image and --models",
        ),
        (("--container", "a=i"), "'a=i' is not HOSTNAME=IMAGE,MODEL_DATA[,multi]"),
        (("--container", "i,s3://b/p/"), "is not HOSTNAME=IMAGE,MODEL_DATA[,multi]"),
        (("--container", "a=i,s3://b/p/,many"), "is not HOSTNAME=IMAGE,MODEL_DATA[,multi]"),
        (("--container", "a=i,,multi"), "names no s3://BUCKET/PREFIX/"),
        (("--image", "i", "--models", "s3://b/p/", "--direct"), "--serial and --direct need --container several times"),
        (("--image", "i"), "--image and --models are needed, or --container several times"),
    ],
)
def test_containers_that_cannot_be_meant_are_refused_before_anything_is_made(
    arguments: tuple[str, ...], wanted: str
) -> None:
    assert wanted in call(None, "deploy", "--name", "n", "--role", ROLE, *arguments, code=2).stderr


def test_a_deployment_that_fails_says_why_and_what_to_do(local: Local) -> None:
    deploy = ("deploy", "--name", "mme", "--image", "an-image", "--models", PREFIX, "--role", ROLE)
    failed = call(local, *deploy, "--env", "FAKE_EXIT=1", code=1)
    assert "did not pass the ping health check" in failed.stderr
    assert "./scripts/delete_endpoint --name mme --all" in failed.stderr
    again = call(local, *deploy, code=1)
    assert "Cannot create already existing model" in again.stderr
    assert "Take another --name" in again.stderr
    call(local, "delete_endpoint", "--name", "mme", "--all")
    assert "there is no endpoint mme" in call(local, "delete_endpoint", "--name", "mme", "--all", code=1).stderr


def test_a_deployment_that_is_refused_half_way_leaves_nothing_behind(local: Local) -> None:
    deploy = ("deploy", "--name", "mme", "--image", "an-image", "--models", PREFIX, "--role", ROLE)
    refused = call(local, *deploy, "--instance-type", "t2.micro", code=1)
    assert "failed to satisfy constraint" in refused.stderr
    assert not local.sagemaker.list_models()["Models"]


def test_an_update_that_fails_leaves_the_endpoint_and_nothing_new(local: Local) -> None:
    local.deploy("mme")
    failed = call(local, "update_endpoint", "--name", "mme", "--env", "FAKE_EXIT=1", code=1)
    assert "the update failed, mme serves with mme as it did" in failed.stderr
    assert [each["ModelName"] for each in local.sagemaker.list_models()["Models"]] == ["mme"]
    assert "name at least one change" in call(local, "update_endpoint", "--name", "mme", code=2).stderr


def test_instances_can_be_changed_without_a_new_model(local: Local) -> None:
    local.deploy("mme")
    call(local, "update_endpoint", "--name", "mme", "--instances", "2", "--instance-type", "ml.m6i.large")
    assert len(local.instances("mme")) == 2
    assert [each["ModelName"] for each in local.sagemaker.list_models()["Models"]] == ["mme"]
    call(local, "delete_endpoint", "--name", "mme", "--all")
    assert not local.sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert not local.sagemaker.list_models()["Models"]


def test_deleting_all_finds_what_several_updates_made(local: Local) -> None:
    local.deploy("mme")
    for value in ("1", "2"):
        before = local.sagemaker.describe_endpoint(EndpointName="mme")["EndpointConfigName"]
        call(local, "update_endpoint", "--name", "mme", "--env", f"TURN={value}")
        assert local.sagemaker.describe_endpoint(EndpointName="mme")["EndpointConfigName"] != before
    assert len(local.sagemaker.list_models()["Models"]) == 3
    call(local, "delete_endpoint", "--name", "mme", "--all")
    assert not local.sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert not local.sagemaker.list_models()["Models"]


@pytest.mark.parametrize("program", ["deploy", "update_endpoint"])
def test_no_instances_are_refused(local: Local, program: str) -> None:
    deploy = ("--image", "an-image", "--models", PREFIX, "--role", ROLE) if program == "deploy" else ()
    refused = call(local, program, "--name", "mme", *deploy, "--instances", "0", code=2)
    assert "0 is not a whole number of at least 1" in refused.stderr


def test_invoke_passes_the_models_error_on(local: Local, tmp_path: Path) -> None:
    local.deploy("mme")
    local.upload("models/bad.tar.gz", behaving(invoke_status=415, invoke_body="only images"))
    failed = call(local, "invoke", "--endpoint", "mme", "--target-model", "bad.tar.gz", "-", code=1, stdin=b"{}")
    assert "the model answered 415: only images" in failed.stderr
    assert "/aws/sagemaker/Endpoints/mme" in failed.stderr


def test_invoke_sends_and_receives_bytes_as_they_are(local: Local, tmp_path: Path) -> None:
    local.deploy("mme")
    local.upload("models/m.tar.gz", behaving())
    data = bytes(range(256)) * 10
    (tmp_path / "in").write_bytes(data)
    invoke = ("invoke", "--endpoint", "mme", "--target-model", "m.tar.gz", "--content-type", "application/x-echo")
    call(local, *invoke, tmp_path / "in", "--output", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    (tmp_path / "large").write_bytes(b"x" * 6_291_457)
    told = call(local, *invoke, tmp_path / "large", code=1).stderr
    assert "Member must have length less than or equal to 6291456" in told


def test_uploads_are_checked_and_do_not_overwrite(local: Local, tmp_path: Path) -> None:
    (tmp_path / "m.tar.gz").write_bytes(pack({"text": "1"}))
    (tmp_path / "text.tar.gz").write_text("no archive")
    call(local, "upload_models", tmp_path / "m.tar.gz", PREFIX)
    again = call(local, "upload_models", tmp_path / "m.tar.gz", PREFIX, code=1)
    assert "is there already" in again.stderr
    call(local, "upload_models", tmp_path / "m.tar.gz", PREFIX, "--overwrite")
    bad = call(local, "upload_models", tmp_path / "text.tar.gz", PREFIX, code=1)
    assert "is not a tar.gz archive" in bad.stderr
    missing = call(local, "upload_models", tmp_path / "m.tar.gz", "s3://no-such-bucket/x/", code=1)
    assert "Add --create-bucket" in missing.stderr
    assert [each["Key"] for each in local.s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["models/m.tar.gz"]


def test_an_empty_prefix_says_how_to_fill_it(local: Local) -> None:
    assert f"there are no models below {PREFIX}" in call(local, "list_models", "--models", PREFIX).stdout


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Is it running (./scripts/local_endpoint)"),
        ({"AWS_REGION": ""}, "no AWS region is set"),
        ({"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}, "there are no AWS credentials"),
    ],
    ids=["nobody listens", "no region", "no credentials"],
)
def test_what_is_missing_is_named(environment: dict[str, Any], text: str) -> None:
    assert text in call(None, "delete_endpoint", "--name", "mme", code=1, **environment).stderr
