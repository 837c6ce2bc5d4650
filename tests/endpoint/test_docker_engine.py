"""The Docker runtime where the engine is gone, refuses or restarts: no engine is needed for it."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from local_endpoint.errors import StartFailure
from local_endpoint.hosting import janitor as janitor_module
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes import docker as docker_runtime
from local_endpoint.hosting.runtimes import ports
from local_endpoint.hosting.runtimes.base import LaunchSpec
from local_endpoint.hosting.runtimes.docker import DockerContainer, DockerRuntime
from tests.harness.program_calls import call
from tests.harness.waiting import wait_until

IMAGE = {"Id": "sha256:1", "RepoTags": ["image:1"], "Config": {"Labels": {}}}
BRIDGE = [{"Name": "bridge", "Id": "1", "Driver": "bridge"}]
CONTAINER = {
    "Id": "c1",
    "Name": "/local-endpoint-i-1",
    "State": {"Running": True},
    "Config": {"Tty": False},
    "Image": "sha256:1",
}


class Engine(socketserver.ThreadingUnixStreamServer):
    """Speaks as much of the engine's API as a start takes; ``refuses`` maps parts of paths to statuses."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Request)
        self.refuses: dict[str, int] = {}
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []  # what containers were to be like
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()


class _Request(BaseHTTPRequestHandler):
    server: Engine

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        body_read = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("/", 2)[2] if self.path.startswith("/v1.") else self.path.lstrip("/")
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith("containers/create"):
            self.server.created.append(json.loads(body_read))
        status, found = 200, self.found(path)
        for part, refusal in self.server.refuses.items():
            if part in f"{self.command} {path}":
                status, found = refusal, {"message": f"the engine refuses {path.partition('?')[0]}"}
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def found(path: str) -> object:
        if path.startswith("version"):
            return {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}
        if path.startswith("networks"):
            return BRIDGE
        if path.startswith("images"):
            return IMAGE
        return CONTAINER if path.startswith("containers") else "OK"

    do_GET = do_POST = do_DELETE = do_HEAD = answer


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    server = Engine(tmp_path / "engine.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    monkeypatch.setattr(docker_runtime, "REMOVAL_PAUSES_S", (0.0, 0.01, 0.01))
    yield server
    server.shutdown()
    server.server_close()
    server.thread.join()


@pytest.fixture
def janitor() -> Iterator[Janitor]:
    made = Janitor()
    yield made
    made.close()


def spec(folder: Path) -> LaunchSpec:
    return LaunchSpec("i-1", "image:1", {}, folder, multi_model=True, instance_type="ml.m5.large")


def test_without_an_engine_the_local_endpoint_says_so_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    done = call("local_endpoint", "--port", "0", "--runtime", "docker")
    assert done.returncode == 1
    assert "local_endpoint: No Docker engine answers: " in done.stderr
    assert "Start one, or use --runtime process." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("part", ["GET images", "GET networks", "POST containers/create", "POST containers/c1/start"])
@pytest.mark.parametrize("status", [400, 500])
def test_what_the_engine_refuses_becomes_the_reason_and_costs_no_port(
    engine: Engine, janitor: Janitor, tmp_path: Path, part: str, status: int
) -> None:
    runtime = DockerRuntime(janitor)
    runtime.require()
    engine.refuses[part] = status
    taken = set(ports._given)
    with pytest.raises(StartFailure, match=f"the engine refuses {part.split()[1]}"):
        if part == "GET images":
            runtime.check("image:1", multi_model=True)
        runtime.start(spec(tmp_path))
    assert ports._given == taken
    if part.startswith("POST"):
        assert engine.asked[-1].startswith("DELETE containers/")  # nothing half-made is left


def test_an_engine_that_goes_away_becomes_the_reason(engine: Engine, janitor: Janitor, tmp_path: Path) -> None:
    runtime = DockerRuntime(janitor)
    runtime.require()
    engine.shutdown()
    engine.server_close()
    (tmp_path / "engine.sock").unlink()
    taken = set(ports._given)
    with pytest.raises(StartFailure, match="cannot be"):
        runtime.check("image:1", multi_model=True)
    with pytest.raises(StartFailure):
        runtime.start(spec(tmp_path))
    assert ports._given == taken


def test_a_removal_that_fails_is_tried_again(engine: Engine, janitor: Janitor, tmp_path: Path) -> None:
    """An engine that restarts is back soon. Until then the container keeps its port, and the janitor knows of it."""
    container = DockerRuntime(janitor).start(spec(tmp_path))
    assert isinstance(container, DockerContainer)
    engine.refuses["DELETE"] = 500
    container.stop(0)
    assert container.port in ports._given
    assert len([line for line in engine.asked if line.startswith("DELETE")]) == 3
    engine.refuses.clear()
    container.stop(0)
    assert container.port not in ports._given


def test_without_the_docker_program_the_janitor_asks_the_engine_itself(engine: Engine) -> None:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", janitor_module.__file__],
        stdin=subprocess.PIPE,
        env={"PATH": "/nonexistent", "DOCKER_HOST": os.environ["DOCKER_HOST"]},
        text=True,
    )
    process.communicate("container local-endpoint-i-1\ncontainer gone\nforget-container gone\n", timeout=30)
    assert process.returncode == 0
    wait_until(lambda: engine.asked, "the engine was not asked")
    assert engine.asked == ["DELETE containers/local-endpoint-i-1?force=1"]


