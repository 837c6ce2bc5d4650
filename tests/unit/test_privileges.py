"""What model code may see of the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mme.privileges import without_credentials

CONTAINER = Path(__file__).resolve().parents[2] / "container"


def test_what_holds_credentials_or_leads_to_them_is_dropped() -> None:
    secret = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_PROFILE",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_SOMETHING_OF_NEXT_YEAR",
    ]
    assert without_credentials(dict.fromkeys(secret, "x")) == {}


def test_what_says_where_aws_is_stays() -> None:
    harmless = dict.fromkeys(["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"], "x")
    others = {"PATH": "/bin", "MY_AWS_KEY": "the user's own business"}
    assert without_credentials({**harmless, **others}) == {**harmless, **others}


PROGRAM = """
import os, sys
import pytest
from mme.privileges import drop_credentials, forbid_new_privileges
from mme.settings import Settings
if "AWS_SESSION_TOKEN" in os.environ:
    os.environ["FIRST"] = str(os.getpid())
drop_credentials(Settings.from_environment())
forbid_new_privileges()
print(os.environ["FIRST"] == str(os.getpid()), sys.argv[1:])
print(b"secret" in open("/proc/self/environ", "rb").read())
print("NoNewPrivs:\\t1" in open("/proc/self/status").read())
"""


@pytest.mark.parametrize(("passed_on", "still_there"), [("false", "False"), ("true", "True")])
def test_the_program_runs_again_as_the_same_process_without_them(
    tmp_path: Path, passed_on: str, still_there: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {"PYTHONPATH": str(CONTAINER), "AWS_SESSION_TOKEN": "secret", "MME_PASS_CREDENTIALS": passed_on}
    command = [sys.executable, str(program), "an argument"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines() == ["True ['an argument']", still_there, "True"]
