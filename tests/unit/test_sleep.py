"""Sessions that sleep and wake, without a JVM: the test is the front end, and who needs memory."""

from __future__ import annotations

import importlib.util
import os
import random
import select
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from mme.capacity.admission import COPIED_ON_WRITE_BYTES
from mme.capacity.memory import MIB
from mme.capacity.process_memory import anonymous_bytes
from mme.settings import Settings
from mme.supervisor.zygote_handle import ZygoteHandle
from mme.zygote.heap import IdleTrim
from mme.zygote.idle import FallsAsleep, Idle
from mme.zygote.session import LoadedModel
from mme.zygote.session_records import SessionRecord, SessionRecords, WorkerState, make_shared, model_key
from mme.zygote.sleepers import SLEEP_SIGNAL, Sleepers
from tests.harness.front_end import Connection, FrontEnd, worker_of
from tests.harness.scripted_handler import command, make_model
from tests.harness.waiting import wait_until
from tests.harness.workers import is_gone

pytestmark = pytest.mark.slow  # each starts a zygote; with --quick test_zygote.py does

ROUNDS = int(os.environ.get("SLEEP_ROUNDS", "300"))
NOBODY = 60000  # a record that no session of these tests has


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The zygote reads its settings from its environment, which is this process's."""
    monkeypatch.setenv("MME_PRELOAD", "none")
    monkeypatch.setenv("SAGEMAKER_MULTI_MODEL", "true")
    monkeypatch.setenv("MME_MODEL_ROOTS", str(tmp_path))


