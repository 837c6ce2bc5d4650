"""Settings of SageMaker that the front end carries out: seen on a real server, not in what we write for it."""

from __future__ import annotations

import re
import uuid

from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until


def test_a_model_starts_with_as_many_workers_as_the_setting_says() -> None:
    with ServerProcess(SAGEMAKER_MODEL_SERVER_WORKERS="2", SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none") as server:
        name = uuid.uuid4().hex
        make_model(server.model_dir(name))
        assert server.load(name).status_code == 200, server.log_tail()

        def ready() -> int:
            return sum(worker["status"] == "READY" for worker in server.describe(name).json()["workers"])

        wait_until(lambda: ready() == 2, lambda: f"two workers are ready: {server.describe(name).text}")
        described = server.describe(name).json()
        assert (described["minWorkers"], described["maxWorkers"], len(described["workers"])) == (2, 2, 2)
        assert server.invoke(name, command("echo", 1)).json() == 1


def test_arguments_for_the_jvm_come_after_ours_and_win_and_empty_settings_of_the_toolkit_count_as_not_set() -> None:
    settings = {"SAGEMAKER_MODEL_SERVER_TIMEOUT": " ", "SAGEMAKER_STARTUP_TIMEOUT": "", "MME_PRELOAD": "none"}
    with ServerProcess(SAGEMAKER_MODEL_SERVER_VMARGS="-Dmme.test=1 -Xmx300m -Xlog:gc+init", **settings) as server:  # type: ignore[arg-type]
        words = server.front_end().cmdline()
        heaps = [word for word in words if word.startswith("-Xmx")]
        assert len(heaps) == 2 and heaps[0] != heaps[1] == "-Xmx300m", heaps
        assert "-Dmme.test=1" in words
        said = re.search(r"Heap Max Capacity: (\S+)", server.log())
        assert said and said[1] == "300M", server.log_tail()
        assert server.ping().status_code == 200