def test_members_get_a_hostname_ports_of_their_own_and_their_part_of_the_memory(
    engine: Engine, janitor: Janitor, tmp_path: Path
) -> None:
    runtime = DockerRuntime(janitor)
    taken = set(ports._given)
    started = [
        runtime.start(replace(spec(tmp_path), name=f"i-1-{number}", hostname=name, number=number, of_containers=2))
        for number, name in enumerate(("first", "second"), 1)
    ]
    for container in started:
        container.stop(1)
    assert ports._given == taken
    assert [each["Hostname"] for each in engine.created] == ["first", "second"]
    told = [dict(each.split("=", 1) for each in its["Env"]) for its in engine.created]
    assert [each["SAGEMAKER_BIND_TO_PORT"] for each in told] == ["8080", "8081"]
    assert [each["SAGEMAKER_SAFE_PORT_RANGE"] for each in told] == ["9000-9007", "9008-9015"]
    assert [list(each["HostConfig"]["PortBindings"]) for each in engine.created] == [["8080/tcp"], ["8081/tcp"]]
    assert {each["HostConfig"]["Memory"] for each in engine.created} == {4 * 1024**3}  # of 8 GiB


def test_a_single_container_is_told_neither_hostname_nor_port(engine: Engine, janitor: Janitor, tmp_path: Path) -> None:
    DockerRuntime(janitor).start(spec(tmp_path)).stop(1)
    (created,) = engine.created
    assert "Hostname" not in created and created["HostConfig"]["Memory"] == 8 * 1024**3
    assert not [each for each in created["Env"] if "PORT" in each]


def test_the_engine_keeps_the_end_of_a_containers_log(engine: Engine, janitor: Janitor, tmp_path: Path) -> None:
    DockerRuntime(janitor).start(spec(tmp_path)).stop(1)
    (created,) = engine.created
    wanted = {"Type": "json-file", "Config": {"max-size": "16m", "max-file": "2"}}
    assert created["HostConfig"]["LogConfig"] == wanted


def test_an_image_that_takes_no_port_may_not_run_beside_others(engine: Engine, janitor: Janitor) -> None:
    runtime = DockerRuntime(janitor)
    runtime.check("image:1", multi_model=False)
    with pytest.raises(StartFailure) as caught:
        runtime.check("image:1", multi_model=False, beside_others=True)
    assert str(caught.value) == (
        "Your Ecr Image image:1 does not contain required "
        "com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true Docker label(s)."
    )
