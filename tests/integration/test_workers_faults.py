"""Whatever dies or hangs among the forked workers and around them, nothing else is lost, and nothing is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.harness.agent import in_flight, wait_until_idle
from tests.harness.container_client import ContainerClient
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import is_gone, launchers, templates, traffic, worker, workers, zygotes

# MMS starts a worker's thread again after a second.
RECOVERY_S = 15.0
# Longer than a healthy worker takes on a busy machine: each test of one that hangs waits for it.
RESPONSE_TIMEOUT_S = 4
BATCH = 4

Load = Callable[..., str]


def start(single_model_dir: Path | None = None, response_timeout_s: int = RESPONSE_TIMEOUT_S) -> ServerProcess:
    """A server whose clients wait no longer than a recovery may take."""
    server = ServerProcess(
        single_model_dir=single_model_dir,
        MME_PRELOAD="none",
        SAGEMAKER_HANDLER=HANDLER,
        SAGEMAKER_MODEL_SERVER_TIMEOUT=str(response_timeout_s),
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


def hangs_in_a_request(server: ServerProcess, how: str) -> None:
    """A handler that hangs in a request is killed after the timeout, not before, and the model serves on."""
    name = load(server)
    hung = worker(server, name)
    started_s = time.monotonic()
    assert server.invoke(name, command(how)).status_code == 500
    assert time.monotonic() - started_s >= RESPONSE_TIMEOUT_S
    wait_until(lambda: is_gone(hung), "the worker that hung is gone", timeout_s=5)
    assert server.invoke(name, command("echo", 5)).json() == 5
    assert server.unload(name).status_code == 200


def hangs_at_load(server: ServerProcess, how: str) -> None:
    """A handler that hangs at load is killed after the timeout, not before, and the model can be loaded again."""
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), how)
    started_s = time.monotonic()
    assert server.load(name).status_code == 500
    assert time.monotonic() - started_s >= RESPONSE_TIMEOUT_S
    wait_until(lambda: not workers(server, name) and not launchers(server, name), "nothing is left", timeout_s=5)
    make_model(server.model_dir(name))
    wait_until(lambda: server.load(name).status_code == 200, "it loads once it can")
    assert echoes(server, name) == 200
    assert server.unload(name).status_code == 200


def gets_no_worker_any_more(server: ServerProcess, *how: object) -> None:
    """A model whose next workers fail, too, is unloaded, whoever waits for it is told, and it can be loaded again."""
    name = load(server)
    patient = ContainerClient(server.url)  # three loads that hang take their time
    make_model(server.model_dir(name), *how)
    launcher = launchers(server, name)
    with noticed_by_mms(server, name):
        worker(server, name).kill()
    waiting = patient.invoke(name, command("echo", 12))
    assert waiting.status_code == 503
    assert waiting.json()["message"] == "The model was unloaded."
    wait_until(lambda: server.describe(name).status_code == 404, "it is unloaded")
    assert server.invoke(name, command("echo", 13)).status_code == 404
    wait_until(lambda: all(map(is_gone, launcher)) and not workers(server, name), "nothing of it is left")
    make_model(server.model_dir(name))
    assert server.load(name).status_code == 200
    assert echoes(server, name) == 200
    assert server.unload(name).status_code == 200


def test_whatever_hangs_or_fails_for_good_is_ended_and_no_other_model_notices(
    server: ServerProcess, loaded: Load
) -> None:
    """At once, as each case waits for the timeout, or for MMS to try again."""
    cases: list[tuple[Callable[..., None], tuple[object, ...]]] = [
        (hangs_in_a_request, ("spin",)),
        (hangs_in_a_request, ("hang_in_c",)),
        (hangs_at_load, ("hang_in_c",)),
        (gets_no_worker_any_more, ("run_out_of_memory",)),
        (gets_no_worker_any_more, ("fail", "for good")),
        (gets_no_worker_any_more, ("hang_in_c",)),
    ]
    other = loaded()
    with traffic(lambda: echoes(server, other), pause_s=0.1) as sent, ThreadPoolExecutor(len(cases)) as pool:
        running = {pool.submit(case, server, *how): f"{case.__name__} ({how})" for case, how in cases}
        failed = {running[done]: error for done in running if (error := done.exception()) is not None}
    assert not failed, f"{failed}\n{server.log_tail()}"
    assert set(sent.statuses) == {200}


@pytest.mark.ci  # takes a processor until the timeout, as a request that spins does, above
def test_a_load_that_spins_is_ended(server: ServerProcess) -> None:
    hangs_at_load(server, "spin")


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


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGSEGV, marks=pytest.mark.ci)],  # as SIGKILL does
)
def test_running_models_outlive_the_zygote_and_loads_work_again(server: ServerProcess, number: signal.Signals) -> None:
    first, second = load(server), load(server)
    before = {name: worker(server, name) for name in (first, second)}
    (zygote,) = zygotes(server)
    with traffic(lambda: echoes(server, first)) as sent:
        zygote.send_signal(number)
        third = load(server)  # waits for the next one
        assert echoes(server, third) == 200
        assert {name: worker(server, name) for name in (first, second)} == before
        # The next one knows the models of the last: it replaces workers, also those that are not its children.
        with noticed_by_mms(server, second):
            before[second].kill()
        assert server.invoke(second, command("echo", 8)).json() == 8
        assert psutil.Process(worker(server, second).ppid()) in templates(server)
    assert set(sent.statuses) == {200}
    for name in (first, second, third):
        left = [*workers(server, name), *launchers(server, name)]
        assert server.unload(name).status_code == 200
        wait_until(lambda left=left: all(map(is_gone, left)), "the model is gone", timeout_s=0.1, poll_s=0.002)  # type: ignore[misc]


def test_a_model_of_the_last_zygote_survives_a_lack_of_memory(server: ServerProcess, loaded: Load) -> None:
    fails_once = server.folder / uuid.uuid4().hex
    name = loaded("once", str(fails_once), ["run_out_of_memory"])
    (zygote,) = zygotes(server)
    zygote.kill()
    wait_until(lambda: zygotes(server) not in ([], [zygote]), "there is another zygote")
    loaded()
    fails_once.touch()
    with noticed_by_mms(server, name):
        worker(server, name).kill()
    assert server.invoke(name, command("echo", 10)).json() == 10
    assert not fails_once.exists()


def test_a_zygote_that_keeps_dying_ends_the_server() -> None:
    with start() as server:
        while server.process is not None and server.process.poll() is None:
            for zygote in zygotes(server):
                with suppress(psutil.NoSuchProcess):  # it has ended by itself meanwhile: the server does
                    zygote.kill()
        assert server.wait() == 1
        assert "the zygote ended 6 times within 60 s" in server.log()
        server.assert_nothing_survives()


@pytest.mark.parametrize("how", [["kill", signal.SIGKILL], ["run_out_of_memory"], ["exit", 3]])
def test_a_worker_whose_successor_fails_once_is_replaced(
    server: ServerProcess, loaded: Load, how: list[object]
) -> None:
    fails_once = server.folder / uuid.uuid4().hex
    name = loaded("once", str(fails_once), how)
    fails_once.touch()
    with noticed_by_mms(server, name):
        worker(server, name).kill()
    assert server.invoke(name, command("echo", 11)).json() == 11
    assert not fails_once.exists()
    assert server.describe(name).status_code == 200


def test_a_model_whose_folder_is_gone_is_unloaded_with_its_worker(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    shutil.rmtree(server.model_dir(name))
    with noticed_by_mms(server, name):
        worker(server, name).kill()
    assert server.invoke(name, command("echo", 14)).status_code == 503
    wait_until(lambda: server.describe(name).status_code == 404, "it is unloaded")


def test_the_model_of_single_model_mode_is_never_unloaded(tmp_path: Path) -> None:
    server = start(single_model_dir=make_model(tmp_path))
    with server:
        model = server.base_dir / "model"
        assert server.post("/invocations", command("echo", 15)).json() == 15
        make_model(model, "run_out_of_memory")
        before = workers(server, "model")
        failed = len(re.findall("did not load", server.log()))
        before[0].kill()
        wait_until(
            lambda: len(re.findall("did not load", server.log())) >= failed + 4, "it was tried again and again", 30
        )
        make_model(model)
        wait_until(lambda: server.post("/invocations", command("echo", 16)).status_code == 200, "it serves again", 30)


def test_an_orphaned_worker_that_hangs_is_killed_after_the_timeout(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    orphan = worker(server, name)
    (template,) = templates(server)
    template.kill()
    wait_until(lambda: is_gone(template), "the template is gone")
    loaded()  # waits for the next one, of which the worker is no child
    assert worker(server, name) == orphan
    assert server.invoke(name, command("hang_in_c")).status_code == 500
    wait_until(lambda: is_gone(orphan), "the worker that hung is gone", timeout_s=5)
    assert server.invoke(name, command("echo", 9)).json() == 9


def test_a_killed_front_end_ends_everything() -> None:
    with start(response_timeout_s=60) as server:
        busy, hanging = load(server), load(server)

        def ask() -> int:
            try:
                return echoes(server, busy)
            except requests.RequestException:
                return 0

        with traffic(ask) as sent, ThreadPoolExecutor(1) as client:
            answer = client.submit(server.invoke, hanging, command("hang_in_c"))
            hung = worker(server, hanging)
            wait_until(lambda: in_c(hung) and len(sent.answers) > 5, "requests are under way")
            server.front_end().kill()
            assert server.wait() == 128 + signal.SIGKILL
            assert "SIGKILL" in server.log()
            assert answer.exception(timeout=5) is not None
        assert set(sent.statuses) == {200, 0}
        server.assert_nothing_survives()


def test_nothing_survives_a_killed_supervisor() -> None:
    server = start(response_timeout_s=60)
    try:
        server.start()
        name = load(server)
        with ThreadPoolExecutor(1) as client:
            answer = client.submit(server.invoke, name, command("spin"))
            spinning = worker(server, name)
            before_s = spinning.cpu_times().user
            wait_until(lambda: spinning.cpu_times().user > before_s + 0.2, "the handler spins")
            assert server.process is not None
            server.process.kill()
            wait_until(lambda: not server.processes(), "all have ended", timeout_s=5)
            assert answer.exception(timeout=5) is not None
            server.assert_nothing_survives()
    finally:
        server.discard()


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.ci)])
def test_many_models_load_at_the_same_time(count: int) -> None:
    with start(response_timeout_s=60) as server:
        server.timeout_s = 60.0
        names = [uuid.uuid4().hex for _ in range(count)]
        for name in names:
            make_model(server.model_dir(name))
        other = load(server)
        with traffic(lambda: echoes(server, other)) as sent:
            with ThreadPoolExecutor(len(names)) as clients:
                assert {answer.status_code for answer in clients.map(server.load, names)} == {200}
            with ThreadPoolExecutor(16) as clients:
                assert set(clients.map(lambda name: echoes(server, name), names)) == {200}
        assert set(sent.statuses) == {200}


def descriptors(process: psutil.Process) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: PTH208


@pytest.mark.ci
def test_two_hundred_rounds_of_loading_and_unloading_leave_no_descriptors_processes_threads_or_files() -> None:
    clients = 4
    with start() as server:
        assert server.process is not None
        ours, front_end = [psutil.Process(server.process.pid), *zygotes(server), *templates(server)], server.front_end()
        assert len(ours) == 3  # the supervisor, the zygote's root and its one template
        idle = [descriptors(process) for process in ours]
        names = [uuid.uuid4().hex for _ in range(clients)]
        for name in names:
            make_model(server.model_dir(name))

        def rounds(name: str, count: int) -> None:
            for _ in range(count):
                assert server.load(name).status_code == 200
                assert echoes(server, name) == 200
                assert server.unload(name).status_code == 200

        def do_rounds(count: int) -> None:
            with ThreadPoolExecutor(clients) as pool:
                for done in [pool.submit(rounds, name, count // clients) for name in names]:
                    done.result()

        def files() -> list[Path]:
            return sorted((server.folder / "tmp").rglob("*"))

        def front_end_holds() -> tuple[int, int]:
            return descriptors(front_end), front_end.num_threads()

        def no_more_than_idle() -> bool:  # fewer, where one was open for a moment when they were counted first
            return all(descriptors(each) <= before for each, before in zip(ours, idle, strict=True))

        def settle() -> None:
            wait_until(
                lambda: set(server.processes()) == {*ours, front_end},
                lambda: f"{set(server.processes()) ^ {*ours, front_end}} is no difference",
            )
            wait_until(no_more_than_idle, lambda: f"{[*map(descriptors, ours)]} descriptors are {idle} again")

        do_rounds(40)  # what the JVM opens for good, it opens now
        settle()
        before, front_end_before = files(), front_end_holds()
        do_rounds(200)  # what leaks once a round is seen as well as in a thousand
        settle()
        wait_until(lambda: files() == before, lambda: f"{set(files()) ^ set(before)} is no difference")
        # The JVM closes what it has dropped when it collects garbage, every 20 s.
        wait_until(
            lambda: all(now <= then + clients for now, then in zip(front_end_holds(), front_end_before, strict=True)),
            lambda: f"the JVM's descriptors and threads {front_end_holds()} are {front_end_before} again",
            timeout_s=60,
        )


def test_the_log_of_a_worker_is_the_servers(server: ServerProcess, loaded: Load) -> None:
    name, said = loaded("print", "said at load"), uuid.uuid4().hex
    assert server.invoke(name, command("print", said)).status_code == 200
    wait_until(lambda: server.log().count(said) == 2, "both lines are in the log")
    assert server.log().count("said at load") >= 2


@pytest.fixture
def batching(server: ServerProcess) -> Iterator[str]:
    """A model that gets its requests four at a time."""
    name = uuid.uuid4().hex
    make_model(server.model_dir(name))
    assert server.request(
        "POST", "/models", params={"batch_size": BATCH, "max_batch_delay": 5000, "initial_workers": 1,
                                   "model_name": name, "url": server.model_url(name)},
    ).status_code == 200  # fmt: skip
    yield name
    server.unload(name)


def together(server: ServerProcess, name: str, *commands: str) -> list[requests.Response]:
    """The answers to four requests that are sent at once."""
    assert len(commands) == BATCH
    with ThreadPoolExecutor(BATCH) as clients:
        return list(clients.map(lambda body: server.invoke(name, body), commands))


def test_batches_are_answered_item_by_item(server: ServerProcess, batching: str) -> None:
    assert [each.json() for each in together(server, batching, *[command("batch")] * BATCH)] == [BATCH] * BATCH
    answers = together(server, batching, *(command("echo", said) for said in range(BATCH)))
    assert [answer.json() for answer in answers] == [0, 1, 2, 3]


def test_lack_of_memory_in_a_batch_is_answered_507_to_all_of_it_and_the_worker_lives(
    server: ServerProcess, batching: str
) -> None:
    before = worker(server, batching)
    answers = together(server, batching, command("run_out_of_memory"), *[command("echo", 1)] * 3)
    assert [answer.status_code for answer in answers] == [507] * BATCH
    assert worker(server, batching) == before
    answers = together(server, batching, *[command("echo", 2)] * BATCH)
    assert [answer.json() for answer in answers] == [2] * BATCH


def test_a_batch_whose_worker_the_kernel_kills_is_answered_507_to_all_of_it(
    server: ServerProcess, batching: str
) -> None:
    answers = together(server, batching, *[command("kill", signal.SIGKILL)] * BATCH)
    assert [answer.status_code for answer in answers] == [507] * BATCH


def test_a_batch_that_is_collected_when_its_worker_dies_is_the_next_ones(server: ServerProcess, batching: str) -> None:
    wait_until_idle(server)
    with ThreadPoolExecutor(BATCH) as clients:
        asking = [clients.submit(server.invoke, batching, command("echo", said)) for said in range(2)]
        wait_until(lambda: in_flight(server) == 2, "two requests wait for more")
        with noticed_by_mms(server, batching):
            worker(server, batching).kill()
        asking += [clients.submit(server.invoke, batching, command("echo", said)) for said in (2, 3)]
        assert [answer.result().json() for answer in asking] == [0, 1, 2, 3]


def test_a_batch_that_is_collected_when_its_model_is_unloaded_is_answered(server: ServerProcess, batching: str) -> None:
    wait_until_idle(server)
    with ThreadPoolExecutor(2) as clients:
        asking = [clients.submit(server.invoke, batching, command("echo", said)) for said in range(2)]
        wait_until(lambda: in_flight(server) == 2, "two requests wait for more")
        assert server.unload(batching).status_code == 200
        assert [answer.result().status_code for answer in asking] == [503, 503]


@pytest.mark.parametrize("length", [1, 2_500, 7_500, 60_000])
def test_long_headers_of_an_answer_arrive(server: ServerProcess, loaded: Load, length: int) -> None:
    name = loaded()
    before = worker(server, name)
    for number in range(30):
        assert server.invoke(name, command("echo", number)).json() == number
    answer = server.invoke(name, command("set_header", length))
    assert answer.json() == length
    assert answer.headers.get("X-Long") == "x" * length
    assert worker(server, name) == before


def test_a_model_scaled_up_has_as_many_workers_and_scaled_down_as_few(server: ServerProcess, loaded: Load) -> None:
    name = loaded()
    for count in (3, 1):
        answer = server.request("PUT", f"/models/{name}", params={"min_worker": count, "max_worker": count,
                                                                  "synchronous": "true"})  # fmt: skip
        assert answer.status_code == 200, answer.text
        wait_until(lambda count=count: len(workers(server, name)) == count, f"there are {count} workers")  # type: ignore[misc]
        assert echoes(server, name) == 200
