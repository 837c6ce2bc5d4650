"""A template, or the zygote's root, dies while a request is under way: no request is lost by the death of another."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import is_gone, templates, worker, workers, zygotes

RESPONSE_TIMEOUT_S = 4
AWAKE = "option.never_sleep=true\n"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(
        MME_PRELOAD="none",
        MME_SLEEP_AFTER_S="1",
        SAGEMAKER_HANDLER=HANDLER,
        SAGEMAKER_MODEL_SERVER_TIMEOUT=str(RESPONSE_TIMEOUT_S),
    ) as running:
        yield running


@pytest.fixture
def client() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def make(server: ServerProcess, *on_load: object, properties: str = AWAKE) -> str:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), *on_load)
    (server.model_dir(name) / "serving.properties").write_text(properties)
    return name


def load(server: ServerProcess, properties: str = AWAKE) -> str:
    name = make(server, properties=properties)
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return name


def kill_template(server: ServerProcess) -> None:
    (template,) = templates(server)
    template.kill()
    wait_until(lambda: is_gone(template), "the template has died")


def kill_root(server: ServerProcess) -> None:
    (root,) = zygotes(server)
    root.kill()
    wait_until(lambda: zygotes(server) not in ([], [root]), "there is another root")


class Slow:
    """What takes until ``finish``; ``lines`` say how often it was begun and ended."""

    def __init__(self, folder: Path, *last: object) -> None:
        self._gate, self._lines = folder / uuid.uuid4().hex, folder / uuid.uuid4().hex
        begin, wait, end = (
            ["append", str(self._lines), "begun"],
            ["wait_for", str(self._gate)],
            ["append", str(self._lines), "end"],
        )
        self.words = ("sequence", begin, *([list(last)] if last else [wait, end]))

    def wait_until_begun(self) -> None:
        wait_until(self._lines.exists, "it is under way")

    def finish(self) -> None:
        self._gate.touch()

    def ran_once(self) -> bool:
        return self._lines.read_text() == "begun\nend\n"


def ask(client: ThreadPoolExecutor, server: ServerProcess, name: str, slow: Slow) -> Future[requests.Response]:
    """Returns when the request is under way."""
    asking = client.submit(server.invoke, name, command(*slow.words))
    slow.wait_until_begun()
    return asking


@pytest.mark.parametrize("kill", [kill_template, kill_root])
def test_a_request_that_is_under_way_is_answered_right(
    server: ServerProcess, client: ThreadPoolExecutor, kill: Callable[[ServerProcess], None]
) -> None:
    name, slow = load(server), Slow(server.folder)
    before = worker(server, name)
    asking = ask(client, server, name, slow)
    kill(server)
    slow.finish()
    assert asking.result().status_code == 200, asking.result().text
    assert slow.ran_once()
    assert server.invoke(name, command("echo", 1)).json() == 1
    assert worker(server, name) == before


def test_a_load_that_is_under_way_is_answered_right(server: ServerProcess, client: ThreadPoolExecutor) -> None:
    slow = Slow(server.folder)
    name = make(server, *slow.words)
    asking = client.submit(server.load, name)
    slow.wait_until_begun()
    kill_template(server)
    slow.finish()
    assert asking.result().status_code == 200, asking.result().text
    assert slow.ran_once()
    assert server.invoke(name, command("echo", 1)).json() == 1


def test_a_request_whose_own_worker_dies_after_its_template_gets_one_error_and_the_model_serves_again(
    server: ServerProcess, client: ThreadPoolExecutor
) -> None:
    name, slow = load(server), Slow(server.folder)
    asking = ask(client, server, name, slow)
    kill_template(server)
    worker(server, name).kill()
    assert asking.result().status_code == 500
    assert asking.result().json()["message"] == "Worker died."
    assert server.invoke(name, command("echo", 1)).json() == 1


def test_a_worker_that_hangs_in_a_request_when_its_template_dies_is_ended(
    server: ServerProcess, client: ThreadPoolExecutor
) -> None:
    name = load(server)
    hung = worker(server, name)
    asking = ask(client, server, name, Slow(server.folder, "hang_in_c"))
    kill_template(server)
    assert asking.result().status_code == 500
    wait_until(lambda: is_gone(hung), "the worker that hung is gone", timeout_s=3 * RESPONSE_TIMEOUT_S)
    assert server.invoke(name, command("echo", 1)).json() == 1


def test_a_request_for_a_model_that_sleeps_is_the_next_workers(
    server: ServerProcess, client: ThreadPoolExecutor
) -> None:
    name = load(server, properties="")
    wait_until(lambda: server.describe(name).json()["asleep"] and not workers(server, name), "it sleeps")
    (template,) = templates(server)
    template.suspend()  # it does not see the request
    asking = client.submit(server.invoke, name, command("echo", 1))
    wait_until(lambda: not server.describe(name).json()["asleep"], "the request is sent")
    kill_template(server)
    assert asking.result().status_code == 200, asking.result().text
    assert asking.result().json() == 1


@pytest.mark.parametrize(
    ("on_wake_up", "status", "reason"),
    [
        (["fail", "the database is away"], 500, "ValueError: the database is away"),
        (["wait_for", "/nowhere"], 507, "was killed while it loaded"),
    ],
    ids=["its load fails", "its worker is killed"],
)
def test_a_model_that_does_not_wake_answers_why_and_the_next_request_is_answered(
    server: ServerProcess, client: ThreadPoolExecutor, on_wake_up: list[str], status: int, reason: str
) -> None:
    fails = server.folder / uuid.uuid4().hex
    name = make(server, "once", str(fails), on_wake_up, properties="")
    assert server.load(name).status_code == 200, server.log_tail()
    wait_until(lambda: server.describe(name).json()["asleep"] and not workers(server, name), "it sleeps")
    fails.touch()
    asking = client.submit(server.invoke, name, command("echo", 1))
    wait_until(lambda: not fails.exists(), "it wakes")
    if status == 507:
        worker(server, name).kill()
    assert (asking.result().status_code, reason in asking.result().text) == (status, True), asking.result().text
    assert server.invoke(name, command("echo", 2)).json() == 2, server.log_tail()
    assert server.unload(name).status_code == 200
