"""Whatever dies or hangs among the forked workers and around them, nothing else is lost, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.harness.obedient_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import fork_servers, is_gone, launchers, traffic, worker, workers

# MMS starts a worker's thread again after a second.
RECOVERY_S = 15.0
RESPONSE_TIMEOUT_S = 3

Load = Callable[..., str]


def start(log_level: str = "20") -> ServerProcess:
    """A server whose clients wait no longer than a recovery may take."""
    server = ServerProcess(
        MME_WORKERS="fork",
        MME_PRELOAD="none",
        SAGEMAKER_HANDLER=HANDLER,
        SAGEMAKER_MODEL_SERVER_TIMEOUT=str(RESPONSE_TIMEOUT_S),
        SAGEMAKER_CONTAINER_LOG_LEVEL=log_level,
    )
    server.timeout_s = RECOVERY_S
    return server


@contextmanager
def noticed_by_mms(server: ServerProcess, name: str) -> Iterator[None]:
    """Waits until MMS has noticed that a worker of model ``name`` ended inside; what it sends before that is lost."""
    (address,) = [word for word in launchers(server, name)[0].cmdline() if ".mms.sock." in word]
    line = re.compile(rf"\b{address.rpartition('.')[2]}-\S+ Worker disconnected")
    before = len(line.findall(server.log()))
    yield
    wait_until(lambda: len(line.findall(server.log())) > before, "MMS has noticed")


def load(server: ServerProcess, *on_load: object) -> str:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), *on_load)
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return name


def echoes(server: ServerProcess, name: str) -> int:
    """The status of a request, checked to have the right answer where that is 200."""
    said = uuid.uuid4().hex
    answer = server.invoke(name, command("echo", said))
    assert answer.status_code != 200 or answer.json() == said
    return answer.status_code


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with start() as running:
        yield running


@pytest.fixture
def loaded(server: ServerProcess) -> Iterator[Load]:
    names = []

    def load_model(*on_load: object) -> str:
        names.append(load(server, *on_load))
        return names[-1]

    yield load_model
    for name in names:
        server.unload(name)


def test_an_unloaded_model_is_gone_when_the_answer_comes(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    processes = [*workers(server, name), *launchers(server, name)]
    assert len(processes) == 2
    assert server.unload(name).status_code == 200
    wait_until(lambda: all(map(is_gone, processes)), "the model's processes are gone", timeout_s=0.1, poll_s=0.002)


def test_a_busy_model_is_gone_when_the_answer_comes(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    processes = [*workers(server, name), *launchers(server, name)]
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(server.invoke, name, command("hang_in_c"))
        wait_until(lambda: in_c(processes[0]), "the handler hangs")
        assert server.unload(name).status_code == 200
        wait_until(lambda: all(map(is_gone, processes)), "the model's processes are gone", timeout_s=0.1, poll_s=0.002)
        assert answer.result(timeout=5).status_code >= 500


def in_c(process: psutil.Process) -> bool:
    """Whether the process sleeps in ``sleep``, not in reading its connection."""
    call = Path(f"/proc/{process.pid}/syscall").read_text().split()[0]
    return call in ("230", "115", "35", "101")  # clock_nanosleep and nanosleep, on x86-64 and aarch64


def test_what_a_handler_has_started_goes_with_its_worker(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    program = psutil.Process(server.invoke(name, command("start_program")).json())
    assert server.unload(name).status_code == 200
    wait_until(lambda: is_gone(program), "the handler's program is gone", timeout_s=1)


def test_a_killed_worker_is_replaced_and_no_other_model_notices(server: ServerProcess, loaded: Load) -> None:
    victim, other = loaded(), loaded()
    with traffic(lambda: echoes(server, other)) as sent:
        before = worker(server, victim)
        with noticed_by_mms(server, victim):
            before.kill()
        assert server.invoke(victim, command("echo", 1)).status_code == 200
        assert worker(server, victim).pid != before.pid
        answered = len(sent.answers)
        wait_until(lambda: len(sent.answers) > answered + 5, "the other model goes on")
    assert set(sent.statuses) == {200}


def test_a_request_whose_worker_the_kernel_kills_is_answered_507(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    answer = server.invoke(name, command("kill", signal.SIGKILL))
    assert answer.status_code == 507, answer.text
    assert server.invoke(name, command("echo", 2)).json() == 2


@pytest.mark.parametrize("how", [("exit", 3), ("kill", signal.SIGSEGV)])
def test_a_request_that_crashes_its_worker_is_answered_500(
    server: ServerProcess, loaded: Load, how: tuple[str, int]
) -> None:
    name = loaded()
    assert server.invoke(name, command(*how)).status_code == 500
    assert server.invoke(name, command("echo", 3)).json() == 3


def test_lack_of_memory_in_a_request_is_answered_507_and_the_worker_lives(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    before = worker(server, name)
    assert server.invoke(name, command("run_out_of_memory")).status_code == 507
    assert server.invoke(name, command("echo", 4)).json() == 4
    assert worker(server, name) == before


@pytest.mark.parametrize("how", ["spin", "hang_in_c"])
def test_a_handler_that_hangs_in_a_request_is_killed_after_the_timeout(
    server: ServerProcess, loaded: Load, how: str
) -> None:
    name = loaded()
    hung = worker(server, name)
    started_s = time.monotonic()
    assert server.invoke(name, command(how)).status_code == 500
    assert RESPONSE_TIMEOUT_S <= time.monotonic() - started_s < RESPONSE_TIMEOUT_S + 2
    wait_until(lambda: is_gone(hung), "the worker that hung is gone", timeout_s=0.5)
    assert server.invoke(name, command("echo", 5)).json() == 5


@pytest.mark.parametrize("how", ["spin", "hang_in_c"])
def test_a_handler_that_hangs_at_load_is_killed_after_the_timeout(server: ServerProcess, how: str) -> None:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), how)
    started_s = time.monotonic()
    assert server.load(name).status_code == 500
    assert RESPONSE_TIMEOUT_S <= time.monotonic() - started_s < RESPONSE_TIMEOUT_S + 2
    wait_until(lambda: not workers(server, name) and not launchers(server, name), "nothing of it is left", timeout_s=1)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        (("fail", "on purpose"), 500),
        (("exit", 1), 500),
        (("kill", signal.SIGSEGV), 500),
        (("run_out_of_memory",), 507),
        (("kill", signal.SIGKILL), 507),
    ],
)
def test_a_failed_load_is_answered_at_once_leaves_nothing_and_can_be_tried_again(
    server: ServerProcess, how: tuple[object, ...], status: int
) -> None:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), *how)
    started_s = time.monotonic()
    assert server.load(name).status_code == status
    assert time.monotonic() - started_s < 2
    wait_until(lambda: not workers(server, name) and not launchers(server, name), "nothing of it is left", timeout_s=1)
    wait_until(lambda: server.describe(name).status_code == 404, "MMS has forgotten it, too")
    assert how[0] != "fail" or "on purpose" in server.log()
    assert server.load(name).status_code == status
    make_model(server.model_dir(name))
    wait_until(lambda: server.load(name).status_code == 200, "it loads once it can")
    assert echoes(server, name) == 200
    server.unload(name)
    wait_until(lambda: not list(server.folder.rglob("*-std*")), "no log pipes are left")


def test_a_model_whose_launcher_is_killed_gets_new_workers(server: ServerProcess, loaded: Load) -> None:
    victim, other = loaded(), loaded()
    with traffic(lambda: echoes(server, other)) as sent:
        (launcher,) = launchers(server, victim)
        before = worker(server, victim)
        with noticed_by_mms(server, victim):
            launcher.kill()
            wait_until(lambda: is_gone(before), "the launcher's worker has ended", timeout_s=1)
        assert server.invoke(victim, command("echo", 6)).json() == 6
        last = worker(server, victim)
        assert server.unload(victim).status_code == 200
        wait_until(lambda: is_gone(last), "the last worker has ended", timeout_s=0.2)
    assert set(sent.statuses) == {200}


def test_running_models_outlive_the_fork_server_and_loads_work_again() -> None:
    with start() as server:
        first, second = load(server), load(server)
        before = {name: worker(server, name) for name in (first, second)}
        (fork_server,) = fork_servers(server)
        with traffic(lambda: echoes(server, first)) as sent:
            fork_server.kill()
            third = load(server)  # waits for the next one
            assert echoes(server, third) == 200
            assert {name: worker(server, name) for name in (first, second)} == before
            # The next one knows the models of the last: it replaces workers, also those that are not its children.
            with noticed_by_mms(server, second):
                before[second].kill()
            assert server.invoke(second, command("echo", 8)).json() == 8
            assert worker(server, second).ppid() == fork_servers(server)[0].pid
        assert set(sent.statuses) == {200}
        for name in (first, second, third):
            left = [*workers(server, name), *launchers(server, name)]
            assert server.unload(name).status_code == 200
            wait_until(lambda left=left: all(map(is_gone, left)), "the model is gone", timeout_s=0.1, poll_s=0.002)  # type: ignore[misc]


def test_an_orphaned_worker_that_hangs_is_killed_after_the_timeout() -> None:
    with start() as server:
        name = load(server)
        orphan = worker(server, name)
        (fork_server,) = fork_servers(server)
        fork_server.kill()
        wait_until(lambda: is_gone(fork_server), "the fork server is gone")
        assert server.invoke(name, command("hang_in_c")).status_code == 500
        wait_until(lambda: is_gone(orphan), "the worker that hung is gone", timeout_s=0.5)
        assert server.invoke(name, command("echo", 9)).json() == 9


def test_a_killed_front_end_ends_everything() -> None:
    with start() as server:
        load(server)
        server.front_end().kill()
        assert server.wait() == 128 + signal.SIGKILL
        server.assert_nothing_survives()


def test_nothing_survives_a_killed_supervisor() -> None:
    server = start()
    try:
        server.start()
        name = load(server)
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(server.invoke, name, command("spin"))
            wait_until(lambda: worker(server, name).cpu_percent(0.05) > 50, "the handler spins")
            assert server.process is not None
            server.process.kill()
            wait_until(lambda: not server.processes(), "all have ended", timeout_s=5)
            assert answer.exception(timeout=5) is not None
    finally:
        server.discard()


def test_200_models_load_at_the_same_time() -> None:
    with start() as server:
        server.timeout_s = 60.0
        names = [uuid.uuid4().hex for _ in range(200)]
        for name in names:
            make_model(server.model_dir(name))
        with ThreadPoolExecutor(len(names)) as clients:
            assert {answer.status_code for answer in clients.map(server.load, names)} == {200}
        with ThreadPoolExecutor(16) as clients:
            assert set(clients.map(lambda name: echoes(server, name), names)) == {200}


def descriptors(process: psutil.Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208


def test_loading_and_unloading_leaves_no_descriptors_processes_or_files() -> None:
    # The figure can be raised for a thorough look: MME_TEST_ROUNDS=1000.
    rounds = int(os.environ.get("MME_TEST_ROUNDS", "100"))
    with start() as server:
        assert server.process is not None
        (fork_server,) = fork_servers(server)
        watched = [psutil.Process(server.process.pid), fork_server, server.front_end()]
        idle = [descriptors(process) for process in watched[:2]]
        names = [uuid.uuid4().hex for _ in range(4)]
        for name in names:
            make_model(server.model_dir(name))

        def round_trip(number: int) -> None:
            name = names[number % len(names)]
            assert server.load(name).status_code == 200
            assert echoes(server, name) == 200
            assert server.unload(name).status_code == 200

        for number in range(20):  # what the JVM opens for good, it opens now
            round_trip(number)
        temporary = server.folder / "tmp"

        def state() -> tuple[object, ...]:
            counts = [descriptors(process) for process in watched]
            files = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*"))
            return counts[:2], len(server.processes()), files

        wait_until(lambda: len(server.processes()) == 3, "only the three processes are left")
        wait_until(lambda: state()[0] == idle, lambda: f"{state()[0]} descriptors are {idle} again")
        before, front_end_before = state(), descriptors(watched[2])
        for number in range(rounds):
            round_trip(number)
        wait_until(lambda: state() == before, lambda: f"{state()} is {before} again")
        # The JVM closes what it has dropped when it collects garbage.
        wait_until(
            lambda: descriptors(watched[2]) <= front_end_before + 4,
            lambda: f"the JVM's {descriptors(watched[2])} descriptors are {front_end_before} again",
        )


def test_the_log_of_a_worker_is_the_servers(server: ServerProcess, loaded: Load) -> None:
    name, said = loaded("print", "said at load"), uuid.uuid4().hex
    assert server.invoke(name, command("print", said)).status_code == 200
    wait_until(lambda: server.log().count(said) == 2, "both lines are in the log")
    assert server.log().count("said at load") >= 2


def test_metrics_of_a_handler_reach_mms() -> None:
    with start(log_level="10") as server:
        assert echoes(server, load(server)) == 200
        wait_until(lambda: "Obeyed.Count:1" in server.log(), "the metric is logged")


def test_batches_are_answered_item_by_item(server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name))
    assert server.request(
        "POST", "/models", params={"batch_size": 4, "max_batch_delay": 500, "initial_workers": 1,
                                   "model_name": name, "url": server.model_url(name)},
    ).status_code == 200  # fmt: skip
    try:
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda said: server.invoke(name, command("echo", said)), range(4)))
        assert [json.loads(answer.text) for answer in answers] == [0, 1, 2, 3]
    finally:
        server.unload(name)


def test_a_model_scaled_up_has_as_many_workers_and_scaled_down_as_few(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    for count in (3, 1):
        answer = server.request("PUT", f"/models/{name}", params={"min_worker": count, "max_worker": count,
                                                                  "synchronous": "true"})  # fmt: skip
        assert answer.status_code == 200, answer.text
        wait_until(lambda count=count: len(workers(server, name)) == count, f"there are {count} workers")  # type: ignore[misc]
        assert echoes(server, name) == 200
