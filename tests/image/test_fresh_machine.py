"""README's first command on a machine that has nothing: Debian with Python and the network, no Java, no compiler."""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.harness.docker import BUILD_OPTIONS, REPOSITORY, docker, reason_without_engine

# As the Dockerfile's own base; where other images cannot be had, tests build from this one alone.
BASE_IMAGE = "debian:bookworm-slim"
NOTHING_BUT_PYTHON = (
    "apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv ca-certificates"
)

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def test_quickstart_runs_where_there_is_only_python(tmp_path: Path) -> None:
    if reason := reason_without_engine():
        pytest.skip(reason)
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(tmp_path / "clone")], check=True)
    container = f"fresh-{uuid.uuid4().hex[:12]}"
    try:
        done = docker(
            *("run", "--rm", "--name", container, *BUILD_OPTIONS.split(), "-v", f"{tmp_path / 'clone'}:/clone:ro"),
            *(BASE_IMAGE, "bash", "-c"),
            f"({NOTHING_BUT_PYTHON}) >/dev/null && cp -r /clone /project && /project/scripts/quickstart --once 2>&1",
            timeout_s=800,
            check=False,
        )
    finally:
        docker("rm", "-f", container, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "no java" in done.stdout, "the machine was to have none"
    assert done.stdout.count("held-out pictures right") == 2
    assert "endpoint digits, 2 instances: InService after" in done.stdout
    assert re.search(r"^  all +100 ", done.stdout, re.MULTILINE), "a hundred invocations were to be answered"
    assert "404 Model not found" in done.stdout
    assert "Done: the endpoint is stopped." in done.stdout
