"""The zygote without a JVM: the test does to it what MMS does, from the start of a launcher to its death."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from mme.capacity.memory import MIB
from mme.errors import StartError
from mme.frameworks import registry
from mme.imports import forget_shadowed_modules
from mme.settings import Settings
from mme.supervisor.own_programs import PACKAGE_DIR
from mme.supervisor.zygote_handle import ZygoteHandle
from mme.zygote import protocol, template_preparation
from mme.zygote.event_loop import EventLoop
from mme.zygote.launcher import Launch
from mme.zygote.template import Template
from mme.zygote.worker_process import reset_environment
from tests.harness.front_end import Connection, FrontEnd, worker_of
from tests.harness.programs import run_python
from tests.harness.scripted_handler import command, make_model
from tests.harness.waiting import wait_until
from tests.harness.workers import is_gone


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The zygote reads its settings from its environment, which is this process's."""
    set_quick_start(monkeypatch, tmp_path)


def set_quick_start(monkeypatch: pytest.MonkeyPatch, model_root: Path) -> None:
    monkeypatch.setenv("MME_PRELOAD", "none")
    monkeypatch.setenv("SAGEMAKER_MULTI_MODEL", "true")
    monkeypatch.setenv("MME_MODEL_ROOTS", str(model_root))


@contextmanager
def running_zygote(runtime_dir: Path) -> Iterator[ZygoteHandle]:
    process = ZygoteHandle(Settings(), runtime_dir)
    process.start()
    process.wait_until_ready()
    yield process
    process.stop(time.monotonic() + 5)
    assert not process.is_alive()


@pytest.fixture(scope="module")
def shared_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZygoteHandle]:
    """For all tests that neither end it nor look into its folder."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as monkeypatch:  # not for longer than a test's own, which it is made in
            set_quick_start(monkeypatch, tmp_path_factory.getbasetemp())
            running = stack.enter_context(running_zygote(tmp_path_factory.mktemp("zygote")))
        yield running


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[ZygoteHandle]:
    """One of the test's own, which runs in its folder."""
    with running_zygote(tmp_path) as running:
        yield running


@pytest.fixture
def front_end(request: pytest.FixtureRequest) -> Iterator[FrontEnd]:
    """Of the test's own zygote where it has one, else of the shared one."""
    process = request.getfixturevalue("zygote" if "zygote" in request.fixturenames else "shared_zygote")
    running = FrontEnd(process.runtime_dir, process.environment_for(os.environ))
    yield running
    running.stop()


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return make_model(folder)


def test_a_connection_is_served_by_a_process_of_its_own(front_end: FrontEnd, model_dir: Path) -> None:
    front_end.wait_until_started(front_end.launch(model_dir))
    connections = [front_end.connect() for _ in range(3)]
    workers = [worker_of(each.load(model_dir, f"c{at}")) for at, each in enumerate(connections)]
    assert len(set(workers)) == 3
    for each, process in zip(connections, workers, strict=True):
        assert each.invoke(command("sleep", 0)) == (200, str(process.pid).encode())
        each.close()
        wait_until(lambda process=process: is_gone(process), "the worker leaves with its connection")  # type: ignore[misc]


@pytest.mark.parametrize(("level", "expected"), [("20", 0), ("10", 2)])
def test_a_worker_writes_metrics_where_the_log_shows_them(
    front_end: FrontEnd, model_dir: Path, level: str, expected: int
) -> None:
    front_end.environment["SAGEMAKER_CONTAINER_LOG_LEVEL"] = level
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    connection = front_end.connect()
    worker_of(connection.load(model_dir, "c"))
    for _ in range(2):
        assert connection.invoke(command("sleep", 0))[0] == 200
    connection.close()
    assert launcher.stdout is not None
    lines = list(iter(launcher.stdout.readline, b"Frontend disconnected.\n"))
    found = [line for line in lines if line.startswith(b"[METRICS]PredictionTime.Milliseconds:")]
    assert len(found) == expected, lines


def test_a_launcher_is_as_quick_and_as_small_as_a_shell(front_end: FrontEnd, model_dir: Path) -> None:
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    process = psutil.Process(launcher.pid)
    wait_until(lambda: process.status() == psutil.STATUS_SLEEPING, "it waits")
    assert process.memory_full_info().uss < 500_000
    assert process.num_threads() == 1


