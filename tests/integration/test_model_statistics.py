"""What the front end counts of each model, read from the memory that it shares with its supervisor."""

from __future__ import annotations

import signal
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mme.supervisor.model_statistics import ModelStatistics
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.statistics import sample_of, statistics_of, wait_for
from tests.harness.workers import worker


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", MME_MAX_WORKERS="1") as running:
        yield running


@pytest.fixture(scope="module")
def statistics(server: ServerProcess) -> Iterator[ModelStatistics]:
    with statistics_of(server) as shared:
        yield shared


def load(server: ServerProcess, properties: str = "", name: str = "", **load: int) -> str:
    name = name or uuid.uuid4().hex
    make_model(server.model_dir(name))
    (server.model_dir(name) / "serving.properties").write_text(properties)
    answer = server.load(name, server.model_url(name), **load)
    assert answer.status_code == 200, answer.text
    return name


def test_answers_are_counted_by_status_and_timed(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server)
    before = statistics.arrivals
    for _ in range(5):
        assert server.invoke(name, command("echo", 1)).status_code == 200
    assert server.invoke(name, command("fail", "as told")).status_code == 503
    assert server.invoke(name, command("run_out_of_memory")).status_code == 507
    sample = sample_of(statistics, name)
    assert (sample.answers_2xx, sample.answers_5xx, sample.answers_507) == (5, 1, 1)
    assert (sample.answers_3xx, sample.answers_4xx, sample.refused, sample.abandoned) == (0, 0, 0, 0)
    assert sample.arrivals == statistics.arrivals - before == 7
    for buckets in (sample.queue_buckets, sample.handler_buckets, sample.whole_buckets):
        assert sum(buckets) == 7
    assert sample.queue_ns + sample.handler_ns == sample.whole_ns > 0
    assert sample.registered_ns < sample.last_arrival_ns < sample.last_answer_ns
    assert sample.batches == 7
    assert 0 < sample.busy_ns < sample.whole_ns


def test_a_slow_answer_is_in_its_bucket(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server)
    server.invoke(name, command("sleep", 0.3))
    sample = sample_of(statistics, name)
    assert sum(sample.handler_buckets[:9]) == 0  # up to 0.25 s
    assert sample.handler_ns >= 0.3e9


def test_what_waits_and_what_is_under_way_is_seen_at_once(
    server: ServerProcess, statistics: ModelStatistics, tmp_path: Path
) -> None:
    name = load(server)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.invoke, name, command("wait_for", str(tmp_path / "go"))) for _ in range(4)]
        try:
            number = wait_for(statistics, name, waiting=3, under_way=1, busy_workers=1, workers=1).number
            assert statistics.waiting == 3
            assert statistics.waiting_records() == [number]
            assert statistics.column("waiting")[number] == 3
        finally:
            (tmp_path / "go").touch()
        assert [answer.result().status_code for answer in answers] == [200] * 4
    wait_for(statistics, name, waiting=0, under_way=0, busy_workers=0, answers_2xx=4)
    assert (statistics.waiting, statistics.under_way, statistics.waiting_records()) == (0, 0, [])


def test_a_batch_is_counted_once_and_each_of_its_requests(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server, "batch_size=4\nmax_batch_delay=5000\n")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: server.invoke(name, command("batch")).json(), range(4)))
    assert answers == [4] * 4
    sample = sample_of(statistics, name)
    assert (sample.batches, sample.answers_2xx, sum(sample.handler_buckets)) == (1, 4, 4)


def test_a_full_queue_and_a_model_without_workers_are_refusals(
    server: ServerProcess, statistics: ModelStatistics, tmp_path: Path
) -> None:
    name = load(server, "job_queue_size=1\n")
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(server.invoke, name, command("wait_for", str(tmp_path / "go")))]
        try:
            wait_for(statistics, name, under_way=1)
            answers.append(pool.submit(server.invoke, name, command("echo", 1)))
            wait_for(statistics, name, waiting=1)
            assert server.invoke(name, command("echo", 1)).status_code == 503
        finally:
            (tmp_path / "go").touch()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    wait_for(statistics, name, refused=1, arrivals=3, answers_2xx=2, answers_5xx=0, waiting=0)
    idle = load(server, initial_workers=0)
    assert server.invoke(idle, command("echo", 1)).status_code == 503
    wait_for(statistics, idle, refused=1, arrivals=1, workers=0, wanted_workers=0, loads=0)


