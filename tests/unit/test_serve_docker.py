"""scripts/serve --docker: the ``docker run`` that it becomes. ``docker`` is a stand-in that notes its calls.

tests/integration/test_serve.py runs the same with a real engine.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.ports import free_port

SERVE = Path(__file__).resolve().parents[2] / "scripts" / "serve"
# Notes its arguments, one a line, after a line with its first word; has the image $PRESENT, and a bridge network.
DOCKER = """#!/bin/bash
{ echo "# $1"; printf '%s\\n' "$@"; } >>"$CALLS"
case "$1 $2" in
  "image inspect") [[ $3 == "$PRESENT" ]] ;;
  "network ls") [[ -z $WITHOUT_BRIDGE ]] && echo 0123456789ab ;;
esac
"""


@dataclass
class Done:
    """A run of serve that has ended."""

    exit_code: int
    stderr: str
    calls: list[list[str]]

    @property
    def run(self) -> list[str]:
        """The arguments of ``docker run``."""
        (found,) = [call for call in self.calls if call[0] == "run"]
        return found

    @property
    def passed(self) -> list[str]:
        """What follows each --env."""
        return [value for option, value in zip(self.run, self.run[1:], strict=False) if option == "--env"]


Serve = Callable[..., Done]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """``serve(arguments, …, NAME=value, …)``: runs it to its end, which comes when docker has noted the call."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER)
    (tmp_path / "bin" / "docker").chmod(0o755)
    calls = tmp_path / "calls"

    def run(*arguments: str, **environment: str) -> Done:
        done = subprocess.run(
            [SERVE, "--docker", "--base-dir", str(tmp_path / "ml"), "--port", str(free_port()), *arguments],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MME_"))},
                "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
                "CALLS": str(calls),
                "PRESENT": "present",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        texts = calls.read_text().split("# ")[1:] if calls.exists() else []
        return Done(done.returncode, done.stderr, [text.splitlines()[1:] for text in texts])

    return run


def test_settings_of_the_environment_reach_the_container(serve: Serve) -> None:
    done = serve(
        *("--image", "present"),
        MME_MAX_SAMPLES_PER_PASS="8",
        SAGEMAKER_MODEL_SERVER_TIMEOUT="7",
        CA_REPOSITORY_ARN="",
        MME_DRAIN_TIMEOUT_S="3",
        UNRELATED="1",
        PYTHONPATH="/on/this/machine",
        JAVA_HOME="/usr",
        SAGEMAKER_BASE_DIR="/elsewhere",
        SAGEMAKER_MULTI_MODEL="false",
    )
    assert done.exit_code == 0, done.stderr
    assert {"MME_MAX_SAMPLES_PER_PASS", "SAGEMAKER_MODEL_SERVER_TIMEOUT", "MME_DRAIN_TIMEOUT_S"} <= set(done.passed)
    assert "SAGEMAKER_MULTI_MODEL=true" in done.passed, "an argument of serve wins"
    for name in ("UNRELATED", "PYTHONPATH", "JAVA_HOME", "SAGEMAKER_BASE_DIR", "SAGEMAKER_MULTI_MODEL"):
        assert name not in done.passed
    assert done.run[-2:] == ["present", "serve"]


def test_credentials_reach_it_only_where_the_settings_say_so(serve: Serve) -> None:
    credentials = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret"}
    assert not [name for name in serve("--image", "present", **credentials).passed if name.startswith("AWS")]


@pytest.mark.parametrize("said_by", ["MME_PASS_CREDENTIALS=true", "CA_REPOSITORY_ARN=arn:aws:codeartifact:x"])
def test_credentials_reach_it_where_the_settings_say_so(serve: Serve, said_by: str) -> None:
    name, _, value = said_by.partition("=")
    done = serve("--image", "present", AWS_SECRET_ACCESS_KEY="secret", **{name: value})
    assert {"AWS_SECRET_ACCESS_KEY", name} <= set(done.passed)
    assert not any("secret" in word for call in done.calls for word in call), "a value is not for ps to show"


def test_a_setting_that_is_not_allowed_is_named_before_a_container_is_started(serve: Serve) -> None:
    done = serve("--image", "present", MME_WORKERS="thread")
    assert done.exit_code == 1
    assert "MME_WORKERS='thread' is not allowed" in done.stderr and "Traceback" not in done.stderr
    assert [call[0] for call in done.calls if call[0] == "run"] == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_port_is_published_on_an_address_which_docker_wants(serve: Serve, host: str) -> None:
    done = serve("--image", "present", "--host", host, "--port", (port := str(free_port())))
    assert done.run[done.run.index("--publish") + 1] == f"127.0.0.1:{port}:{port}"


def test_without_a_bridge_network_the_hosts_is_taken(serve: Serve) -> None:
    done = serve("--image", "present", WITHOUT_BRIDGE="yes")
    assert "--publish" not in done.run
    assert done.run[done.run.index("--network") + 1] == "host"
    assert "MME_HOST=127.0.0.1" in done.passed


@pytest.mark.parametrize(
    ("image", "built"),
    [
        ("missing", "missing:latest"),
        ("team/missing:v2", "team/missing:v2"),
        ("present", None),
        ("registry:5000/missing", None),
        ("registry:5000/missing:v2", None),
        ("registry.example/team/missing", None),
        ("localhost/missing", None),
        (f"missing@sha256:{'0' * 64}", None),
    ],
)
def test_an_image_of_no_registry_is_built_where_it_is_missing(serve: Serve, image: str, built: str | None) -> None:
    done = serve("--image", image)
    assert done.exit_code == 0, done.stderr
    tags = [call[call.index("--tag") + 1] for call in done.calls if "build" in call[:2] and "--tag" in call]
    assert tags == ([built] if built else [])
    assert done.run[-2:] == [image, "serve"]
