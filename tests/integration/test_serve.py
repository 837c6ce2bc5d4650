"""scripts/serve: the container's server in the foreground, in each of its modes."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.harness.container_client import ContainerClient
from tests.harness.docker import Image
from tests.harness.models import multiplier
from tests.harness.ports import free_port
from tests.harness.server import MARK, marked_processes
from tests.harness.waiting import wait_until

SERVE = Path(__file__).resolve().parents[2] / "scripts" / "serve"
STOP_TIMEOUT_S = 30


class Serving(ContainerClient):
    """A running scripts/serve."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, output: Path, mark: str) -> None:
        super().__init__(f"http://127.0.0.1:{port}")
        self.process = process
        self.output = output
        self.mark = mark

    def answers(self) -> bool:
        """Does /ping answer? Fails the test where the server has ended."""
        assert self.process.poll() is None, self.output.read_text()
        try:
            return self.ping().json()["status"] == "Healthy"
        except requests.RequestException:
            return False


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Serving]:
    """Starts scripts/serve on a free port; whatever is left of it afterwards is killed."""
    port = free_port()
    output = folder / "serve.out"
    mark = uuid.uuid4().hex
    with output.open("wb") as file:
        process = subprocess.Popen(
            [SERVE, "--port", str(port), "--base-dir", str(folder / "ml"), *arguments],
            env={**os.environ, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Serving(process, port, output, mark)
    try:
        wait_until(server.answers, f"{SERVE} answers", timeout_s=120)
        yield server
    finally:
        for each in marked_processes(mark):
            each.kill()
        process.wait()


def assert_ctrl_c_stops(server: Serving) -> None:
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
    assert server.process.wait(STOP_TIMEOUT_S) == 0, server.output.read_text()
    assert marked_processes(server.mark) == []
    assert "Traceback" not in server.output.read_text()


def test_it_serves_the_models_below_its_base_dir_until_ctrl_c(tmp_path: Path) -> None:
    model = multiplier(tmp_path / "ml" / "models" / "double" / "model", factor=2)
    with serving(tmp_path) as server:
        assert server.load("double", str(model)).status_code == 200
        assert server.invoke("double", "[[1, 2, 3, 4]]").json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
        assert_ctrl_c_stops(server)
    assert f"serving models in {tmp_path}/ml/models/NAME/model on {server.url}" in server.output.read_text()


def test_the_server_ends_with_a_serve_that_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.process.kill()
        wait_until(lambda: not marked_processes(server.mark), "nothing of the server is left", STOP_TIMEOUT_S)


def test_a_server_that_dies_ends_serve_with_its_exit_code(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        # a front end that dies before its supervisor calls the start done is started again
        wait_until(lambda: "mme.supervisor.server - serving" in server.output.read_text(), "the start is over")
        jvm = [each for each in marked_processes(server.mark) if "com.amazonaws.ml.mms.ModelServer" in each.cmdline()]
        assert len(jvm) == 1
        jvm[0].kill()
        assert server.process.wait(STOP_TIMEOUT_S) == 128 + signal.SIGKILL
        assert marked_processes(server.mark) == []


def test_single_serves_one_model_on_invocations(tmp_path: Path) -> None:
    multiplier(tmp_path / "ml" / "model", factor=3)
    with serving(tmp_path, "--single") as server:
        assert server.post("/invocations", "[[1, 2, 3, 4]]").json() == {"predictions": [[3.0, 6.0, 9.0, 12.0]]}
        assert_ctrl_c_stops(server)


def test_single_without_a_model_says_where_it_belongs(tmp_path: Path) -> None:
    done = subprocess.run(
        [SERVE, "--single", "--base-dir", tmp_path, "--port", str(free_port())], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"there is no model in {tmp_path}/model" in done.stdout + done.stderr


@pytest.mark.docker
@pytest.mark.timeout(1300)
def test_docker_serves_the_same_from_the_image_with_the_same_settings(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
    multiplier(tmp_path / "ml" / "models" / "double" / "model", factor=2)
    for folder in (tmp_path, *tmp_path.rglob("*/")):  # pytest's folders are private; the models run as another user
        folder.chmod(0o755)
    with serving(tmp_path, "--docker", "--host", "localhost", "--image", image.tag) as server:
        assert server.load("double").status_code == 200
        assert server.invoke("double", "[[1, 2, 3, 4]]").text == "2.0,4.0,6.0,8.0\n"
        assert_ctrl_c_stops(server)
