"""The files of examples/ci: what the workflow's steps run is run, and so is the compose file where that can be."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.harness.docker import BUILD_TIMEOUT_S, docker, reason_without_engine
from tests.harness.ports import free_port
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "ci"
TOLD = "two models of one endpoint have answered"


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


# ---- the workflow ----


@pytest.mark.ci  # a real server, and a real container
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl on the PATH, as GitHub's runners have it")
def test_the_steps_of_the_workflow_test_against_an_endpoint_and_leave_nothing(tmp_path: Path) -> None:
    job = read("workflow.yaml")["jobs"]["test"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MME_"))},
        **job["env"],
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",  # the workflow's own may be taken here
        "AWS_CONFIG_FILE": os.devnull,
        "RUNNER_TEMP": str(tmp_path),
    }
    pid = tmp_path / "endpoint.pid"
    failed, said = "", ""
    for step in job["steps"]:
        condition = step.get("if", "success()")
        if "run" not in step or ((condition == "failure()") != bool(failed) and condition != "always()"):
            continue
        done = subprocess.run(  # as GitHub's runner calls its shell
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        said += done.stdout + done.stderr
        failed = failed or (f"{step['name']} ended with {done.returncode}" if done.returncode else "")
    assert not failed, f"{failed}\n{said}"
    assert TOLD in said
    wait_until(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), "the endpoint does not end", 40)


# ---- docker compose ----


def test_the_services_reach_the_endpoint_by_a_name_that_it_allows() -> None:
    services = read("compose.yaml")["services"]
    address = urlsplit(services["tests"]["environment"]["AWS_ENDPOINT_URL"])
    assert address.hostname in services and address.port is not None
    endpoint = services[address.hostname]
    command = endpoint["command"]
    assert command[command.index("--allow-host") + 1] == address.hostname
    dockerfile = FOLDER / endpoint["build"]["context"] / endpoint["build"]["dockerfile"]
    assert f"EXPOSE {address.port}" in dockerfile.read_text()
    assert endpoint["ports"] == [f"127.0.0.1:{address.port}:{address.port}"]
    assert f"http://127.0.0.1:{address.port}/" in endpoint["healthcheck"]["test"][-1]
    assert (ROOT / services["tests"]["entrypoint"][-1]).is_file()


@pytest.fixture
def compose() -> list[str]:
    """The command; skips where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            version = subprocess.run([*command, "version"], capture_output=True, timeout=60, check=False)
            if version.returncode == 0:
                return command
    pytest.skip("needs docker compose")


def run(compose: list[str], *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*compose, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "COMPOSE_PROJECT_NAME": f"ci-example-{os.getpid()}"},
    )


def test_compose_reads_its_file(compose: list[str]) -> None:
    done = run(compose, "--file", str(FOLDER / "compose.yaml"), "config")
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == {"endpoint", "tests"}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options that name the compose file, with the network of this machine where the engine has no other."""
    if reason := reason_without_engine():
        pytest.skip(reason)
    named = ["--file", str(FOLDER / "compose.yaml")]
    if "bridge" in docker("network", "ls", "--format", "{{.Driver}}").stdout.split():
        return named
    port = free_port()
    services = read("compose.yaml")["services"]
    services["endpoint"]["build"] |= {"context": str(ROOT), "network": "host"}
    services["endpoint"]["command"] += ["--port", str(port)]
    del services["endpoint"]["ports"]
    for service in services.values():
        service |= {"network_mode": "host", "extra_hosts": ["endpoint:127.0.0.1"]}
    check = services["endpoint"]["healthcheck"]["test"]
    check[-1] = check[-1].replace("4566", str(port))
    services["tests"]["environment"]["AWS_ENDPOINT_URL"] = f"http://endpoint:{port}"
    changed = tmp_path / "compose.yaml"
    changed.write_text(yaml.safe_dump({"services": services}))
    return ["--file", str(changed)]


@pytest.fixture
def composed(compose: list[str], files: list[str]) -> Iterator[list[str]]:
    """The command with its files; nothing of it is left but the image, for the next build."""
    try:
        yield [*compose, *files]
    finally:
        run([*compose, *files], "down", "--volumes", "--timeout", "40", timeout_s=120)


@pytest.mark.ci  # fetches 200 MB
@pytest.mark.docker
@pytest.mark.timeout(BUILD_TIMEOUT_S + 300)
def test_compose_runs_the_tests_against_the_service(composed: list[str]) -> None:
    built = run(composed, "build", timeout_s=BUILD_TIMEOUT_S)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    done = run(composed, "up", "--exit-code-from", "tests", timeout_s=240)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert TOLD in done.stdout
