"""``MME_WORKERS=spawn``, the way out where forking does not work: a model's whole life, and what it is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import models
from tests.harness.scripted_handler import HANDLER
from tests.harness.server import ServerProcess
from tests.harness.statistics import statistics_of
from tests.harness.waiting import wait_until
from tests.integration.test_scaling import IDLE_S, LIMIT, load, traffic, wait_for_workers, workers_per_core

ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings: dict[str, Any] = {
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "30",
        "MME_SLEEP_AFTER_S": "1",
        "MME_MAX_IDLE_TIME_S": str(IDLE_S),
        "MME_WORKERS_PER_CORE": workers_per_core(LIMIT),
    }
    with ServerProcess(MME_WORKERS="spawn", **settings) as running:
        yield running


def test_spawned_workers_serve_fail_and_are_refused_as_forked_ones(server: ServerProcess) -> None:
    wait_until(lambda: "MME_SLEEP_AFTER_S has no effect" in server.log(), "who does not sleep says so")
    folder = models.multiplier(server.model_dir("double"), factor=2)
    assert server.load("double").status_code == 200, server.log_tail()
    assert server.invoke("double", ONE_ROW).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
    assert server.invoke("double", "[[1, 2], [3]]").status_code == 400
    assert server.load("double").status_code == 409

    models.multiplier(server.model_dir("large"))
    (server.model_dir("large") / "serving.properties").write_text("option.required_memory_mb=100000000\n")
    assert server.load("large").status_code == 507
    wait_until(lambda: "model 'large' is refused" in server.log(), "the refusal is logged")

    assert server.unload("double").status_code == 200
    assert server.invoke("double", ONE_ROW).status_code == 404
    (folder / "model-0000.params").unlink()
    assert server.load("double").status_code == 500
    wait_until(lambda: "Model double did not load (500)" in server.log(), "the reason is logged")
    assert server.describe("double").status_code == 404
    models.multiplier(folder, factor=3)
    assert server.load("double").status_code == 200, server.log_tail()
    assert server.invoke("double", ONE_ROW).json() == {"predictions": [[3.0, 6.0, 9.0, 12.0]]}


def test_spawned_workers_come_and_go_with_traffic_too_and_lose_nothing(server: ServerProcess) -> None:
    with statistics_of(server) as statistics:
        name = load(server, "maxWorkers=2\n", handler=HANDLER)
        with traffic(server, name, clients=1, busy_s=0.001) as light:
            with traffic(server, name, clients=4) as hot:
                wait_until(lambda: len(hot.processes) == 2, "a second worker answers")
            wait_for_workers(statistics, name, 1)
            answered = len(light.answers)
            wait_until(lambda: len(light.answers) >= answered + 10, "the other one goes on")
        assert len({json.loads(answer)[1] for _, _, answer in light.answers[-5:]}) == 1
        for each in (light, hot):
            each.assert_each_was_answered_once_with_its_own()
