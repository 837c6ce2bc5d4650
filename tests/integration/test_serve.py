"""scripts/serve: the container's server in the foreground, in each of its modes."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.harness.container_client import ContainerClient
from tests.harness.docker import Image
from tests.harness.marked_process import STOP_TIMEOUT_S, MarkedProcess
from tests.harness.models import multiplier
from tests.harness.ports import free_port
from tests.harness.scripts import adder
from tests.harness.waiting import wait_until

SERVE = Path(__file__).resolve().parents[2] / "scripts" / "serve"


class Serving(MarkedProcess, ContainerClient):
    """A running scripts/serve. Its temporary files go to ``temporary``."""

    def __init__(self, folder: Path, temporary: Path, *arguments: str, **settings: str) -> None:
        port = free_port()
        MarkedProcess.__init__(self, folder / "serve.out")
        ContainerClient.__init__(self, f"http://127.0.0.1:{port}")
        self.temporary = temporary
        self.spawn(
            [SERVE, "--port", str(port), "--base-dir", folder / "ml", *arguments],
            environment={**os.environ, "TMPDIR": str(temporary), **settings},
        )

    def answers(self) -> bool:
        """Does /ping answer?"""
        try:
            return self.ping().status_code == 200
        except requests.RequestException:
            return False

    def assert_nothing_survives(self) -> None:
        """No process and no temporary file of the server is left."""
        super().assert_nothing_survives()
        assert not list(self.temporary.glob("mme-*"))


@contextmanager
def serving(folder: Path, *arguments: str, **settings: str) -> Iterator[Serving]:
    """Starts scripts/serve on a free port; whatever is left of it afterwards is killed, and its files are removed."""
    with tempfile.TemporaryDirectory(prefix="mt-") as temporary:  # short: Unix sockets live below it
        server = Serving(folder, Path(temporary), *arguments, **settings)
        try:
            server.wait_until_ready(server.answers, timeout_s=120)
            yield server
        finally:
            server.kill()


def assert_ctrl_c_stops(server: Serving) -> None:
    assert server.interrupt_group() == 0, server.log()
    server.assert_nothing_survives()
    assert "Traceback" not in server.log()


def test_it_serves_the_models_below_its_base_dir_until_ctrl_c(tmp_path: Path) -> None:
    model = adder(tmp_path / "ml" / "models" / "plus" / "model", 2)
    with serving(tmp_path, MME_PRELOAD="none") as server:
        assert server.load("plus", str(model)).status_code == 200
        assert server.invoke("plus", "[[1, 2, 3, 4]]").json() == [[3, 4, 5, 6]]
        assert_ctrl_c_stops(server)
    assert f"serving models in {tmp_path}/ml/models/NAME/model on {server.url}" in server.log()


def test_the_server_ends_with_a_serve_that_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path, MME_PRELOAD="none") as server:
        assert server.process is not None
        server.process.kill()
        wait_until(lambda: not server.survivors(), "nothing of the server is left", STOP_TIMEOUT_S)
        server.assert_nothing_survives()


def test_a_server_that_dies_ends_serve_with_its_exit_code(tmp_path: Path) -> None:
    with serving(tmp_path, MME_PRELOAD="none") as server:
        # a front end that dies before its supervisor calls the start done is started again
        wait_until(lambda: "mme.supervisor.server - serving" in server.log(), "the start is over")
        jvm = [each for each in server.survivors() if "com.amazonaws.ml.mms.ModelServer" in each.cmdline()]
        assert len(jvm) == 1
        jvm[0].kill()
        assert server.wait() == 128 + signal.SIGKILL
        server.assert_nothing_survives()


def test_single_serves_one_model_on_invocations(tmp_path: Path) -> None:
    adder(tmp_path / "ml" / "model", 3)
    with serving(tmp_path, "--single", MME_PRELOAD="none") as server:
        assert server.post("/invocations", "[[1, 2, 3, 4]]").json() == [[4, 5, 6, 7]]
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
