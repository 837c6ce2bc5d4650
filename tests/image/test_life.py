"""Containers of the image at their start and end: what cannot work is said in a line, what is asked is answered."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.harness.docker import POLL_S, DockerServer, Image, docker
from tests.harness.ports import free_port
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.waiting import wait_until

ADDED = 1  # of Docker's kinds of changes to a file system

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1300)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--read-only"], "no folder for temporary files can be written. Set TMPDIR, or mount one"),
        (["--read-only", "--tmpfs", "/tmp:size=8k"], "our files cannot be written to /tmp (TMPDIR): No space left"),
    ],
    ids=["none", "full"],
)
def test_without_a_place_for_files_it_ends_at_once_with_one_line(image: Image, options: list[str], said: str) -> None:
    settings = {"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_BIND_TO_PORT": str(free_port())}
    environment = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
    ended = image.run("serve", options=[*options, *environment])
    assert ended.returncode == 1
    lines = (ended.stdout + ended.stderr).splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0]


def test_docker_stop_answers_what_was_asked_turns_away_who_goes_on_asking_and_leaves_nothing(image: Image) -> None:
    with DockerServer(image, SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none") as server:
        make_model(server.model_dir("m"))
        assert server.load("m").status_code == 200, server.log_tail()
        began, ended = threading.Event(), threading.Event()

        def ask_again_and_again() -> list[int]:
            statuses = []
            with requests.Session() as session:
                while not ended.is_set():
                    try:
                        url = f"{server.url}/models/m/invoke"
                        statuses.append(session.post(url, data=command("sleep", 0.1), timeout=20).status_code)
                    except requests.ConnectionError:
                        break
                    began.set()
            return statuses

        with ThreadPoolExecutor(4) as clients:
            asking = [clients.submit(ask_again_and_again) for _ in range(3)]
            assert began.wait(20)
            slow = clients.submit(server.invoke, "m", command("sleep", 1))
            wait_until(lambda: server.log().count("/invoke") > 3, "requests are answered", poll_s=POLL_S)
            try:
                assert server.stop() == 0, "SageMaker kills after 30 s, which would be 137"
            finally:
                ended.set()
            assert slow.result().status_code == 200
            assert json.loads(slow.result().text) > 0
            for statuses in (each.result() for each in asking):
                answered = [status for status in statuses if status != 503]
                assert answered == [200] * len(answered)
                # Docker does not let us close the door: who comes anew is told.
                assert set(statuses[len(answered) :]) <= {503}
        added = [str(change["Path"]) for change in server.container().diff() or () if change["Kind"] == ADDED]
        assert [path for path in added if not path.startswith("/opt/ml")] == [], "nothing of a run stays"


def files_of_servers(server: DockerServer) -> list[str]:
    return server.execute("bash", "-c", "ls -d /tmp/mme-*").split()


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_container_that_has_ended_serves_again_when_it_is_started(image: Image, killed: bool) -> None:
    with DockerServer(image, SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none") as server:
        make_model(server.model_dir("m"))
        assert server.load("m").status_code == 200, server.log_tail()
        for _ in range(2):
            if killed:  # kill -9 of the first process: everything ends with it, and nobody cleans up
                docker("kill", "--signal", "KILL", server.name)
                assert server.wait() == 137
            else:
                assert server.stop() == 0
            server.start_again()
            assert requests.get(f"{server.url}/models", timeout=20).json() == {"models": []}, (
                "the platform loads what it wants"
            )
            assert server.load("m").status_code == 200, server.log_tail()
            assert server.invoke("m", command("echo", 7)).json() == 7
            assert len(files_of_servers(server)) == 1, "nothing is left of the run before"
