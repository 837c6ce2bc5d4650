"""Containers of the image at work. What each API answers is tests/contract's, which runs against a container, too."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import models
from tests.harness.docker import POLL_S, DockerServer, Image
from tests.harness.parallel import show
from tests.harness.waiting import wait_until
from tests.harness.wheels import write_requirements, write_wheel

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1300)]

ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])
ROOT_USER = 0
CHECK_OFTEN = ["--health-interval=1s", "--health-timeout=1s", "--health-retries=1", "--health-start-period=0s"]


@pytest.fixture(scope="module")
def served(image: Image) -> Iterator[DockerServer]:
    """A container with a limit of memory and a health check that asks often, for tests that end nothing."""
    options = ["--memory", "2g", "--memory-swap", "2g", *CHECK_OFTEN]
    with DockerServer(image, options=options, SAGEMAKER_MODEL_SERVER_VMARGS="") as running:
        yield running


def load_and_invoke(server: DockerServer, name: str = "double") -> None:
    """Loads a model that doubles its input, and checks an answer."""
    models.multiplier(server.model_dir(name), factor=2)
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    answer = server.invoke(name, ONE_ROW)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    assert answer.json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}


def wait_for_health(server: DockerServer, status: str) -> None:
    """Returns once Docker's own health check says ``status``."""
    wait_until(
        lambda: server.state()["Health"]["Status"] == status,
        lambda: f"Docker says {status}, not {server.state()['Health']}\n{server.log_tail()}",
        timeout_s=60,
        poll_s=POLL_S,
    )


def show_start(request: pytest.FixtureRequest, server: DockerServer, what: str) -> None:
    show(request, f"from docker run to an answered ping on {os.cpu_count()} cores: {server.start_s:.2f} s ({what})")


def test_started_as_root_the_server_and_the_models_run_unprivileged(
    image: Image, served: DockerServer, request: pytest.FixtureRequest
) -> None:
    show_start(request, served, "as root, 2 GB of memory")
    load_and_invoke(served)
    # Docker itself runs the health check, as the image's user.
    processes = [each for each in served.processes() if "mme.supervisor.healthcheck" not in each["command"]]
    user = int(image.run("id", "-u", "model-server").stdout)
    assert user != ROOT_USER
    assert {tuple(process["uids"]) for process in processes} == {(user, user, user)}
    assert all(ROOT_USER not in process["gids"] for process in processes)
    assert served.front_end()["uids"][0] == user
    workers = [process for process in processes if process["pid"] not in (1, served.front_end()["pid"])]
    assert workers, "the model's worker is a process of its own"


