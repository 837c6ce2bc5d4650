"""What model code may see of the environment, and what becomes of models that only root may read."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mme.supervisor.privileges import without_credentials
from tests.harness import models
from tests.harness.programs import run_with_mxnet

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
from mme.supervisor.privileges import drop_credentials
from mme.zygote.processes import forbid_new_privileges
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


AS_ANOTHER_USER = """
import logging
import os
import sys
from pathlib import Path
import model_handler
from mme.supervisor import preflight
from mme.errors import MmeError
from mme.frameworks.registry import adapter_for
from mme.settings import Settings
from tests.harness.requests import context_for

base, multi_model, model = Path(sys.argv[1]), sys.argv[2] == "True", Path(sys.argv[3])
# while our own files can be read, whose folder may be closed to others, too
adapter_for(model, Settings()).import_framework(Settings())
os.seteuid(65534)
try:
    preflight.check_models(Settings(base_dir=base, multi_model=multi_model))
    logging.disable()
    model_handler.handle(None, context_for(model))
except MmeError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", ["models", "models/m/model", "models/m/model/model-symbol.json", "model"])
def test_what_root_alone_may_read_is_named_with_the_remedy(closed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        base = Path(folder)
        base.chmod(0o755)
        for each in ("models/m/model", "model"):
            models.multiplier(base / each)
        (base / closed).chmod(0o700 if (base / closed).is_dir() else 0o600)
        said = run_with_mxnet(AS_ANOTHER_USER, base, closed != "model", base / "models/m/model")
        assert f"{base / closed} cannot be read" in said
        assert "Permission denied" in said and "chmod -R a+rX" in said and "MME_USER" in said
