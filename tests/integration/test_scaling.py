"""Workers follow traffic: a real server under bursts, shifts and idle times, with deaths, batches and little memory."""

from __future__ import annotations

import itertools
import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from mme.capacity.cores import usable_cores
from mme.supervisor.model_statistics import ModelStatistics
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.statistics import sample_of, statistics_of, wait_for
from tests.harness.waiting import wait_until
from tests.harness.workers import CLIENT_PAUSE_S, workers

# So many workers has a model at most, and so many more than their least all models have, however many cores there are.
LIMIT = 4
IDLE_S = 1
# Where it is time that traffic has to take, not requests.
LONG_S = 0.1
BATCHES = "batch_size=4\nmax_batch_delay=20\n"


def workers_per_core(limit: int) -> str:
    """With which the limit is this one on this machine."""
    return f"{(limit + 0.5) / usable_cores():.3f}"


def start(limit: int = LIMIT, **settings: str) -> ServerProcess:
    values: dict[str, Any] = {
        "MME_MAX_IDLE_TIME_S": str(IDLE_S),
        "MME_WORKERS_PER_CORE": workers_per_core(limit),
        **settings,
    }
    return ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", **values)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start() as running:
        yield running


@pytest.fixture(scope="module")
def statistics(server: ServerProcess) -> Iterator[ModelStatistics]:
    with statistics_of(server) as shared:
        yield shared


def load(server: ServerProcess, properties: str = "", *on_load: object, **load: int | str) -> str:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), *on_load)
    (server.model_dir(name) / "serving.properties").write_text(properties)
    answer = server.load(name, server.model_url(name), **load)
    assert answer.status_code == 200, answer.text
    return name


def bounds(server: ServerProcess, name: str) -> tuple[int, int, int]:
    """Least, most and present workers of a model, as MMS describes it."""
    described = server.describe(name).json()
    return described["minWorkers"], described["maxWorkers"], len(described["workers"])


def scale(server: ServerProcess, name: str, least: int, most: int) -> None:
    path = f"/models/{name}?min_worker={least}&max_worker={most}&synchronous=true"
    assert server.request("PUT", path).status_code == 200


@dataclass
class Clients:
    """What clients have sent, each line once, and what they were answered."""

    lines: Path
    answers: list[tuple[int, str, str]] = field(default_factory=list)  # status, line that was sent, answer

    def assert_each_was_answered_once_with_its_own(self) -> None:
        assert self.answers
        wrong = [each for each in self.answers if each[0] != 200 or json.loads(each[2])[0] != each[1]]
        assert not wrong, wrong[:3]
        ran = Counter(self.lines.read_text().splitlines())
        assert set(ran) == {line for _, line, _ in self.answers}
        assert not [line for line, times in ran.items() if times > 1], "ran more than once"

    @property
    def processes(self) -> set[int]:
        """Of the workers that have answered."""
        return {json.loads(answer)[1] for status, _, answer in list(self.answers) if status == 200}