def test_the_end_of_a_launcher_ends_its_workers_and_its_socket(front_end: FrontEnd, model_dir: Path) -> None:
    launcher, other = front_end.launch(model_dir), front_end.launch(model_dir, "other")
    front_end.wait_until_started(launcher)
    front_end.wait_until_started(other)
    connection, spared = front_end.connect(), front_end.connect("other")
    worker = worker_of(connection.load(model_dir, "a"))
    spared.load(model_dir, "b")
    connection.close()  # as MMS does before it kills the launcher
    launcher.kill()
    front_end.reap(launcher)
    wait_until(lambda: is_gone(worker), "the worker has ended", timeout_s=1)
    wait_until(lambda: not Path(front_end.socket_path("m")).exists(), "the socket is gone", timeout_s=1)
    assert spared.invoke(command("echo", 1)) == (200, b"1")
    spared.close()


def test_bytes_that_arrive_during_a_request_harm_nobody(front_end: FrontEnd, model_dir: Path) -> None:
    """The kernel queues the bytes of a request first and tells of them later, at any time: here, during the next."""
    front_end.wait_until_started(front_end.launch(model_dir))
    connection = front_end.connect()
    worker_of(connection.load(model_dir, "a"))
    sent = [uuid.uuid4().hex for _ in range(50)]
    answers: list[tuple[int, bytes]] = []

    def receive() -> None:
        answers.extend(connection.receive() for _ in sent)

    receiver = threading.Thread(target=receive)
    receiver.start()
    for said in sent:
        connection.send(command("sequence", ["sleep", 0.002], ["echo", said]))
    receiver.join(20)
    assert answers == [(200, json.dumps(said).encode()) for said in sent]
    connection.close()


@pytest.mark.parametrize("how", ["spin", "hang_in_c"])
def test_a_front_end_that_gives_up_ends_the_request(front_end: FrontEnd, model_dir: Path, how: str) -> None:
    front_end.wait_until_started(front_end.launch(model_dir))
    connection, other = front_end.connect(), front_end.connect()
    worker = worker_of(connection.load(model_dir, "a"))
    spared = worker_of(other.load(model_dir, "b"))
    connection.send(command(how))
    wait_until(lambda: worker.cpu_times().user > 0.5 if how == "spin" else in_c(worker), "the handler hangs")
    connection.close()
    wait_until(lambda: is_gone(worker), "the worker has ended", timeout_s=5)
    assert other.invoke(command("sleep", 0)) == (200, str(spared.pid).encode())
    other.close()


@pytest.mark.parametrize("how", ["spin", "hang_in_c"])
def test_a_request_that_hangs_ends_although_nobody_watches_its_connection_any_more(
    zygote: ZygoteHandle, tmp_path: Path, model_dir: Path, how: str
) -> None:
    front_end = FrontEnd(tmp_path, {**zygote.environment_for(os.environ), "SAGEMAKER_MODEL_SERVER_TIMEOUT": "1"})
    front_end.wait_until_started(front_end.launch(model_dir))
    connection = front_end.connect()
    worker = worker_of(connection.load(model_dir, "a"))
    assert zygote.pid is not None
    os.kill(zygote.pid, signal.SIGKILL)
    wait_until(lambda: not zygote.is_alive(), "the zygote is reaped")
    assert connection.invoke(command("echo", 1)) == (200, b"1")
    connection.send(command(how))
    connection.close()
    wait_until(lambda: is_gone(worker), "the worker has ended", timeout_s=10)
    front_end.stop()


SENDMSG = ("46", "211")  # on x86-64 and aarch64
EPOLL_WAIT = ("232", "281", "22")  # epoll_wait and epoll_pwait


def in_c(process: psutil.Process) -> bool:
    """Whether the process sleeps in ``sleep``, not in reading its connection."""
    call = Path(f"/proc/{process.pid}/syscall").read_text().split()[0]
    return call in ("230", "115", "35", "101")  # clock_nanosleep and nanosleep, on x86-64 and aarch64


