"""The program with --auth, as users run it, and the AWS CLI against it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.endpoint.access.conftest import document, trusting
from tests.endpoint.program import ROOT, Program

AWS = Path(sys.executable).with_name("aws")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    running = Program(tmp_path, "--auth")
    yield running
    running.kill()


def aws(program: Program, key: str, secret: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": program.url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_PAGER": "",
    }
    return subprocess.run(
        [sys.executable, str(AWS), *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.ci  # a dozen programs that import a second each
def test_the_cli_with_the_printed_key_and_one_of_a_user(program: Program) -> None:
    found = re.search(r"AWS_ACCESS_KEY_ID=(AKIA[A-Z2-7]{16}) AWS_SECRET_ACCESS_KEY=(\S{40})", program.log.read_text())
    assert found
    key, secret = found.groups()
    identity = json.loads(aws(program, key, secret, "sts", "get-caller-identity").stdout)
    assert identity["Arn"] == "arn:aws:iam::123456789012:root"
    iam = boto3.client(
        "iam", endpoint_url=program.url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
    )
    iam.create_role(RoleName="role", AssumeRolePolicyDocument=trusting(Service="sagemaker.amazonaws.com"))
    iam.create_user(UserName="reader")
    allow = {"Effect": "Allow", "Action": "sagemaker:Describe*", "Resource": "*"}
    iam.put_user_policy(UserName="reader", PolicyName="describe", PolicyDocument=document(allow))
    users = iam.create_access_key(UserName="reader")["AccessKey"]
    its = (users["AccessKeyId"], users["SecretAccessKey"])

    create = (
        *("sagemaker", "create-model", "--model-name", "m", "--primary-container", '{"Image": "an-image"}'),
        *("--execution-role-arn", "arn:aws:iam::123456789012:role/role"),
    )
    refused = aws(program, *its, *create)
    assert refused.returncode != 0
    assert (
        "(AccessDeniedException) when calling the CreateModel operation: User: arn:aws:iam::123456789012:user/reader"
        in (refused.stderr)
    )
    assert aws(program, key, secret, *create).returncode == 0
    described = aws(program, *its, "sagemaker", "describe-model", "--model-name", "m")
    assert json.loads(described.stdout)["ModelName"] == "m", described.stderr
    wrong = aws(program, key, "wrong", "s3", "ls")
    assert "(SignatureDoesNotMatch) when calling the ListBuckets operation" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--root-key", "KEY:secret"], "--root-key needs --auth"),
        (["--auth", "--root-key", "KEY"], "'KEY' is not KEY:SECRET"),
        (["--auth", "--state", "state"], "--auth and --state do not go together: users, roles, keys and policies"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: list[str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scripts.programs.local_endpoint", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert told in done.stderr
