"""More models than fit, in a real server: all are loaded, all answer, and those that are not asked sleep."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from mme.capacity.cores import usable_cores
from tests.harness.models import heavy_model, link_files, tiny_classifier, tiny_mlp
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import workers

RESERVE_MB = 100
WEIGHTS_MB = 50
# What the server takes by itself (JVM, zygote, supervisor) is about 300 MiB; a heavy model takes about 60.
LIMIT_MB = 600
MODELS = 6  # twice what fits


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heavy_model(tmp_path_factory.mktemp("heavy"), weights_mb=WEIGHTS_MB)


@pytest.fixture(scope="module")
def server(heavy: Path) -> Iterator[ServerProcess]:
    """With twice as many models as fit, all loaded."""
    settings: dict[str, Any] = {"MME_MEMORY_LIMIT_MB": str(LIMIT_MB), "MME_MEMORY_RESERVE_MB": str(RESERVE_MB)}
    with ServerProcess(MME_WORKERS_PER_CORE=f"{2.5 / usable_cores():.3f}", **settings) as running:  # two of a model
        for name in NAMES:
            folder = link_files(heavy, running.model_dir(name))
            if name in ONE_WORKER:
                (folder / "serving.properties").write_text("maxWorkers=1\n")
            assert running.load(name).status_code == 200, running.log_tail()
        yield running


NAMES = [f"heavy-{number}" for number in range(MODELS)]
# Whatever traffic they had: of several workers, more than one may be used.
ONE_WORKER = NAMES[-2:]


def answers(server: ServerProcess, name: str) -> bool:
    response = server.invoke(name, json.dumps([[1.0] * 1024]).encode(), content_type="application/json")
    assert response.status_code == 200, f"{name}: {response.text}\n{server.log_tail()}"
    return response.json()["predictions"][0][0] > 0


def used_mib(server: ServerProcess) -> float:
    return sum(process.memory_full_info().pss for process in server.processes()) / 2**20


def awake(server: ServerProcess) -> list[str]:
    return [name for name in NAMES if workers(server, name)]


def test_all_are_loaded_and_all_answer_in_the_memory_of_half_of_them(server: ServerProcess) -> None:
    assert {model["modelName"] for model in server.list_models().json()["models"]} >= set(NAMES)
    assert all(answers(server, name) for name in NAMES)
    assert LIMIT_MB - used_mib(server) >= RESERVE_MB
    assert 3 <= len(awake(server)) < MODELS


def test_clients_of_many_models_at_once_are_all_answered(server: ServerProcess) -> None:
    def ask(seed: int) -> int:
        chance = random.Random(seed)
        return sum(answers(server, chance.choice(NAMES)) for _ in range(5))

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(ask, range(6))) == 6 * 5
    assert LIMIT_MB - used_mib(server) >= RESERVE_MB


def test_what_was_used_last_is_awake(server: ServerProcess) -> None:
    for name in ONE_WORKER:
        answers(server, name)
    before = [process.pid for name in ONE_WORKER for process in workers(server, name)]
    for name in (NAMES[0], NAMES[-2], NAMES[-1], NAMES[1], NAMES[-2], NAMES[-1]):
        answers(server, name)
    assert [process.pid for name in ONE_WORKER for process in workers(server, name)] == before


def test_the_description_of_a_model_says_whether_it_sleeps(server: ServerProcess) -> None:
    asleep = next(name for name in NAMES if name not in awake(server))
    wait_until(lambda: server.describe(asleep).json()["asleep"] is True, "it is shown asleep")
    assert server.describe(asleep).json()["modelName"] == asleep
    answers(server, asleep)
    assert server.describe(asleep).json()["asleep"] is False


def test_a_load_that_could_never_fit_is_refused_and_puts_nobody_to_sleep(server: ServerProcess) -> None:
    folder = tiny_mlp(server.model_dir("modest"))
    (folder / "serving.properties").write_text(f"option.required_memory_mb={LIMIT_MB}\n")
    before = awake(server)
    assert before
    assert server.load("modest").status_code == 507
    assert awake(server) == before


def test_models_are_unloaded_and_loaded_again_while_they_sleep(server: ServerProcess, heavy: Path) -> None:
    asleep = next(name for name in NAMES if name not in awake(server))
    assert server.unload(asleep).status_code == 200
    assert server.invoke(asleep, b"[]").status_code == 404
    assert server.load(asleep).status_code == 200, server.log_tail()
    assert answers(server, asleep)


def test_a_model_whose_files_have_changed_answers_500_once_and_is_unloaded(server: ServerProcess) -> None:
    make_model(server.model_dir("changing"))
    assert server.load("changing", handler=HANDLER).status_code == 200
    for name in NAMES:  # it is the one that was used longest ago then
        answers(server, name)
    wait_until(lambda: not workers(server, "changing"), "it sleeps")
    (server.model_dir("changing") / "on_load").write_text(command("echo", "other"))
    answer = server.invoke("changing", command("echo", 1))
    assert answer.status_code == 500
    assert "the files of model 'changing' have changed since it was loaded" in answer.json()["message"]
    wait_until(lambda: server.invoke("changing", command("echo", 1)).status_code == 404, "it is unloaded")
    assert server.load("changing", handler=HANDLER).status_code == 200, "as the platform does then"
    assert server.invoke("changing", command("echo", 1)).json() == 1
    assert server.unload("changing").status_code == 200


def test_a_model_that_must_not_be_ended_stays(server: ServerProcess) -> None:
    folder = make_model(server.model_dir("stays"))
    (folder / "serving.properties").write_text("option.never_sleep=true\n")
    assert server.load("stays", handler=HANDLER).status_code == 200
    pid = server.invoke("stays", command("sleep", 0)).json()
    for name in NAMES:
        answers(server, name)
    assert server.invoke("stays", command("sleep", 0)).json() == pid
    assert server.unload("stays").status_code == 200


def test_a_wake_up_that_there_is_no_memory_for_is_answered_507_until_there_is(server: ServerProcess) -> None:
    """Awake, the two would take more than the 260 MiB or so that are left for models; one of them may not sleep."""
    for name, properties in (("large", ""), ("fixed", "option.never_sleep=true\n")):
        folder = make_model(server.model_dir(name), *(("hold", 150) if name == "fixed" else ()))
        (folder / "serving.properties").write_text(f"option.required_memory_mb=160\n{properties}")
    assert server.load("large", handler=HANDLER).status_code == 200, server.log_tail()
    for name in NAMES:  # it is the one that was used longest ago then
        answers(server, name)
    wait_until(lambda: not workers(server, "large"), "it sleeps")
    assert server.load("fixed", handler=HANDLER).status_code == 200, server.log_tail()
    for _ in range(2):
        refused = server.invoke("large", command("echo", 1))
        assert refused.status_code == 507, refused.text
        assert "model 'large' is refused: it needs 160 MiB" in refused.json()["message"]
        assert server.describe("large").json()["asleep"] is True, "it is loaded, and sleeps on"
    assert "large" in {model["modelName"] for model in server.list_models().json()["models"]}
    assert server.invoke("fixed", command("echo", 1)).json() == 1
    assert server.unload("fixed").status_code == 200
    assert server.invoke("large", command("echo", 1)).json() == 1
    assert server.unload("large").status_code == 200


def test_a_further_worker_of_a_hot_model_puts_others_to_sleep(server: ServerProcess) -> None:
    make_model(server.model_dir("hot"), "hold", WEIGHTS_MB)
    assert server.load("hot", handler=HANDLER).status_code == 200, server.log_tail()
    for name in NAMES:
        answers(server, name)
    server.invoke("hot", command("echo", 1))
    before = awake(server)

    def ask(_: int) -> int:
        while len(processes) < 2:
            answer = server.invoke("hot", command("sleep", 0.03))
            if answer.status_code != 200:
                return answer.status_code
            processes.add(answer.json())
        return 200

    processes: set[int] = set()
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [200] * 6, server.log_tail()
    assert len(workers(server, "hot")) == 2
    assert set(awake(server)) < set(before), "what was used longest ago has made room"
    assert LIMIT_MB - used_mib(server) >= RESERVE_MB
    assert all(answers(server, name) for name in NAMES)
    assert server.unload("hot").status_code == 200


@pytest.fixture(scope="module")
def sleepy() -> Iterator[ServerProcess]:
    """It has two models at most, which sleep a second after their last request. The last test of it stops it."""
    with ServerProcess(MME_SLEEP_AFTER_S="1", MME_MOST_MODELS="2") as running:
        yield running


@pytest.mark.parametrize("first", ["valid", "broken"])
def test_a_model_that_was_woken_answers_as_before(sleepy: ServerProcess, first: str) -> None:
    """Its labels, which the first output tells, and its errors are those of a model that was just loaded."""
    array = io.BytesIO()
    np.save(array, np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(1, 1, 28, 28))
    accepted = ("application/json", "application/json;verbose", "image/png")

    def ask(accept: str) -> tuple[int, Any]:
        answer = sleepy.invoke(first, array.getvalue(), content_type="application/x-npy", accept=accept)
        return answer.status_code, answer.json()

    tiny_classifier(sleepy.model_dir(first))
    assert sleepy.load(first).status_code == 200, sleepy.log_tail()
    before = [ask(accept) for accept in accepted]
    assert [status for status, _ in before] == [200, 200, 406]
    wait_until(lambda: not workers(sleepy, first), "it sleeps")
    if first == "broken":
        assert sleepy.invoke(first, b"[[1, 2], [3]]", content_type="application/json").status_code == 400
    assert [ask(accept) for accept in accepted] == before
    assert "labels" in before[1][1]
    assert sleepy.unload(first).status_code == 200


def test_no_more_models_are_loaded_than_are_allowed(sleepy: ServerProcess) -> None:
    for name in ("a", "b", "c"):
        make_model(sleepy.model_dir(name))
    assert [sleepy.load(name, handler=HANDLER).status_code for name in ("a", "b")] == [200, 200]
    refused = sleepy.load("c", handler=HANDLER)
    assert refused.status_code == 507
    assert "MME_MOST_MODELS" in refused.json()["message"]
    assert sleepy.load("a", handler=HANDLER).status_code == 409
    assert sleepy.unload("a").status_code == 200
    assert sleepy.load("c", handler=HANDLER).status_code == 200
    assert requests.get(sleepy.url + "/ping", timeout=5).status_code == 200
    assert [sleepy.unload(name).status_code for name in ("b", "c")] == [200, 200]


def test_a_server_drains_and_stops_while_models_sleep_and_wake(sleepy: ServerProcess) -> None:
    for name in ("sleeps", "wakes"):
        model = make_model(sleepy.model_dir(name), "once", str(sleepy.folder / name), ["sleep", 2])
        assert sleepy.load(name, handler=HANDLER).status_code == 200, sleepy.log_tail()
        assert model.exists()
    wait_until(lambda: not workers(sleepy, "sleeps") and not workers(sleepy, "wakes"), "both sleep")
    (sleepy.folder / "wakes").touch()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(sleepy.invoke, "wakes", command("echo", 1))
        wait_until(lambda: not (sleepy.folder / "wakes").exists(), "it wakes")
        assert sleepy.stop() == 0
        assert answer.result().json() == 1, "who was there before the stop is answered"
    sleepy.assert_nothing_survives()
