"""``MME_WORKERS=spawn``, the way out where forking does not work: a model's whole life, and what it is refused."""

from __future__ import annotations

import json

from tests.harness import models
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until

ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])


def test_spawned_workers_serve_fail_and_are_refused_as_forked_ones() -> None:
    with ServerProcess(MME_WORKERS="spawn", SAGEMAKER_CONTAINER_LOG_LEVEL="30", MME_SLEEP_AFTER_S="1") as server:
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
        assert server.stop() == 0