@contextmanager
def traffic(server: ServerProcess, name: str, clients: int, busy_s: float = 0.03) -> Iterator[Clients]:
    """``clients`` send requests one after the other, each with a line of its own, until the end of the block."""
    seen = Clients(server.folder / f"lines-{uuid.uuid4().hex}")
    stop = threading.Event()

    def send(client: int) -> None:
        for number in itertools.count():
            line = f"{client}.{number}"
            body = command("sequence", ["sleep", busy_s], ["append", str(seen.lines), line])
            answer = server.invoke(name, body)
            seen.answers.append((answer.status_code, line, answer.text))
            if stop.wait(CLIENT_PAUSE_S):
                return

    threads = [threading.Thread(target=send, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_for_workers(statistics: ModelStatistics, name: str, *counts: int) -> None:
    def count() -> int:
        return sample_of(statistics, name).workers

    wait_until(lambda: count() in counts, lambda: f"{name} has {counts} workers, not {count()}")


# ---- more, and fewer ----


def test_a_burst_gives_a_model_workers_and_idleness_takes_them_back(
    server: ServerProcess, statistics: ModelStatistics
) -> None:
    name = load(server)
    assert bounds(server, name) == (1, LIMIT, 1)
    first = set(workers(server, name))
    with traffic(server, name, clients=2 * LIMIT) as seen:
        wait_until(lambda: len(seen.processes) == LIMIT, lambda: f"{LIMIT} workers answer, not {len(seen.processes)}")
        assert bounds(server, name) == (1, LIMIT, LIMIT)
    seen.assert_each_was_answered_once_with_its_own()
    wait_for_workers(statistics, name, 1)
    wait_until(lambda: len(workers(server, name)) == 1, "one process is left")
    assert bounds(server, name) == (1, LIMIT, 1)
    assert len(first) == 1
    assert server.invoke(name, command("echo", 1)).json() == 1


@pytest.mark.parametrize(("properties", "clients"), [("", LIMIT), (BATCHES, 6 * LIMIT)], ids=["one by one", "batches"])
def test_workers_go_under_light_traffic_without_losing_a_request(
    server: ServerProcess, statistics: ModelStatistics, properties: str, clients: int
) -> None:
    name = load(server, properties)
    with traffic(server, name, clients=1, busy_s=0.001) as light:
        with traffic(server, name, clients=clients) as burst:
            wait_for_workers(statistics, name, 3, LIMIT)
        wait_for_workers(statistics, name, 1)
    light.assert_each_was_answered_once_with_its_own()
    burst.assert_each_was_answered_once_with_its_own()


def test_a_model_with_one_client_keeps_one_worker(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server)
    with traffic(server, name, clients=1) as seen:
        wait_until(lambda: len(seen.answers) >= 30, "thirty answers")
        assert len(seen.processes) == 1
    assert sample_of(statistics, name).worker_loads == 1


def test_requests_one_after_the_other_keep_to_the_workers_that_were_used_last(server: ServerProcess) -> None:
    name = load(server, "minWorkers=4\nmaxWorkers=4\n")
    wait_until(lambda: len(workers(server, name)) == 4, "four workers")
    used = {server.invoke(name, command("sleep", 0)).json() for _ in range(12)}
    assert len(used) <= 2, "two: a request may come before the worker of the last one waits again"
    assert server.unload(name).status_code == 200


def test_serving_properties_bound_the_workers(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server, "minWorkers=2\nmaxWorkers=3\nmax_idle_time=2\n")
    assert bounds(server, name) == (2, 3, 2)
    with traffic(server, name, clients=8, busy_s=LONG_S) as seen:
        wait_for_workers(statistics, name, 3)
        wait_until(lambda: len(seen.answers) >= 30, "thirty answers")
        assert bounds(server, name) == (2, 3, 3)
    wait_for_workers(statistics, name, 2)
    assert bounds(server, name) == (2, 3, 2)


# ---- who says so himself ----


@pytest.mark.parametrize("count", [1, 2])
def test_a_load_that_says_how_many_workers_fixes_their_number(
    server: ServerProcess, statistics: ModelStatistics, count: int
) -> None:
    name = load(server, initial_workers=count)
    with traffic(server, name, clients=6, busy_s=LONG_S) as seen:
        wait_until(lambda: len(seen.answers) >= 30, "thirty answers")
        assert bounds(server, name) == (count, count, count)
    assert sample_of(statistics, name).worker_loads == count


def test_a_put_fixes_the_number_or_gives_it_a_range(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server)
    scale(server, name, 1, 1)
    with traffic(server, name, clients=6, busy_s=LONG_S) as seen:
        wait_until(lambda: len(seen.answers) >= 20, "twenty answers")
        assert bounds(server, name) == (1, 1, 1)
        scale(server, name, 1, 2)
        wait_for_workers(statistics, name, 2)
        scale(server, name, 3, 3)
        wait_for_workers(statistics, name, 3)
        assert bounds(server, name) == (3, 3, 3)
    scale(server, name, 1, 3)
    wait_for_workers(statistics, name, 1)
    seen.assert_each_was_answered_once_with_its_own()


def test_a_minimum_of_no_workers_keeps_those_that_there_are(server: ServerProcess) -> None:
    name = load(server, initial_workers=2)
    scale(server, name, 0, 3)
    assert bounds(server, name)[:2] == (0, 3)
    assert server.invoke(name, command("echo", 1)).json() == 1
    wait_until(lambda: bounds(server, name)[2] == 1, "what was not needed goes")
    assert server.invoke(name, command("echo", 1)).json() == 1


def test_without_autoscaling_a_model_keeps_its_workers() -> None:
    with start(MME_AUTOSCALE="off") as server, statistics_of(server) as statistics:
        name, two = load(server), load(server, "minWorkers=2\nmaxWorkers=4\n")
        assert bounds(server, name) == (1, 1, 1)
        assert bounds(server, two) == (2, 2, 2)
        with traffic(server, name, clients=6, busy_s=LONG_S) as seen:
            wait_until(lambda: len(seen.answers) >= 20, "twenty answers")
        assert sample_of(statistics, name).worker_loads == 1
        scale(server, name, 2, 2)
        wait_for_workers(statistics, name, 2)


def test_sagemakers_number_of_workers_fixes_it() -> None:
    with start(SAGEMAKER_MODEL_SERVER_WORKERS="2") as server, statistics_of(server) as statistics:
        names = [load(server), load(server, "minWorkers=1\nmaxWorkers=4\n")]
        for name in names:
            with traffic(server, name, clients=6, busy_s=LONG_S) as seen:
                wait_until(lambda: len(seen.answers) >= 20, "twenty answers")
            assert bounds(server, name) == (2, 2, 2)
            assert {worker["status"] for worker in server.describe(name).json()["workers"]} == {"READY"}
            assert sample_of(statistics, name).worker_loads == 2
        assert bounds(server, load(server, initial_workers=1)) == (1, 1, 1)


def test_settings_bound_workers_and_queue_of_models_that_do_not_say(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"MME_MIN_WORKERS": "2", "MME_MAX_WORKERS": "3", "MME_JOB_QUEUE_SIZE": "1"}
    release = tmp_path / "release"
    with start(**settings) as server, statistics_of(server) as statistics, ThreadPoolExecutor(4) as clients:
        name, own = load(server), load(server, "minWorkers=1\nmaxWorkers=1\njob_queue_size=2\n")
        for each, (least, most, queue_size) in ((name, (2, 3, 1)), (own, (1, 1, 2))):
            wait_until(lambda each=each, least=least: bounds(server, each)[2] == least, "as many as it has at least")  # type: ignore[misc]
            assert bounds(server, each) == (least, most, least)
            assert sample_of(statistics, each).queue_size == queue_size
        asking = []
        for seen in ({"under_way": 1}, {"under_way": 2}, {"under_way": 3}, {"waiting": 1}):  # the third worker comes
            asking.append(clients.submit(server.invoke, name, command("wait_for", str(release))))
            wait_for(statistics, name, **seen)
        refused = server.invoke(name, command("echo", 1))
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert server.invoke(own, command("echo", 1)).json() == 1
        assert bounds(server, name) == (2, 3, 3)
        release.touch()
        assert [each.result().status_code for each in asking] == [200] * 4


# ---- nothing is lost ----


@pytest.mark.parametrize("properties", ["", BATCHES], ids=["one by one", "batches"])
def test_workers_that_come_and_go_under_traffic_lose_nothing_and_run_nothing_twice(
    server: ServerProcess, properties: str
) -> None:
    name = load(server, properties)
    with traffic(server, name, clients=8) as seen:
        for count in [3, 1, 4, 2, 1, 4, 1]:
            answers = len(seen.answers)
            scale(server, name, count, count)
            wait_until(lambda: len(seen.answers) >= answers + 10, "ten more answers")  # noqa: B023
    seen.assert_each_was_answered_once_with_its_own()
    wait_until(lambda: len(workers(server, name)) == 1, "one process is left")


def test_a_worker_that_is_taken_back_answers_first(server: ServerProcess, tmp_path: Path) -> None:
    name = load(server, initial_workers=2)
    lines, release = tmp_path / "lines", tmp_path / "release"
    body = command(
        "sequence", ["append", str(lines), "begun"], ["wait_for", str(release)], ["append", str(lines), "end"]
    )
    with ThreadPoolExecutor(2) as clients:
        asking = [clients.submit(server.invoke, name, body) for _ in range(2)]
        wait_until(lambda: lines.exists() and lines.read_text().count("begun") == 2, "both workers are at work")
        busy = {process.pid for process in workers(server, name)}
        scale(server, name, 1, 1)
        assert bounds(server, name) == (1, 1, 1)
        release.touch()
        assert {each.result().json()[1] for each in asking} == busy
    wait_until(lambda: len(workers(server, name)) == 1, "one of them has gone")
    assert lines.read_text().count("begun") == 2


def test_a_model_that_is_unloaded_while_it_gets_workers_is_gone(server: ServerProcess) -> None:
    name = load(server, "", "sleep", 0.05)
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(server.invoke, name, command("sleep", 0.05)) for _ in range(40)]
        wait_until(lambda: bounds(server, name)[2] > 1, "a second worker is asked for")
        assert server.unload(name).status_code == 200
        assert {each.result().status_code for each in asking} <= {200, 404, 500, 503}
    wait_until(lambda: not workers(server, name), "no process is left")


# ---- deaths ----


def test_a_model_whose_workers_die_while_it_is_scaled_goes_on(
    server: ServerProcess, statistics: ModelStatistics
) -> None:
    name = load(server)
    with traffic(server, name, clients=8) as seen:
        wait_for_workers(statistics, name, LIMIT)
        dead = workers(server, name)
        for process in dead:
            kill(process)
        before = seen.processes | {process.pid for process in dead}
        wait_until(lambda: len(seen.processes - before) == LIMIT, "as many new workers answer")
    failed = [each for each in seen.answers if each[0] != 200]
    assert len(failed) <= len(dead), (f"{len(dead)} were killed, each costs the request that it had at most", failed)
    assert {status for status, *_ in failed} <= {500, 507}
    wait_for_workers(statistics, name, 1)
    assert server.invoke(name, command("echo", 1)).json() == 1


def kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def test_an_additional_worker_that_died_is_not_started_again_without_need(
    server: ServerProcess, statistics: ModelStatistics
) -> None:
    name = load(server, "max_idle_time=600\n")
    with traffic(server, name, clients=6, busy_s=0.1):  # so long that clients on a busy machine keep all workers busy
        wait_for_workers(statistics, name, LIMIT)
    for process in workers(server, name)[1:]:
        process.kill()
    wait_until(lambda: bounds(server, name)[2] == 1, "the dead ones are forgotten")
    loads = sample_of(statistics, name).worker_loads
    assert server.invoke(name, command("echo", 1)).json() == 1
    assert sample_of(statistics, name).worker_loads == loads


# ---- many models ----


LIMIT_MB, RESERVE_MB, HELD_MB = 900, 100, 120


@pytest.fixture(scope="module")
def tight() -> Iterator[ServerProcess]:
    """A server with little memory and two workers more than its models have at least, which stay."""
    memory: dict[str, Any] = {"MME_MEMORY_LIMIT_MB": str(LIMIT_MB), "MME_MEMORY_RESERVE_MB": str(RESERVE_MB)}
    memory["MME_OVERCOMMIT"] = "off"  # else other models would sleep for a worker
    with start(limit=2, MME_MAX_IDLE_TIME_S="600", **memory) as running:
        yield running


def test_workers_move_with_the_hot_model(tight: ServerProcess) -> None:
    names = [load(tight) for _ in range(3)]
    with statistics_of(tight) as statistics:
        with ExitStack() as stack:
            seen = [stack.enter_context(traffic(tight, name, clients=4)) for name in names[:2]]
            for name in names[:2]:
                wait_for_workers(statistics, name, 2)
        with traffic(tight, names[2], clients=4) as hot:
            wait_for_workers(statistics, names[2], 2)
            assert sum(bounds(tight, name)[2] for name in names) == len(names) + 2
    for each in [*seen, hot]:
        each.assert_each_was_answered_once_with_its_own()
    for name in names:
        assert tight.unload(name).status_code == 200


def test_a_full_queue_is_answered_at_once_and_disturbs_no_other_model(server: ServerProcess, tmp_path: Path) -> None:
    full, other = load(server, "maxWorkers=1\njob_queue_size=2\n"), load(server)
    release = tmp_path / "release"
    with ThreadPoolExecutor(3) as clients, statistics_of(server) as statistics:
        asking = []
        for seen in ({"under_way": 1}, {"waiting": 1}, {"waiting": 2}):  # one after the other: the queue takes two
            asking.append(clients.submit(server.invoke, full, command("wait_for", str(release))))
            wait_for(statistics, full, **seen)
        refused = server.invoke(full, command("wait_for", str(release)))
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert server.invoke(other, command("echo", 1)).json() == 1
        release.touch()
        assert [each.result().status_code for each in asking] == [200] * 3
    answer = server.invoke(full, command("echo", 1))
    assert answer.json() == 1
    assert "Retry-After" not in answer.headers


# ---- memory ----


def test_a_model_that_there_is_no_memory_for_keeps_its_worker_and_gets_another_when_there_is(
    tight: ServerProcess,
) -> None:
    hot = load(tight, "", "hold", HELD_MB)
    others = load_until_full(tight)
    refused = f"model '{hot}' is refused"
    with statistics_of(tight) as statistics, traffic(tight, hot, clients=3, busy_s=LONG_S) as seen:
        wait_until(lambda: tight.log().count(refused) >= 2, "it is refused again, after a while")
        wait_until(lambda: sample_of(statistics, hot).wanted_workers == 1, "the refused worker is forgotten")
        assert sample_of(statistics, hot).worker_loads == 1
        for name in others:
            assert tight.unload(name).status_code == 200
        wait_until(lambda: len(seen.processes) >= 2, "a second worker answers", timeout_s=60)
    seen.assert_each_was_answered_once_with_its_own()


def load_until_full(server: ServerProcess) -> Sequence[str]:
    names: list[str] = []
    while True:
        name = uuid.uuid4().hex
        make_model(server.model_dir(name), "hold", HELD_MB)
        status = server.load(name).status_code
        if status == 507:
            return names
        assert status == 200
        names.append(name)
        assert len(names) < LIMIT_MB // HELD_MB