def test_a_client_that_hangs_up_while_it_waits_waits_no_more(
    server: ServerProcess, statistics: ModelStatistics, tmp_path: Path
) -> None:
    name = load(server)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.invoke, name, command("wait_for", str(tmp_path / "go")))
        try:
            wait_for(statistics, name, under_way=1)
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                head = f"POST /models/{name}/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]"
                connection.sendall(head.encode())
                wait_for(statistics, name, waiting=1)
            wait_for(statistics, name, waiting=0, abandoned=1)
        finally:
            (tmp_path / "go").touch()
        assert answer.result().status_code == 200
    wait_for(statistics, name, answers_2xx=1, abandoned=1, waiting=0, under_way=0)


def test_nothing_is_lost_with_a_worker_that_is_killed(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server)
    for _ in range(3):
        server.invoke(name, command("echo", 1))
    worker(server, name).send_signal(signal.SIGKILL)
    wait_for(statistics, name, worker_ends=1, worker_loads=2, workers=1, loads=1)
    assert server.invoke(name, command("echo", 1)).status_code == 200
    assert server.invoke(name, command("kill", signal.SIGKILL)).status_code == 507
    sample = wait_for(statistics, name, worker_ends=2, busy_workers=0, under_way=0, answers_2xx=4, answers_507=1)
    assert sum(sample.whole_buckets) == 5


def test_a_name_finds_its_counters_again(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server)
    server.invoke(name, command("echo", 1))
    assert name in {sample.name for sample in statistics.samples()}
    changes = statistics.changes
    assert server.unload(name).status_code == 200
    wait_for(statistics, name, is_registered=False, unloads=1, workers=0, answers_2xx=1)
    assert statistics.changes > changes
    assert name not in {sample.name for sample in statistics.samples()}
    load(server, name=name)
    server.invoke(name, command("echo", 1))
    sample = wait_for(statistics, name, is_registered=True, unloads=1, loads=2, answers_2xx=2, workers=1)
    assert sample.generation == 1


def test_requests_that_wait_while_their_model_is_unloaded_are_counted(
    server: ServerProcess, statistics: ModelStatistics, tmp_path: Path
) -> None:
    name = load(server)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.invoke, name, command("wait_for", str(tmp_path / "go"))) for _ in range(3)]
        wait_for(statistics, name, waiting=2, under_way=1)
        assert server.unload(name).status_code == 200
        statuses = [answer.result().status_code for answer in answers]
    sample = wait_for(statistics, name, waiting=0, under_way=0, busy_workers=0, workers=0)
    assert sample.answers_5xx == 3 and all(status >= 500 for status in statuses)
    assert sample.answers_2xx + sample.answers_5xx + sample.answers_507 == sample.arrivals == 3


def test_loads_that_fail_are_counted_apart(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), "fail", "as told")
    assert server.load(name).status_code == 500
    wait_for(statistics, name, failed_loads=1, loads=0, unloads=0, workers=0, is_registered=False)


def test_what_a_model_asks_for_is_there(server: ServerProcess, statistics: ModelStatistics) -> None:
    properties = "minWorkers=2\nmaxWorkers=3\nmax_idle_time=7\nbatch_size=8\nmax_batch_delay=20\njob_queue_size=70\n"
    sample = sample_of(statistics, load(server, properties))
    assert (sample.min_workers, sample.max_workers, sample.max_idle_s) == (2, 3, 7)
    assert (sample.batch_size, sample.batch_delay_ms, sample.queue_size) == (8, 20, 70)
    sample = sample_of(statistics, load(server))
    assert (sample.min_workers, sample.max_workers, sample.max_idle_s) == (1, 1, 60)
    assert (sample.batch_size, sample.batch_delay_ms, sample.queue_size) == (1, 100, 100)


def test_workers_are_counted_as_they_are_scaled(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server)
    path = f"/models/{name}?min_worker={{0}}&max_worker={{0}}&synchronous=true"
    assert server.request("PUT", path.format(3)).status_code == 200
    wait_for(statistics, name, workers=3, wanted_workers=3, loads=1)
    assert server.request("PUT", path.format(1)).status_code == 200
    wait_for(statistics, name, workers=1, wanted_workers=1, loads=1, worker_ends=2)


def test_names_of_any_characters_are_whole(server: ServerProcess, statistics: ModelStatistics) -> None:
    name = load(server, name="é🌲\"\\{}=,'" + "語" * 60)
    assert sample_of(statistics, name).is_registered
