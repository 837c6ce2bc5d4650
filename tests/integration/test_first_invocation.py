"""The first invocation of a model over HTTP, for each way of making workers, beside its tenth."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection

import pytest

from tests.harness import models
from tests.harness.bodies import body
from tests.harness.server import WORKER_MODES, ServerProcess
from tests.harness.waiting import wait_until

MOST_TIMES_THE_TENTH = 1.5
# Other programs on the machine lengthen a time now and then: the best of the first ones is the code's own.
LOADS = {"fork": 7, "spawn": 3}
SHAPES = {
    "application/json": (1, 3, 32, 32),
    "application/x-npy": (1, 3, 224, 224),
    "image/jpeg": (1, 3, 224, 224),
}


@pytest.fixture(scope="module", params=WORKER_MODES)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server whose JVM has seen a few hundred requests, none of them of the models under test."""
    with ServerProcess(MME_WORKERS=request.param) as running:
        for content_type in SHAPES:
            name = load(running, content_type)
            times_s(running, name, content_type, 100)
            running.unload(name)
        yield running


def load(server: ServerProcess, content_type: str) -> str:
    name = uuid.uuid4().hex
    models.tiny_classifier(server.model_dir(name), input_shape=SHAPES[content_type])
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    wait_until(lambda: server.describe(name).json()["workers"][0]["status"] == "READY", "its worker is ready")
    return name


def times_s(server: ServerProcess, name: str, content_type: str, count: int) -> list[float]:
    """How long each of ``count`` invocations took, each over a connection of its own."""
    sent = body(content_type, SHAPES[content_type])
    times = []
    for _ in range(count):
        started_s = time.perf_counter()
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            connection.request("POST", f"/models/{name}/invoke", sent, {"Content-Type": content_type})
            answer = connection.getresponse()
            answered = answer.read()
        finally:
            connection.close()
        times.append(time.perf_counter() - started_s)
        assert answer.status == 200, answered
    return times


@pytest.mark.parametrize("content_type", SHAPES)
def test_the_first_invocation_is_no_slower_than_half_again_the_tenth(server: ServerProcess, content_type: str) -> None:
    first_s, tenth_s = [], []
    for _ in range(LOADS[server.settings["MME_WORKERS"]]):
        name = load(server, content_type)
        times = times_s(server, name, content_type, 10)
        first_s.append(times[0])
        tenth_s.append(times[9])
        server.unload(name)
    first, tenth = min(first_s), statistics.median(tenth_s)
    print(f"{content_type}: first {first * 1000:.2f} ms, tenth {tenth * 1000:.2f} ms")
    assert first <= MOST_TIMES_THE_TENTH * tenth, f"first {first * 1000:.2f} ms, tenth {tenth * 1000:.2f} ms"
