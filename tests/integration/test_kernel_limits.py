"""A server that may not open many files refuses loads before it runs out, and answers on."""

from __future__ import annotations

import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import launchers, templates

LIMIT = 256
MOST_MODELS = 100  # a model takes at least two descriptors of the front end


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def test_loads_are_answered_507_before_descriptors_run_out_and_work_again_after_an_unload() -> None:
    server = ServerProcess(MME_PRELOAD="none", SAGEMAKER_HANDLER=HANDLER)
    server.before_start = few_descriptors
    with server:
        loaded = []
        for number in range(MOST_MODELS):
            name = f"m{number}"
            make_model(server.model_dir(name))
            answer = server.load(name)
            if answer.status_code != 200:
                break
            loaded.append(name)
        else:
            pytest.fail(f"{MOST_MODELS} models were loaded\n{server.log_tail()}")
        assert answer.status_code == 507, f"{len(loaded)} models\n{answer.text}\n{server.log_tail()}"
        assert "descriptors of the" in server.log()
        assert server.ping().status_code == 200
        assert server.load(name).status_code == 507
        for each in loaded:
            assert server.invoke(each, command("echo", each)).json() == each
        for each in loaded[:3]:
            assert server.unload(each).status_code == 200
        answer = server.load(name)
        assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
        assert server.invoke(name, command("echo", 1)).json() == 1


def test_a_launcher_that_dies_as_it_starts_fails_its_load_at_once_and_the_next_one_works() -> None:
    with ServerProcess(MME_PRELOAD="none", SAGEMAKER_HANDLER=HANDLER) as server, ThreadPoolExecutor(1) as pool:
        make_model(server.model_dir("m"))
        (template,) = templates(server)
        _, hard = before = resource.prlimit(template.pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{template.pid}/fd").iterdir()))
        resource.prlimit(template.pid, resource.RLIMIT_NOFILE, (used, hard))
        answer = server.load("m")  # within the client's timeout: MMS itself waits for a minute
        assert answer.status_code == 507, answer.text
        assert answer.json()["type"] == "InsufficientMemoryException"
        assert "descriptors" in answer.json()["message"]
        resource.prlimit(template.pid, resource.RLIMIT_NOFILE, before)
        assert server.load("m").status_code == 200
        assert server.unload("m").status_code == 200

        template.suspend()
        loading = pool.submit(server.load, "m")
        wait_until(lambda: bool(launchers(server, "m")), "there is a launcher")
        launchers(server, "m")[0].send_signal(signal.SIGTERM)
        answer = loading.result()
        assert answer.status_code == 500, answer.text
        assert "ended as it started" in answer.json()["message"]
        template.resume()
        assert server.load("m").status_code == 200