@pytest.mark.parametrize(
    ("on_load", "status", "reason"),
    [
        (("fail", "the vocabulary is empty"), 500, "ValueError: the vocabulary is empty"),
        (("fail", "/etc/passwd: not allowed"), 500, "ValueError: …/passwd: not allowed"),
        (("leave", 3), 500, "SystemExit: 3"),
        (("exit", 3), 500, "the worker of model 'm' ended with exit code 3 while it loaded"),
        (("exit", 0), 500, "the worker of model 'm' ended with exit code 0 while it loaded"),
        (("kill", signal.SIGSEGV), 500, "the worker of model 'm' crashed (SIGSEGV) while it loaded"),
        (("kill", signal.SIGKILL), 507, "the worker of model 'm' was killed while it loaded"),
        (("run_out_of_memory",), 507, "model 'm' did not load: as told; it was admitted with"),
        (("no_such_command",), 500, "AttributeError: "),
    ],
)
def test_the_reason_of_a_failed_load_is_in_its_answer(
    front_end: FrontEnd, model_dir: Path, on_load: tuple[Any, ...], status: int, reason: str
) -> None:
    make_model(model_dir, *on_load)
    launcher = front_end.launch(model_dir)
    reaper = threading.Thread(target=front_end.reap_after_start, args=(launcher,))
    reaper.start()
    connection = wait_until(lambda: try_to_connect(front_end), "the model is listened for")
    assert connection is not None
    answer = connection.load(model_dir, "a")
    reaper.join(20)
    assert answer[0] == status
    assert answer[1].startswith(reason)
    assert "Traceback" not in answer[1]
    connection.close()


