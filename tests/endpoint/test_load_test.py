"""./scripts/load_test against a local endpoint: signed requests by boto3, without retries."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from local_endpoint.events import Invoked
from tests.endpoint.local import Local, behaving, pack
from tests.endpoint.test_programs import ROOT
from tests.harness.waiting import wait_until
from tests.unit import test_load_test
from tests.unit.test_load_test import counts

pytestmark = pytest.mark.slow


@pytest.fixture
def body(tmp_path: Path) -> Path:
    file = tmp_path / "body.json"
    file.write_text("{}")
    return file


def load_test(local: Local, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the program with the local endpoint for AWS; fails on another exit code."""
    environment = {"AWS_ENDPOINT_URL": local.url, "AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
    return test_load_test.load_test(*arguments, code=code, **environment)


@pytest.mark.parametrize("pace", [("--rate", "30"), pytest.param(("--users", "2"), marks=pytest.mark.ci)])
def test_the_models_of_an_endpoint_are_found_and_called(
    local: Local, body: Path, tmp_path: Path, pace: tuple[str, str]
) -> None:
    for number in range(4):
        local.upload(f"models/m-{number}.tar.gz", pack({"text": str(number)}))
    local.deploy()
    where = ("--endpoint", "endpoint", "--models", "3", "--output", tmp_path / "out")
    done = load_test(local, *where, *pace, "--duration", "1", "--body", body)
    assert "endpoint endpoint, 3 models, uniform" in done.stdout
    assert "no errors" in done.stdout
    found = counts(done.stdout)
    assert found["cold"][0] >= 3
    assert found["warm"][0] > 0
    (instance,) = local.instances()
    assert local.loaded(instance) == ["m-0.tar.gz", "m-1.tar.gz", "m-2.tar.gz"]


def test_a_model_that_fails_is_counted_by_its_own_status_and_not_tried_again(
    local: Local, body: Path, tmp_path: Path
) -> None:
    local.upload("models/m-0.tar.gz", pack({"text": "fine"}))
    local.upload("models/m-1.tar.gz", behaving(invoke_status=400, invoke_body="no such column"))
    local.deploy()
    names = ("--names", "m-{}.tar.gz", "--models", "2", "--output", tmp_path / "out")
    done = load_test(local, "--endpoint", "endpoint", *names, "--rate", "30", "--duration", "1", "--body", body, code=1)
    found = counts(done.stdout)
    assert 0 < found["all"][1] < found["all"][0]
    assert f"{found['all'][1]:,} × ModelError (400)" in done.stdout
    assert "m-1.tar.gz: no such column" in done.stdout


def test_an_endpoint_with_too_few_models_is_refused_with_the_remedy(local: Local, body: Path) -> None:
    local.upload("models/m-0.tar.gz", pack({}))
    local.deploy()
    done = load_test(local, "--endpoint", "endpoint", "--models", "2", "--body", body, code=1)
    assert "endpoint endpoint has 1 models, not 2. Upload more with ./scripts/upload_models" in done.stderr


@pytest.mark.ci  # a program that imports Locust, and its report
def test_what_was_measured_before_ctrl_c_is_kept(local: Local, body: Path, tmp_path: Path) -> None:
    local.upload("models/m-0.tar.gz", pack({}))
    local.deploy()
    command = [sys.executable, "-P", "-m", "scripts.programs.load_test", "--endpoint", "endpoint"]
    before = local.count(Invoked, "m-0.tar.gz")
    with subprocess.Popen(
        [*command, "--rate", "30", "--duration", "600", "--body", str(body), "--output", str(tmp_path / "out")],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "AWS_ENDPOINT_URL": local.url, "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_until(lambda: local.count(Invoked, "m-0.tar.gz") > before, "no request came", 60)
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert counts(printed)["all"][0] > 0
    assert (tmp_path / "out" / "report.html").exists()
