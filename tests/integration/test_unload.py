"""DELETE of a model that is asked: everybody is answered at once, nobody waits for a model that is gone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.harness.agent import in_flight, wait_until_idle
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until

AT_ONCE_S = 3.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none") as running:
        yield running


@pytest.mark.parametrize("extra", [{}, {"initial_workers": 2}, {"batch_size": 4, "max_batch_delay": 20}])
def test_requests_of_a_model_that_is_unloaded_are_answered_at_once(
    server: ServerProcess, extra: dict[str, Any]
) -> None:
    name, requests = uuid.uuid4().hex, 8
    make_model(server.model_dir(name))
    assert server.load(name, **extra).status_code == 200
    wait_until_idle(server)
    with ThreadPoolExecutor(requests) as client:
        before = server.log().count("begun")
        body = command("sequence", ["print", "begun"], ["sleep", 30])
        futures = [client.submit(server.invoke, name, body) for _ in range(requests)]
        wait_until(lambda: in_flight(server) == requests, "all are under way")
        wait_until(lambda: server.log().count("begun") > before, "one is worked on")

        unloaded_s = time.monotonic()
        server.unload(name)
        statuses = [future.result().status_code for future in futures]

    assert time.monotonic() - unloaded_s < AT_ONCE_S
    assert set(statuses) <= {500, 503, 404}  # the last: not read yet when the model went
    assert server.describe(name).status_code == 404
    assert server.invoke(name, command("nothing")).status_code == 404
    assert server.load(name).status_code == 200
    assert server.invoke(name, command("echo", 1)).json() == 1


def test_requests_of_other_models_are_not_disturbed(server: ServerProcess) -> None:
    names = [uuid.uuid4().hex for _ in range(2)]
    for name in names:
        make_model(server.model_dir(name))
        assert server.load(name).status_code == 200
    wait_until_idle(server)
    with ThreadPoolExecutor(8) as client:
        asked = [client.submit(server.invoke, name, command("sleep", 0.5)) for name in names for _ in range(4)]
        wait_until(lambda: in_flight(server) == 8, "all are under way")
        server.unload(names[0])
        statuses = [future.result().status_code for future in asked]
    assert set(statuses[:4]) <= {200, 500, 503, 404}
    assert statuses[4:] == [200] * 4