@pytest.mark.usefixtures("zygote")
def test_the_reason_of_a_refused_load_is_in_its_answer(
    front_end: FrontEnd, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = make_model(tmp_path_factory.mktemp("outside"))
    launcher = front_end.launch(model_dir)
    reaper = threading.Thread(target=front_end.reap_after_start, args=(launcher,))
    reaper.start()
    connection = wait_until(lambda: try_to_connect(front_end), "the model is listened for")
    assert connection is not None
    status, message = connection.load(outside, "a")
    reaper.join(20)
    assert status == 400
    assert str(outside.parent) not in message
    assert len(message) > 20
    connection.close()


def rest_of(connection: Connection) -> bytes:
    """What is received until the worker's end of the connection is closed."""
    received = b""
    try:
        while part := connection.socket.recv(1 << 20):
            received += part
    except ConnectionResetError:
        pass  # there was something that nobody has read, as the kernel says after the last bytes
    return received


def test_the_end_of_a_worker_says_that_it_had_begun_no_request(front_end: FrontEnd, model_dir: Path) -> None:
    front_end.wait_until_started(front_end.launch(model_dir))
    end = b"".join(protocol.session_end())
    idle, stopped, working, answering = (front_end.connect() for _ in range(4))
    at_nothing, not_begun, at_work, at_answer = (
        worker_of(each.load(model_dir, str(at))) for at, each in enumerate((idle, stopped, working, answering))
    )

    at_nothing.kill()
    assert rest_of(idle) == end

    not_begun.suspend()
    stopped.send(command("echo", 1))
    not_begun.kill()
    assert rest_of(stopped) == end

    working.send(command("spin"))
    wait_until(lambda: at_work.cpu_times().user > 0.3, "it works on a request")
    at_work.kill()
    assert rest_of(working) == end + b"".join(protocol.predict_response(None, {}, "Out of resources", 507))

    answering.send(command("answer", 4 * MIB))
    wait_until(lambda: Path(f"/proc/{at_answer.pid}/syscall").read_text().split()[0] in SENDMSG, "it waits to send")
    at_answer.kill()
    sent = rest_of(answering)
    assert b"x" * 1000 in sent
    assert len(sent) < 4 * MIB
    assert not sent.endswith(end)  # which would be read as a part of the answer


def kept_bytes(runtime_dir: Path) -> list[int]:
    """What the reservations keeps for the next workers of models."""
    try:
        table = json.loads((runtime_dir / "loading.json").read_text())
    except FileNotFoundError:
        return []
    return [load["need_bytes"] for key, load in table.items() if key.startswith("kept-")]


@pytest.mark.usefixtures("zygote")
def test_what_a_dead_worker_took_is_kept_for_the_next_one(front_end: FrontEnd, model_dir: Path, tmp_path: Path) -> None:
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    connections = [front_end.connect() for _ in range(2)]
    dead = [worker_of(each.load(model_dir, f"dead{at}")) for at, each in enumerate(connections)]
    assert kept_bytes(tmp_path) == []
    for process in dead:
        process.kill()
    wait_until(lambda: len(kept_bytes(tmp_path)) == 2, "it is kept for both")
    assert all(MIB <= size < 1000 * MIB for size in kept_bytes(tmp_path))
    successor = front_end.connect()
    worker_of(successor.load(model_dir, "successor"))
    assert len(kept_bytes(tmp_path)) == 1
    connections[0].close()
    connections[1].close()
    successor.close()
    launcher.kill()
    front_end.reap(launcher)
    wait_until(lambda: kept_bytes(tmp_path) == [], "nothing is kept for a model that is gone", timeout_s=2)


def test_it_is_kept_and_given_back_although_others_have_the_reservations_just_then(
    zygote: ZygoteHandle, front_end: FrontEnd, model_dir: Path, tmp_path: Path
) -> None:
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    connection = front_end.connect()
    worker = worker_of(connection.load(model_dir, "a"))
    (template,) = psutil.Process(zygote.pid).children()

    def rests() -> bool:
        return Path(f"/proc/{template.pid}/syscall").read_text().split()[0] in EPOLL_WAIT

    with reservations_held(tmp_path):
        worker.kill()
        wait_until(lambda: not psutil.pid_exists(worker.pid) and rests(), "it has been tried")
        assert kept_bytes(tmp_path) == []
    wait_until(lambda: len(kept_bytes(tmp_path)) == 1, "it is kept")
    with reservations_held(tmp_path):
        connection.close()
        launcher.kill()
        front_end.reap(launcher)
        wait_until(lambda: not Path(front_end.socket_path("m")).exists() and rests(), "it has been tried")
        assert len(kept_bytes(tmp_path)) == 1
    wait_until(lambda: kept_bytes(tmp_path) == [], "nothing is kept", timeout_s=10)  # KEPT_S would be 30


@contextmanager
def reservations_held(runtime_dir: Path) -> Iterator[None]:
    """By this process, longer than a template waits for them."""
    with (runtime_dir / "loading.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("zygote")
def test_it_is_kept_on_where_the_next_one_is_killed_while_it_loads(
    front_end: FrontEnd, model_dir: Path, tmp_path: Path
) -> None:
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    connection = front_end.connect()
    worker_of(connection.load(model_dir, "first")).kill()
    wait_until(lambda: len(kept_bytes(tmp_path)) == 1, "it is kept")
    taken = kept_bytes(tmp_path)
    make_model(model_dir, "kill", signal.SIGKILL)
    successor = front_end.connect()
    with pytest.raises(AssertionError, match="hung up"):
        successor.load(model_dir, "successor")
    wait_until(lambda: kept_bytes(tmp_path) == taken, "it is kept again")
    make_model(model_dir)
    last = front_end.connect()
    worker_of(last.load(model_dir, "last"))
    assert kept_bytes(tmp_path) == []
    for each in (connection, successor, last):
        each.close()


@pytest.mark.usefixtures("zygote")
def test_nothing_is_kept_for_a_worker_that_was_not_wanted_any_more(
    front_end: FrontEnd, model_dir: Path, tmp_path: Path
) -> None:
    front_end.wait_until_started(front_end.launch(model_dir))
    connection = front_end.connect()
    worker = worker_of(connection.load(model_dir, "a"))
    connection.close()
    wait_until(lambda: is_gone(worker), "the worker leaves with its connection")
    other = front_end.connect()
    worker_of(other.load(model_dir, "b"))  # the zygote has seen the end of the first by now
    assert kept_bytes(tmp_path) == []
    other.close()


def test_an_error_in_one_models_part_costs_no_other_model(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flawed = tmp_path / "flawed"
    flawed.mkdir()
    (flawed / "sitecustomize.py").write_text(FLAW)
    monkeypatch.setenv("PYTHONPATH", str(flawed))
    process = ZygoteHandle(Settings(python_path=str(flawed)), tmp_path)
    process.start()
    process.wait_until_ready()
    front_end = FrontEnd(tmp_path, process.environment_for(os.environ))
    try:
        launcher = front_end.launch(model_dir)
        front_end.wait_until_started(launcher)
        connection = front_end.connect()
        worker_of(connection.load(model_dir, "a"))
        assert front_end.launch(model_dir, "doomed-at-launch").wait(10) == -signal.SIGTERM  # not 507 (MMS-6)
        later = front_end.launch(model_dir, "doomed-later")
        front_end.wait_until_started(later)
        front_end.connect("doomed-later")
        assert later.wait(10) == -signal.SIGKILL
        assert connection.invoke(command("echo", 1)) == (200, b"1")
        other = front_end.launch(model_dir, "other")
        front_end.wait_until_started(other)
        assert front_end.connect("other").load(model_dir, "b")[0] == 200
        assert process.is_alive()
        assert launcher.poll() is None
        connection.close()
    finally:
        front_end.stop()
        process.stop(time.monotonic() + 5)


# Runs in the zygote before anything else: faults in its templates' loops.
FLAW = f"""
import sys
if sys.orig_argv[2:4] == ["-m", "mme.zygote.root"]:
    sys.path.insert(0, {str(PACKAGE_DIR)!r})
    from mme.zygote.model_slot import ModelSlot
    listen, accept = ModelSlot.listen, ModelSlot.accept

    def fail_to_listen(self):
        if self.name == "doomed-at-launch":
            raise RuntimeError("on purpose")
        listen(self)

    def fail_to_accept(self):
        if self.name == "doomed-later":
            raise RuntimeError("on purpose")
        return accept(self)

    ModelSlot.listen, ModelSlot.accept = fail_to_listen, fail_to_accept
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_model_survives_the_zygote(
    zygote: ZygoteHandle, front_end: FrontEnd, model_dir: Path, number: signal.Signals
) -> None:
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    old = front_end.connect()
    old.load(model_dir, "old")
    assert zygote.pid is not None
    os.kill(zygote.pid, number)
    wait_until(lambda: not zygote.is_alive(), "the zygote is reaped")
    assert old.invoke(command("echo", 1)) == (200, b"1")
    waiting = front_end.launch(model_dir, "waiting")
    zygote.restart()
    zygote.wait_until_ready()
    front_end.wait_until_started(waiting)
    assert old.invoke(command("echo", 2)) == (200, b"2")
    # The launcher has announced itself again.
    new = wait_until(lambda: try_to_connect(front_end), "the old model is listened for again")
    assert new is not None
    worker_of(new.load(model_dir, "new"))
    assert launcher.poll() is None
    old.close()
    new.close()


def try_to_connect(front_end: FrontEnd) -> Connection | None:
    try:
        return front_end.connect()
    except (ConnectionRefusedError, FileNotFoundError):
        return None


def test_stop_leaves_no_process_and_no_socket(tmp_path: Path, model_dir: Path) -> None:
    process = ZygoteHandle(Settings(), tmp_path)
    process.start()
    process.wait_until_ready()
    front_end = FrontEnd(tmp_path, process.environment_for(os.environ))
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    connection = front_end.connect()
    worker = worker_of(connection.load(model_dir, "a"))
    started_s = time.monotonic()
    process.stop(time.monotonic() + 5)
    assert time.monotonic() - started_s < 2
    assert process.status == 0
    assert is_gone(worker)
    assert launcher.wait(5) == -signal.SIGKILL
    assert not list(tmp_path.glob("*.sock"))
    connection.close()
    front_end.stop()


def test_stop_kills_a_zygote_that_does_not_end(tmp_path: Path) -> None:
    process = ZygoteHandle(Settings(), tmp_path)
    process.start()
    process.wait_until_ready()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    process.stop(time.monotonic() + 0.2)
    assert process.status is not None
    assert os.waitstatus_to_exitcode(process.status) == -signal.SIGKILL


def test_what_is_guarded_dies_with_the_supervisor(tmp_path: Path) -> None:
    guarded = subprocess.Popen(["/bin/sleep", "1000"])
    program = (
        "import sys, time; from pathlib import Path; from mme.settings import Settings\n"
        "from mme.supervisor.zygote_handle import ZygoteHandle\n"
        f"process = ZygoteHandle(Settings(), Path({str(tmp_path)!r}))\n"
        f"process.start(); process.wait_until_ready(); process.kill_on_end({guarded.pid})\n"
        "print(process.pid, flush=True); time.sleep(1000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_DIR)}
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    try:
        assert supervisor.stdout is not None
        zygote = psutil.Process(int(read_pid_line(supervisor)))
        supervisor.kill()
        supervisor.wait(5)
        assert guarded.wait(5) == -signal.SIGKILL
        wait_until(lambda: is_gone(zygote), "the zygote has ended", timeout_s=5)
    finally:
        for process in (supervisor, guarded):
            process.kill()
            process.wait(5)
        supervisor.stdout.close()  # type: ignore[union-attr]


def read_pid_line(process: subprocess.Popen[bytes]) -> bytes:
    """The first line that is a number: the zygote logs to the same place."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit():
            return line
    raise AssertionError("it ended without a word")


def test_a_zygote_that_cannot_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MME_LOG_FORMAT", "no such format")  # the process parses its environment itself
    process = ZygoteHandle(Settings(), tmp_path)
    process.start()
    with pytest.raises(StartError, match="ended while it warmed up"):
        process.wait_until_ready()
    process.stop(time.monotonic() + 5)


@pytest.mark.parametrize("announced", [b"1\n", b"999999999\n", b"\n", b"not a number\n", b"-1\n"])
def test_a_false_announcement_harms_nobody(
    shared_zygote: ZygoteHandle, front_end: FrontEnd, model_dir: Path, announced: bytes
) -> None:
    pipe = os.open(front_end.runtime_dir / "launches", os.O_WRONLY)
    os.write(pipe, announced)
    os.close(pipe)
    front_end.wait_until_started(front_end.launch(model_dir))
    assert shared_zygote.is_alive()


def test_a_load_without_memory_is_answered_507_once_the_launcher_is_gone(front_end: FrontEnd, model_dir: Path) -> None:
    make_model(model_dir, "run_out_of_memory")
    launcher = front_end.launch(model_dir)
    front_end.wait_until_started(launcher)
    connection = front_end.connect()
    answers: list[int] = []

    def load() -> None:
        connection.send_load(model_dir, "p")
        answers.append(connection._int())

    loading = threading.Thread(target=load)
    loading.start()
    assert launcher.wait(10) == -signal.SIGKILL
    assert not answers
    front_end.reap(launcher)
    loading.join(10)
    assert answers == [507]
    connection.close()


# ---- pieces ----


def test_a_launch_is_read_from_the_process_of_its_launcher(front_end: FrontEnd, model_dir: Path) -> None:
    launcher = front_end.launch(model_dir, "näme -x=1")
    front_end.wait_until_started(launcher)
    launch = Launch.of_process(launcher.pid)
    assert launch.model_name == "näme -x=1"
    assert launch.working_dir == str(model_dir)
    assert launch.environment[b"PYTHONPATH"].endswith(os.fsencode(model_dir))
    earlier = replace(launch, started=b"%d" % (int(launch.started) - 7 * os.sysconf("SC_CLK_TCK")))
    assert 0 <= launch.age_s() < 60
    assert 7 <= earlier.age_s() < 67
    assert launch.is_alive()
    launcher.kill()
    front_end.reap(launcher)
    assert not launch.is_alive()


def test_a_process_that_is_no_launcher_has_no_launch() -> None:
    with pytest.raises(ValueError, match="no launcher"):
        Launch.of_process(os.getpid())


def test_a_process_that_has_the_number_of_a_launcher_that_has_ended_gets_no_signal() -> None:
    blocks = (
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); print(flush=True); open(0).read()"
    )
    with subprocess.Popen([sys.executable, "-c", blocks], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        template = Template.__new__(Template)
        template._models = {}
        template.on_launcher(other.pid)
        status = Path(f"/proc/{other.pid}/status").read_text()
    assert "ShdPnd:\t0000000000000000" in status


def test_the_environment_becomes_what_is_wanted_and_nothing_else() -> None:
    environment = {b"STAYS": b"1", b"CHANGES": b"2", b"GOES": b"3"}
    wanted = {b"STAYS": b"1", b"CHANGES": b"4", b"COMES": b"5"}
    reset_environment(environment, wanted)
    assert environment == wanted


RANDOM_STATE = """
import sys, numpy
from mme.zygote.worker_process import reset_random_state
reset_random_state()
print("numpy.random" in sys.modules)
numbers = set()
for _ in range(3):
    numpy.random.seed(1)
    reset_random_state()
    numbers.add(numpy.random.rand())
print(len(numbers))
"""


def test_random_numbers_of_numpy_are_seeded_where_they_are_imported_and_not_imported_for_it() -> None:
    assert run_python(RANDOM_STATE).split() == ["False", "3"]


def test_only_modules_that_a_folder_brings_itself_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("before", "model"):
        (tmp_path / folder / "own_package").mkdir(parents=True)
        (tmp_path / folder / "own_package" / "__init__.py").write_text(f"FROM = {folder!r}")
        (tmp_path / folder / "own_package" / "part.py").write_text("")
    (tmp_path / "before" / "untouched.py").write_text("")
    (tmp_path / "model" / "json.py").write_text("raise RuntimeError('the standard library stays')")
    monkeypatch.syspath_prepend(str(tmp_path / "before"))
    import own_package.part  # type: ignore[import-not-found]
    import untouched  # type: ignore[import-not-found]

    monkeypatch.syspath_prepend(str(tmp_path / "model"))
    try:
        forget_shadowed_modules([str(tmp_path / "model"), str(tmp_path / "missing")])
        assert sys.modules["untouched"] is untouched
        assert "json" in sys.modules
        assert "own_package.part" not in sys.modules
        from own_package import FROM

        assert (own_package.FROM, FROM) == ("before", "model")
    finally:
        for name in ("own_package", "own_package.part", "untouched"):
            sys.modules.pop(name, None)


def test_a_part_that_starts_a_thread_cannot_be_part_of_a_template() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="second")
    thread.start()
    try:
        with pytest.raises(template_preparation.PartFailed, match="threads"):
            template_preparation._check_threads("a_framework")
    finally:
        done.set()
        thread.join()


def test_frameworks_that_are_not_installed_are_not_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleType("no_such_framework")
    missing.DESCRIPTION = replace(registry.description("mxnet"), module="no_such_framework")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "no_such_framework", missing)
    monkeypatch.setitem(registry.ADAPTERS, "no_such_framework", "no_such_framework.adapter")
    preloaded = registry.frameworks_to_preload(Settings())
    assert "mxnet" in preloaded and "no_such_framework" not in preloaded
    assert registry.frameworks_to_preload(Settings(preload=("no_such_framework",))) == ("no_such_framework",)


def test_the_loop_calls_what_is_due_and_what_can_be_read() -> None:
    loop = EventLoop()
    calls: list[Any] = []
    read, write = os.pipe()

    def can_be_read() -> None:
        calls.append(os.read(read, 1))
        loop.unwatch(read)
        loop.after(0.001, "late", late)

    def early() -> None:
        calls.append("early")
        os.write(write, b"x")

    def late() -> None:
        calls.append("late")
        loop.stop()

    loop.watch(read, can_be_read)
    loop.after(0.001, "replaced", lambda: calls.append("never"))
    loop.after(0.001, "replaced", early)
    loop.after(0.001, "cancelled", lambda: calls.append("never"))
    loop.cancel("cancelled")
    loop.run()
    assert calls == ["early", b"x", "late"]
    os.close(read)
    os.close(write)


def test_what_is_due_can_cancel_and_replace_what_else_is_due() -> None:
    loop = EventLoop()
    calls: list[str] = []

    def first() -> None:
        calls.append("first")
        loop.cancel("cancelled")
        loop.after(0.0, "replaced", lambda: calls.append("the new one"))
        loop.after(0.02, "end", loop.stop)

    loop.after(0.0, "first", first)
    loop.after(0.0, "cancelled", lambda: calls.append("never"))
    loop.after(0.0, "replaced", lambda: calls.append("never"))
    loop.run()
    assert calls == ["first", "the new one"]


def test_a_load_response_names_the_worker_as_mms_reads_it() -> None:
    from mme.zygote.session import LoadedModel

    message = LoadedModel().loaded_message()
    assert int(message[message.index("[PID]:") + 6 :]) == os.getpid()  # WorkerThread.java
    assert protocol.load_response(200, message)[0][:4] == struct.pack("!i", 200)


def test_the_loop_does_not_call_for_a_descriptor_that_was_closed_meanwhile() -> None:
    loop = EventLoop()
    calls: list[str] = []
    pipes = [os.pipe() for _ in range(2)]
    for _, write in pipes:
        os.write(write, b"x")

    def closes_the_other(this: int) -> None:
        calls.append("closes")
        loop.unwatch(pipes[1 - this][0])
        new_read, new_write = os.pipe()
        os.dup2(new_read, pipes[1 - this][0])  # the same number, another pipe
        loop.watch(pipes[1 - this][0], lambda: calls.append("called for the wrong pipe"))
        loop.stop()
        for descriptor in (new_read, new_write):
            os.close(descriptor)

    for this in (0, 1):
        loop.watch(pipes[this][0], lambda this=this: closes_the_other(this))  # type: ignore[misc]
    loop.run()
    assert calls == ["closes"]
    for read, write in pipes:
        os.close(read)
        os.close(write)
