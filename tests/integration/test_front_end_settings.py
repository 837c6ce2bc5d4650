"""Settings of SageMaker that the front end carries out: seen on a real server, not in what we write for it."""

from __future__ import annotations

import json
import re
import uuid

import pytest

from tests.harness import models
from tests.harness.server import WORKER_MODES, ServerProcess
from tests.harness.waiting import wait_until

ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])


@pytest.mark.parametrize("mode", WORKER_MODES)
def test_a_model_starts_with_as_many_workers_as_the_setting_says(mode: str) -> None:
    with ServerProcess(MME_WORKERS=mode, SAGEMAKER_MODEL_SERVER_WORKERS="2") as server:
        name = uuid.uuid4().hex
        models.multiplier(server.model_dir(name), factor=2)
        assert server.load(name).status_code == 200, server.log_tail()

        def ready() -> int:
            return sum(worker["status"] == "READY" for worker in server.describe(name).json()["workers"])

        wait_until(lambda: ready() == 2, lambda: f"two workers are ready: {server.describe(name).text}")
        described = server.describe(name).json()
        assert (described["minWorkers"], described["maxWorkers"], len(described["workers"])) == (2, 2, 2)
        assert server.invoke(name, ONE_ROW).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}


def test_arguments_for_the_jvm_come_after_ours_and_win() -> None:
    with ServerProcess(SAGEMAKER_MODEL_SERVER_VMARGS="-Dmme.test=1 -Xmx300m -Xlog:gc+init") as server:
        words = server.front_end().cmdline()
        heaps = [word for word in words if word.startswith("-Xmx")]
        assert len(heaps) == 2 and heaps[0] != heaps[1] == "-Xmx300m", heaps
        assert "-Dmme.test=1" in words
        said = re.search(r"Heap Max Capacity: (\S+)", server.log())
        assert said and said[1] == "300M", server.log_tail()
        assert server.ping().status_code == 200


def test_settings_of_the_toolkit_that_are_empty_count_as_not_set() -> None:
    with ServerProcess(SAGEMAKER_MODEL_SERVER_TIMEOUT=" ", SAGEMAKER_STARTUP_TIMEOUT="") as server:
        assert server.ping().status_code == 200
