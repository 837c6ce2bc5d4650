"""Settings of SageMaker that the front end carries out: seen on a real server, not in what we write for it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import JVM_ARGUMENTS, ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings: dict[str, Any] = {
        "SAGEMAKER_MODEL_SERVER_VMARGS": f"{JVM_ARGUMENTS} -Dmme.test=1 -Xmx300m -Xlog:gc+init",
        "SAGEMAKER_MODEL_SERVER_WORKERS": " ",
        "SAGEMAKER_STARTUP_TIMEOUT": "",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "3",
        "MME_BATCH_SIZE": "2",
        "MME_MAX_BATCH_DELAY_MS": "7",
    }
    with ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", **settings) as running:
        yield running


def test_arguments_for_the_jvm_come_after_ours_and_win_and_empty_settings_of_the_toolkit_count_as_not_set(
    server: ServerProcess,
) -> None:
    words = server.front_end().cmdline()
    heaps = [word for word in words if word.startswith("-Xmx")]
    assert len(heaps) == 2 and heaps[0] != heaps[1] == "-Xmx300m", heaps
    assert "-Dmme.test=1" in words
    said = re.search(r"Heap Max Capacity: (\S+)", server.log())
    assert said and said[1] == "300M", server.log_tail()
    assert server.ping().status_code == 200


def make(server: ServerProcess, properties: str, *on_load: object) -> str:
    """The name of a new model with these serving.properties."""
    name = uuid.uuid4().hex
    folder = server.model_dir(name)
    make_model(folder, *on_load)
    (folder / "serving.properties").write_text(properties)
    return name


def test_a_models_serving_properties_win_over_the_settings(server: ServerProcess) -> None:
    def batching(name: str) -> tuple[int, int]:
        assert server.load(name).status_code == 200, server.log_tail()
        described = server.describe(name).json()
        return described["batchSize"], described["maxBatchDelay"]

    assert batching(make(server, "")) == (2, 7)
    patient = make(server, "batch_size = 3  \nmax_batch_delay: 11\noption.predict_timeout=20\n")
    assert batching(patient) == (3, 11)
    # longer than the server waits
    assert server.invoke(patient, command("sleep", 4)).status_code == 200, server.log_tail()

    hasty = make(server, "option.predict_timeout=1\n")
    assert server.load(hasty).status_code == 200
    late = server.invoke(hasty, command("hang_in_c"))
    assert late.status_code == 500, late.text
    assert "took longer than 1 s to answer" in late.json()["message"]
    assert server.invoke(hasty, command("echo", 1)).json() == 1

    stuck = server.load(make(server, "option.model_loading_timeout=1\n", "hang_in_c"))
    assert stuck.status_code == 500, stuck.text
    assert "took longer than 1 s to load" in stuck.json()["message"]

    wrong = server.load(make(server, "engine=Python\nbatch_size=many\n"))
    assert wrong.status_code == 500
    assert "serving.properties, line 2: batch_size=many is not allowed" in wrong.json()["message"]