class World:
    """A zygote, a front end, and one model or more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.zygote = ZygoteHandle(Settings(), folder)
        self.zygote.start()
        self.zygote.wait_until_ready()
        self.front_end = FrontEnd(folder, self.zygote.environment_for(os.environ))
        self.folders: dict[str, Path] = {}

    def load(
        self, name: str = "m", *on_load: object, properties: str = "", request: str | None = None
    ) -> tuple[Connection, psutil.Process]:
        """``request``: the body of the first one, whose answer is to be received."""
        model_dir = self.folders[name] = self.folder / f"model-{name}"
        model_dir.mkdir()
        make_model(model_dir, *on_load)
        if properties:
            (model_dir / "serving.properties").write_text(properties)
        self.front_end.wait_until_started(self.front_end.launch(model_dir, name))
        connection = self.front_end.connect(name)
        process = worker_of(connection.load(model_dir, f"pipes-{name}", request))
        self.front_end.held.append(connection)
        return connection, process

    def record(self, state: WorkerState | None = None) -> SessionRecord:
        """That of the only session."""
        ((_, found),) = self.zygote._records.in_state(*(WorkerState if state is None else [state]))
        return found

    def states(self) -> list[WorkerState]:
        """Those of all records that were ever used."""
        return sorted(record.state for _, record in self.zygote._records.in_state(*WorkerState))

    def put_to_sleep(self, model: int | None = None) -> None:
        """Asks all that are idle, or the sessions of one model, and returns when they sleep."""
        sleepers = Sleepers(self.zygote._records, NOBODY)
        idle = [each for each in sleepers.awake() if each.is_idle and model in (None, each.model)]
        assert idle
        assert sleepers.put_to_sleep(idle) == []

    def stop(self) -> None:
        self.front_end.stop()
        for connection in self.front_end.held:
            connection.close()
        self.zygote.stop(time.monotonic() + 5)
        assert not self.zygote.is_alive()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    running = World(tmp_path)
    yield running
    running.stop()


def own_pid(connection: Connection) -> int:
    status, body = connection.invoke(command("sleep", 0))
    assert status == 200
    return int(body)


def test_a_session_that_sleeps_has_no_process_and_wakes_with_the_next_request(world: World) -> None:
    connection, process = world.load()
    world.put_to_sleep()
    wait_until(lambda: is_gone(process), "the worker has ended")
    record = world.record(WorkerState.ASLEEP)
    assert (record.sleeps, record.wake_ups) == (1, 0)
    woken = own_pid(connection)
    assert woken != process.pid
    assert own_pid(connection) == woken
    wait_until(lambda: record.requests == 2, "both are counted")
    assert (record.sleeps, record.wake_ups) == (1, 1)
    assert 0 < record.last_wake_up_ns < 60e9


def test_a_model_that_nobody_asks_falls_asleep_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MME_SLEEP_AFTER_S", "1")
    world = World(tmp_path)
    try:
        connection, process = world.load()
        wait_until(lambda: is_gone(process), "it sleeps")
        assert world.record().state is WorkerState.ASLEEP
        woken = psutil.Process(own_pid(connection))
        assert not is_gone(woken)
        wait_until(lambda: is_gone(woken), "it sleeps again")
        assert world.record().sleeps == 2
        own_pid(connection)
    finally:
        world.stop()


@pytest.mark.parametrize(
    ("trim_ms", "sleep_after_s", "expected_ms"),
    [(None, 1, 1000), (2000, 1, 1000), (200, 1, 200), (None, None, None), (2000, None, 2000)],
)
def test_a_session_that_waits_looks_again_when_the_first_of_its_times_has_come(
    trim_ms: int | None, sleep_after_s: int | None, expected_ms: int | None
) -> None:
    ours, theirs = socket.socketpair()
    record = SessionRecords(make_shared()).take(0)
    record.state, record.used_ns = WorkerState.READY, time.monotonic_ns()
    trim = IdleTrim(lambda: trim_ms == 200)
    if trim_ms is not None:
        trim.used()
        trim.used()  # it is not alone
    with ours, theirs:
        idle = Idle(ours, record, trim, template=os.getppid(), sleep_after_s=sleep_after_s)
        timeout_ms = idle._timeout_ms()
        if expected_ms is None:
            assert timeout_ms is None
        else:
            assert timeout_ms is not None
            assert expected_ms - 500 < timeout_ms <= expected_ms
        record.used_ns = 1  # since the machine's start
        assert idle._is_due() is (sleep_after_s is not None)
        record.never_sleeps = True
        assert Idle(ours, record, trim, template=os.getppid(), sleep_after_s=1)._timeout_ms() == trim_ms


@pytest.mark.parametrize("has_request", [False, True])
def test_who_asks_a_session_to_sleep_sees_no_answer_before_it_has_decided(
    monkeypatch: pytest.MonkeyPatch, has_request: bool
) -> None:
    ours, theirs = socket.socketpair()
    record = SessionRecords(make_shared()).take(0)
    record.state, record.used_ns, record.sleep_wanted = WorkerState.READY, time.monotonic_ns(), 1
    seen = []

    class Requests:
        def poll(self, _timeout_ms: int | None) -> list[tuple[int, int]]:
            seen.append((record.state, record.sleep_wanted))
            return [(ours.fileno(), select.POLLIN)] if has_request else []

    with ours, theirs:
        idle = Idle(ours, record, IdleTrim(lambda: False), template=os.getppid())
        monkeypatch.setattr(idle, "_requests", Requests())
        with nullcontext() if has_request else pytest.raises(FallsAsleep):
            idle.wait()
    assert seen[0] == (WorkerState.READY, 1)
    assert (record.state, record.sleep_wanted) == (WorkerState.READY if has_request else WorkerState.ASLEEP, 0)


def test_a_session_never_sleeps_while_it_is_busy(world: World, tmp_path: Path) -> None:
    connection, process = world.load()
    connection.send(command("wait_for", str(tmp_path / "go")))
    record = world.record()
    wait_until(lambda: record.state is WorkerState.PREDICTING, "the request is with the handler")
    assert [each.is_idle for each in Sleepers(world.zygote._records, NOBODY).awake()] == [False]
    record.sleep_wanted = 1  # as by one who has looked a moment before
    os.kill(process.pid, SLEEP_SIGNAL)
    (tmp_path / "go").touch()
    assert connection.receive()[0] == 200
    assert own_pid(connection) == process.pid or record.sleeps == 1  # it may sleep from its answer on


def test_no_request_is_lost_or_answered_twice_whenever_a_session_falls_asleep(world: World) -> None:
    """The request is sent before, while and after the session looks for the last time."""
    connection, _ = world.load()
    record = world.record()
    chance = random.Random(1)
    for at in range(ROUNDS):
        pid = record.pid
        if pid and record.state is WorkerState.READY:
            record.sleep_wanted = 1
            os.kill(pid, SLEEP_SIGNAL)
        if chance.random() < 0.8:
            until_s = time.perf_counter() + chance.random() * 0.002
            while time.perf_counter() < until_s:
                pass
        assert connection.invoke(command("echo", at)) == (200, str(at).encode())
    assert 0 < record.sleeps == record.wake_ups == connection.sleeps <= ROUNDS
    wait_until(lambda: record.requests == ROUNDS, "all are counted")


def test_a_session_whose_model_must_not_be_ended_does_not_sleep(world: World) -> None:
    connection, process = world.load(properties="option.never_sleep=true\n")
    assert Sleepers(world.zygote._records, NOBODY).awake() == []
    record = world.record()
    record.sleep_wanted = 1
    os.kill(process.pid, SLEEP_SIGNAL)
    wait_until(lambda: not record.sleep_wanted, "it has looked")
    assert own_pid(connection) == process.pid


def test_the_signal_alone_and_one_that_comes_too_early_do_nothing(world: World) -> None:
    connection, process = world.load("m", "sequence", ["once", "no such file"], ["nothing"])
    for _ in range(20):
        os.kill(process.pid, SLEEP_SIGNAL)
    assert own_pid(connection) == process.pid


def test_a_session_whose_template_has_died_does_not_sleep(world: World) -> None:
    connection, process = world.load()
    os.kill(world.record().owner, signal.SIGKILL)
    wait_until(lambda: psutil.Process(process.pid).ppid() != world.record().owner, "the worker is an orphan")
    assert Sleepers(world.zygote._records, NOBODY).awake() == []
    world.record().sleep_wanted = 1
    os.kill(process.pid, SLEEP_SIGNAL)
    wait_until(lambda: not world.record().sleep_wanted, "it has looked")
    assert own_pid(connection) == process.pid


def test_a_session_that_is_just_falling_asleep_is_waited_for_where_nobody_else_can_sleep(world: World) -> None:
    _, process = world.load()
    process.suspend()  # so that it falls asleep for as long as the test looks
    sleepers = Sleepers(world.zygote._records, NOBODY)
    record = world.record()
    record.state = WorkerState.ASLEEP  # as it will write itself
    assert sleepers.awake() == []
    (falling,) = sleepers.awake(exactly=True)
    assert falling.is_idle
    assert falling.taken_bytes > 0
    assert sleepers.put_to_sleep([falling]) == []
    assert process.is_running(), "it was waited for, as long as one that hangs"
    record.state, record.sleep_wanted = WorkerState.READY, 1
    process.send_signal(SLEEP_SIGNAL)
    process.resume()
    wait_until(lambda: is_gone(process), "it has fallen asleep")
    wait_until(lambda: not record.pid, "the template has seen its end")
    assert sleepers.awake(exactly=True) == []


@pytest.mark.parametrize("change", ["written", "exchanged", "removed", "folder"])
def test_a_model_whose_files_have_changed_does_not_wake_and_is_to_be_unloaded(world: World, change: str) -> None:
    connection, _ = world.load()
    world.put_to_sleep()
    folder = world.folders["m"]
    file = folder / "on_load"
    if change == "written":
        file.write_text(file.read_text() + " ")
    elif change == "exchanged":  # all but the inode stays
        about = file.stat()
        other = folder / "other"
        other.write_bytes(file.read_bytes())
        os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
        other.rename(file)
    elif change == "removed":
        file.unlink()
    else:
        shutil.rmtree(folder)
    connection.send(command("nothing"))
    assert connection.receive_head()[0] == 0, "the session has ended"
    status, message = connection.receive_head()
    assert status == 500
    assert f"the files of model 'm' {'are gone' if change == 'folder' else 'have changed'}" in message
    assert connection.receive_head()[0] == -1, "the front end is told to unload it"
    assert connection.is_closed_by_worker()


def test_files_that_a_model_has_written_itself_do_not_count(world: World) -> None:
    connection, _ = world.load()
    (world.folders["m"] / "cache.bin").write_text("by the model's own code")
    (world.folders["m"] / "sub").mkdir()
    (world.folders["m"] / "sub" / "cache.bin").write_text("by the model's own code")
    world.put_to_sleep()
    assert own_pid(connection)


def test_a_model_that_cannot_wake_for_lack_of_memory_answers_507_and_sleeps_on(world: World, tmp_path: Path) -> None:
    connection, _ = world.load("m", "once", str(tmp_path / "short"), ["run_out_of_memory"])
    record = world.record()
    world.put_to_sleep()
    for _ in range(3):
        (tmp_path / "short").touch()
        status, _ = connection.invoke(command("echo", "x" * 200_000))
        assert status == 507
        wait_until(lambda: record.state is WorkerState.ASLEEP and not record.pid, "it sleeps on")
    assert connection.invoke(command("echo", 5)) == (200, b"5")
    wait_until(lambda: record.requests == 4, "all are counted")
    assert (record.memory_errors, record.wake_ups) == (3, 1)


@pytest.mark.parametrize(
    ("on_wake_up", "status", "message"),
    [
        (["fail", "the database is away"], 500, "ValueError: the database is away"),
        (["exit", 3], 500, "ended with exit code 3 while it loaded"),
        (["kill", 9], 507, "was killed while it loaded, probably for lack of memory"),
        (["kill", 11], 500, "crashed (SIGSEGV) while it loaded"),
    ],
)
def test_a_model_that_fails_to_wake_answers_why_and_its_session_ends(
    world: World, tmp_path: Path, on_wake_up: list[object], status: int, message: str
) -> None:
    connection, _ = world.load("m", "once", str(tmp_path / "fails"), on_wake_up)
    world.put_to_sleep()
    (tmp_path / "fails").touch()
    connection.send(command("nothing"))
    assert connection.receive_head()[0] == 0, "the session has ended"
    answer = connection.receive_head()
    assert answer[0] == status
    assert message in answer[1]
    again = world.front_end.connect()  # as MMS does
    assert again.load(world.folders["m"], "again")[0] == 200
    again.close()


def test_a_front_end_that_gives_up_ends_a_wake_up(world: World, tmp_path: Path) -> None:
    connection, _ = world.load("m", "once", str(tmp_path / "hangs"), ["hang_in_c"])
    record = world.record()
    world.put_to_sleep()
    (tmp_path / "hangs").touch()
    connection.send(command("nothing"))
    wait_until(lambda: not (tmp_path / "hangs").exists(), "it hangs")
    process = psutil.Process(record.pid)
    connection.socket.close()
    wait_until(lambda: is_gone(process), "the worker is killed")


def test_a_front_end_that_hangs_up_on_a_session_that_sleeps_ends_it(world: World) -> None:
    connection, _ = world.load()
    world.put_to_sleep()
    record = world.record(WorkerState.ASLEEP)
    connection.socket.close()
    wait_until(lambda: record.state is WorkerState.STARTED, "its record is free")
    again = world.front_end.connect()
    assert again.load(world.folders["m"], "again")[0] == 200
    again.close()


@pytest.mark.parametrize("when", ["asleep", "waking"])
def test_a_model_can_be_unloaded_while_it_sleeps_or_wakes(world: World, tmp_path: Path, when: str) -> None:
    connection, _ = world.load("m", "once", str(tmp_path / "hangs"), ["hang_in_c"])
    spared, _ = world.load("other")
    launcher = world.front_end.launchers[0]
    world.put_to_sleep(model_key("m"))
    if when == "waking":
        (tmp_path / "hangs").touch()
        connection.send(command("nothing"))
        wait_until(lambda: not (tmp_path / "hangs").exists(), "it wakes")
    connection.socket.close()  # as MMS does before it kills the launcher
    launcher.kill()
    world.front_end.reap(launcher)
    wait_until(lambda: not Path(world.front_end.socket_path("m")).exists(), "the socket is gone")
    assert spared.invoke(command("echo", 1)) == (200, b"1")
    wait_until(lambda: world.states() == [WorkerState.STARTED, WorkerState.READY], "its record is free")


def test_a_model_whose_launcher_was_killed_is_taken_on_although_it_slept(world: World) -> None:
    connection, _ = world.load()
    world.put_to_sleep()
    launcher = world.front_end.launchers[0]
    launcher.kill()
    world.front_end.reap(launcher)
    assert connection.is_closed_by_worker(), "MMS connects anew then"
    again = world.front_end.connect()
    assert again.load(world.folders["m"], "again")[0] == 200
    again.close()


def test_each_session_of_a_model_sleeps_and_wakes_by_itself(world: World) -> None:
    first, _ = world.load()
    second = world.front_end.connect()
    other = worker_of(second.load(world.folders["m"], "second"))
    world.put_to_sleep()
    assert own_pid(second) != other.pid
    wait_until(lambda: world.states() == [WorkerState.READY, WorkerState.ASLEEP], "one is awake")
    own_pid(first)
    second.close()


def test_a_further_worker_and_one_that_wakes_are_not_run_in_advance_for_requests_wait(world: World) -> None:
    said = world.folder / "said"
    first, _ = world.load("m", "say_whether_a_request_waits", str(said))
    second = world.front_end.connect()
    second.load(world.folders["m"], "second")
    world.put_to_sleep()
    own_pid(first)
    assert said.read_text().split() == ["False", "True", "True"]
    second.close()


def test_what_a_load_frees_is_used_again_and_then_given_back(world: World) -> None:
    """By itself malloc gives 20 MB back that are free, and each page of them faults when it is needed again."""
    said = world.folder / "said"
    _, process = world.load("m", "allocate_and_free", str(said), 5)
    assert int(said.read_text()) < 10_000, "page faults: 5,000 for each time where what was freed has gone"
    wait_until(lambda: process.memory_full_info().uss < 15 << 20, "a pause gives it back")


def test_what_a_load_frees_is_not_counted_as_the_models_though_its_first_request_uses_it(world: World) -> None:
    said = world.folder / "said"
    words = ("allocate_and_free", str(said), 1)
    connection, process = world.load("m", *words, request=command(*words))
    assert connection.receive()[0] == 200
    assert int(said.read_text()) < 2_500, "page faults: 5,000 where what the load has freed has gone"
    record = world.record()
    assert record.taken_mib * MIB < COPIED_ON_WRITE_BYTES + (5 << 20)
    loaded_bytes = record.loaded_pages * os.sysconf("SC_PAGE_SIZE")
    wait_until(lambda: abs(anonymous_bytes(process.pid) - loaded_bytes) < 5 << 20, "no more than that stays")


def test_many_that_are_asked_at_once_wake_a_few_at_a_time_and_all_answer(world: World) -> None:
    connections = [world.load(f"m{at}")[0] for at in range(12)]
    world.put_to_sleep()
    for at, connection in enumerate(connections):
        connection.send(command("echo", at))
    for at, connection in enumerate(connections):
        assert connection.receive() == (200, str(at).encode())


def test_the_zygote_stops_with_models_that_sleep(world: World) -> None:
    connection, _ = world.load()
    world.put_to_sleep()
    world.zygote.stop(time.monotonic() + 5)
    assert not world.zygote.is_alive()
    assert connection.is_closed_by_worker()


def test_the_template_that_dies_leaves_no_session_that_counts_as_loaded(world: World) -> None:
    world.load()
    world.put_to_sleep()
    assert world.zygote.has_loaded_worker()
    os.kill(world.record().owner, signal.SIGKILL)
    wait_until(lambda: not world.zygote.has_loaded_worker(), "nothing is loaded")


@pytest.mark.parametrize("is_own", [True, False])
def test_the_end_takes_a_models_code_apart_and_not_the_servers(tmp_path: Path, is_own: bool) -> None:
    """That would copy the pages of all of it for a process that ends: 2 ms of each wake-up."""
    from mms.model_loader import MmsModelLoader

    import model_handler

    theirs = tmp_path / "model_handler.py"
    theirs.write_text("handle = print")
    spec = importlib.util.spec_from_file_location("model_handler", theirs)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loader = MmsModelLoader()
    loader.module = model_handler if is_own else module
    model = LoadedModel()
    model._loader, model._service = loader, object()
    model.unload()
    assert hasattr(model_handler, "handle")
    assert hasattr(module, "handle") is is_own