@pytest.mark.parametrize(
    "options",
    [
        ["--read-only", "--tmpfs", "/tmp"],
        ["--user", "10001:10001", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"],
    ],
    ids=["read-only", "other-user-read-only-no-capabilities"],
)
def test_it_serves_with_less(image: Image, options: list[str], request: pytest.FixtureRequest) -> None:
    with DockerServer(image, options=options, SAGEMAKER_MODEL_SERVER_VMARGS="") as server:
        show_start(request, server, "read-only")
        load_and_invoke(server)
        if "--user" in options:
            assert {process["uids"][0] for process in server.processes()} == {10001}
        # --tmpfs mounts /tmp so that it may hold no programs. The front end has its fast sockets all the same, Unix
        # ones to workers, and what it takes for the worker is the launcher: the worker itself is forked.
        assert f"listening on {server.url} with EpollServerSocketChannel" in server.log()
        assert re.search(r"Connecting to: /\S+/\.mms\.sock\.\d+$", server.log(), re.MULTILINE)
        started = [process["command"] for process in server.processes() if "--model-name" in process["command"]]
        assert [command[0].partition("/home/")[2] for command in started] == ["bin/python"], "the shell, by a link"


def test_mme_user_root_keeps_root_and_when_the_jvm_dies_the_container_dies_with_its_status(image: Image) -> None:
    with DockerServer(image, MME_USER="root", MME_PRELOAD="none") as server:
        assert server.front_end()["uids"][0] == ROOT_USER
        server.signal(server.front_end(), "KILL")
        assert server.wait() == 137
        assert "SIGKILL" in server.log()


def test_an_unknown_user_ends_the_start_with_a_clear_line(image: Image) -> None:
    ended = image.run("serve", options=["--env", "MME_USER=nobody-here"])
    assert ended.returncode == 1
    assert "MME_USER=nobody-here" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def test_without_network_it_serves_on_8080_and_becomes_healthy(image: Image) -> None:
    # As SageMaker's network isolation has it; the only network is the container's own loopback.
    settings = {"SAGEMAKER_BIND_TO_PORT": "", "MME_HOST": "", "MME_PRELOAD": "none"}
    server = DockerServer(image, network="none", options=["--health-interval", "1s"], **settings)  # type: ignore[arg-type]
    try:
        server.launch()
        wait_for_health(server, "healthy")
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/ping').status)"
        assert server.execute("python", "-c", ask) == "200\n"
        assert server.stop() == 0
    finally:
        server.discard()


def test_the_health_check_asks_the_port_that_is_served_on_and_notices_a_hung_front_end(served: DockerServer) -> None:
    wait_for_health(served, "healthy")
    front_end = served.front_end()
    served.signal(front_end, "STOP")
    try:
        wait_for_health(served, "unhealthy")
    finally:
        served.signal(front_end, "CONT")
    wait_for_health(served, "healthy")


HANDLER = """
import greeting_of_a_test
from model_handler import ModelHandler, entry_point


class Handler(ModelHandler):
    def postprocess(self, request, outputs):
        return greeting_of_a_test.TEXT


handle = entry_point(Handler)
"""


def model_with_requirements() -> Path:
    """A folder with a model whose handler needs a package that it brings along; a container mounts it."""
    folder = Path(tempfile.mkdtemp(prefix="mt-")) / "model"
    models.multiplier(folder)
    write_wheel(folder / "code" / "wheels", "greeting_of_a_test", "TEXT = 'from the package'\n")
    write_requirements(folder, "greeting_of_a_test", wheels="/opt/ml/model/code/wheels")
    (folder / "code" / "handler_of_a_test.py").write_text(HANDLER)
    folder.parent.chmod(0o755)
    return folder


def test_packages_that_a_single_model_asks_for_are_installed_by_root_and_used_by_others(image: Image) -> None:
    folder = model_with_requirements()
    settings = {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", "SAGEMAKER_HANDLER": "handler_of_a_test"}
    try:
        with DockerServer(image, single_model_dir=folder, **settings) as server:  # type: ignore[arg-type]
            assert server.post("/invocations", ONE_ROW).text == "from the package", server.log_tail()
            user = int(image.run("id", "-u", "model-server").stdout)
            assert {process["uids"][0] for process in server.processes()} == {user}
        mounted = ["--volume", f"{folder}:/opt/ml/model:ro", "--read-only", "--tmpfs", "/tmp"]
        ended = image.run("serve", options=[*mounted, *(f"--env={name}={value}" for name, value in settings.items())])
        assert ended.returncode == 1
        last = (ended.stdout + ended.stderr).splitlines()[-1]
        assert "requirements.txt could not be installed" in last and "not read-only" in last
        assert "Traceback" not in ended.stdout + ended.stderr
    finally:
        shutil.rmtree(folder.parent)


def test_a_model_that_only_root_may_read_is_named_with_the_remedy(served: DockerServer) -> None:
    file = models.multiplier(served.model_dir("closed")) / "model-0000.params"
    file.chmod(0o600)
    assert served.load("closed").status_code == 500
    wait_until(lambda: "chmod -R a+rX" in served.log(), lambda: f"the remedy is in the log\n{served.log_tail()}")
    file.chmod(0o644)
    assert served.load("closed").status_code == 200, served.log_tail()


def test_a_trained_network_sees_the_cat_in_a_photo(served: DockerServer, shared: Path) -> None:
    models.cifar_model(served.model_dir("cifar"), shared, "cifar_resnet20_v1")
    assert served.load("cifar").status_code == 200, served.log_tail()
    answer = served.invoke("cifar", (shared / "images" / "cat.jpg").read_bytes(), "image/jpeg")
    assert answer.status_code == 200, answer.text
    best = re.fullmatch(r"probability=([0-9.]+), class=cat", answer.json()[0])
    assert best, answer.text
    assert float(best[1]) > 0.9
