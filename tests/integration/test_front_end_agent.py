"""What the agent makes of the front end: wrong requests, clients that go, answers that are too large, health."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mms
import psutil
import pytest
import requests

from mme.front_end import AGENT_JAR, COMMANDS
from tests.harness import scripted_handler
from tests.harness.agent import in_flight, wait_until_idle
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import worker, workers, zygotes

MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings: dict[str, Any] = {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "2", "MME_MAX_WORKERS": "1"}  # a death leaves none
    with ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", **settings) as running:
        make_model(running.model_dir("m"))
        assert running.load("m").status_code == 200
        yield running


def load(server: ServerProcess, *on_load: object) -> str:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), *on_load)
    answer = server.load(name)
    assert answer.status_code == 200, answer.text
    return name


# ---- requests that are wrong ----

FORM = "multipart/form-data; boundary=x"
WRONG = {
    "no body": ("POST", "/models", "application/json", b""),
    "blanks": ("POST", "/models", "application/json", b"  \n"),
    "a list": ("POST", "/models", "application/json", b"[]"),
    "no JSON": ("POST", "/models", "application/json", b"{"),
    "no parameters": ("POST", "/models", None, b""),
    "a timeout of no time": ("POST", "/models", "application/json", b'{"url": "/x", "response_timeout": 0}'),
    "a part without an end": ("POST", "/models/m/invoke", FORM, b"--x\r\nContent-Disposition: form-data; name"),
    "a part without a name": (
        "POST",
        "/models/m/invoke",
        FORM,
        b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
    ),
    "a part in an unknown charset": (
        "POST",
        "/models/m/invoke",
        FORM,
        b'--x\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: text/plain; charset=none\r\n\r\n1\r\n--x--',
    ),
    "parts without a boundary": ("POST", "/invocations?model_name=m", "multipart/form-data; boundary", b"--x"),
    "a form with a broken escape": ("POST", "/models/m/invoke", "application/x-www-form-urlencoded", b"a=%zz"),
    "a path with a broken escape": ("POST", "/models/%zz/invoke", None, b""),
    "a query with a broken escape": ("POST", "/models?url=%z", None, b""),
    "no path": ("OPTIONS", "*", None, b""),
    "fewer workers than none": ("PUT", "/models/m?min_worker=-1", None, b""),
    "fewer workers at most than none": ("PUT", "/models/m?min_worker=-3&max_worker=-2", None, b""),
}


@pytest.mark.parametrize("request_", WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_answered_400_with_the_reason(
    server: ServerProcess, request_: tuple[str, str, str | None, bytes]
) -> None:
    method, path, content_type, body = request_
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": content_type} if content_type else {})
        answer = connection.getresponse()
        text = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 400, text
    message = json.loads(text)["message"]
    assert message and len(message) < 1000
    assert not any(word in message for word in ("Exception", "java.", "io.netty", "null"))
    assert server.invoke("m", command("echo", 1)).json() == 1


def test_a_form_is_read(server: ServerProcess) -> None:
    parts = {"body": command("echo", "from a form")}
    assert server.request("POST", "/models/m/invoke", files=parts).json() == "from a form"


def test_a_body_that_is_too_large_is_answered_with_the_limit(server: ServerProcess) -> None:
    answer = server.invoke("m", b" " * (2 * MIB + 1))
    assert answer.status_code == 413
    assert "SAGEMAKER_MAX_PAYLOAD_IN_MB" in answer.json()["message"]


def test_requests_that_are_sent_ahead_are_answered_in_their_order(server: ServerProcess) -> None:
    quick, slow = load(server), load(server)
    bodies = {slow: command("sleep", 0.3), quick: command("echo", "quick")}
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        for name, body in bodies.items():
            head = f"POST /models/{name}/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body.encode())
        received = b""
        while received.count(b"HTTP/1.1 200") < 2 or not received.endswith(b'"quick"'):
            part = connection.recv(65536)
            assert part, received
            received += part
    assert received.index(b"\r\n\r\n") < received.index(b'"quick"')
    assert received.count(b'"quick"') == 1


# ---- loads that fail ----


def test_the_answer_to_a_failed_load_has_the_reason(server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    make_model(server.model_dir(name), "fail", "the weights are missing")
    answer = server.load(name)
    assert answer.status_code == 500
    assert "the weights are missing" in answer.json()["message"]
    assert set(answer.json()) == {"code", "type", "message"}


def test_the_reason_is_that_of_this_load(server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    for reason in ("the first", "the second"):
        make_model(server.model_dir(name), "fail", reason)
        assert reason in server.load(name).json()["message"]
    make_model(server.model_dir(name))
    assert server.load(name).status_code == 200


# ---- answers that are too large ----


def test_an_answer_that_is_too_large_is_one_error_and_the_worker_lives_on(server: ServerProcess) -> None:
    name = load(server)
    before = worker(server, name).pid
    handler = server.model_dir(name) / f"{HANDLER}.py"
    handler.write_text(handler.read_text().replace("return value", 'return "x" * value'))
    name = load_again(server, name)
    before = worker(server, name).pid
    for size, status in ((1000, 200), (2 * MIB - 2, 200), (2 * MIB - 1, 500), (20 * MIB, 500), (10, 200)):
        answer = server.invoke(name, command("echo", size))
        assert answer.status_code == status, answer.text[:500]
        if status == 500:
            assert "SAGEMAKER_MAX_PAYLOAD_IN_MB" in answer.json()["message"]
        else:
            assert answer.json() == "x" * size
    assert worker(server, name).pid == before


def load_again(server: ServerProcess, name: str) -> str:
    assert server.unload(name).status_code == 200
    assert server.load(name).status_code == 200
    return name


def test_headers_of_any_length_arrive(server: ServerProcess) -> None:
    name = load(server)
    for length in (10, 3000, 10, 8000):
        assert server.invoke(name, command("echo", 1)).json() == 1
        answer = server.invoke(name, command("set_header", length))
        assert (answer.json(), answer.headers["X-Long"]) == (length, "x" * length)


# ---- clients that go ----


def test_a_request_whose_client_has_gone_is_not_run_and_takes_no_place(server: ServerProcess) -> None:
    name, go_on, trace = load(server), server.folder / uuid.uuid4().hex, uuid.uuid4().hex
    wait_until_idle(server)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(server.invoke, name, command("wait_for", str(go_on)))
        wait_until(lambda: in_flight(server) == 1, "the worker is at a request")
        body = command("print", trace).encode()
        head = f"POST /models/{name}/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        leaving = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]  # as many as may wait
        for connection in leaving:
            connection.sendall(head + body)
        wait_until(lambda: in_flight(server) == 101, "they wait")
        for connection in leaving:
            connection.close()
        wait_until(lambda: in_flight(server) == 1, "they are gone")
        with ThreadPoolExecutor(1) as another:
            last = another.submit(server.invoke, name, command("echo", "last"))
            wait_until(lambda: in_flight(server) == 2, "one more waits")
            go_on.touch()
            assert last.result().json() == "last"
        assert working.result().status_code == 200
    assert trace not in server.log()


# ---- workers that are shot ----


def test_a_model_whose_workers_are_shot_is_not_refused(server: ServerProcess, tmp_path: Path) -> None:
    """One that works on a request, and three that load: that request is lost, and no other.

    It is answered 507, or 500 where the answer was just being sent.
    """
    may_load = tmp_path / "may_load"
    may_load.touch()
    name = load(server, "wait_for", str(may_load))
    with asking(server, {name: 4}) as statuses:
        wait_until(lambda: statuses[name][200] > 10, "it serves")
        may_load.unlink()
        kill_four_workers_in_a_row(server, name)
        may_load.touch()
        before = statuses[name][200]
        wait_until(lambda: statuses[name][200] > before + 10, "it serves again", 60)
    assert set(statuses[name]) <= {200, 500, 507}, statuses
    assert statuses[name][500] + statuses[name][507] <= 1, statuses


def kill_four_workers_in_a_row(server: ServerProcess, name: str) -> None:
    """The model's worker, and the three that take its place."""
    for _ in range(4):
        wait_until(lambda: bool(workers(server, name)), "there is a worker", 30)
        for process in workers(server, name):
            process.kill()
            process.wait(10)


@pytest.mark.ci  # waits for long
def test_how_long_a_model_has_no_worker_counts_from_the_end_of_its_last_one(
    server: ServerProcess, tmp_path: Path
) -> None:
    """And not from its load: it would be unloaded after three short tries, where its load is longer ago than 12 s."""
    may_load = tmp_path / "may_load"
    may_load.touch()
    name = load(server, "wait_for", str(may_load))
    time.sleep(12.5)
    may_load.unlink()
    kill_four_workers_in_a_row(server, name)
    may_load.touch()
    answer = server.invoke(name, command("echo", 1))
    assert answer.status_code == 200, answer.text


def test_a_worker_that_is_shot_costs_one_request_at_most(server: ServerProcess) -> None:
    """The others wait for a worker, one of them with the thread that has just got the answer to the first."""
    names = [load(server) for _ in range(4)]
    with asking(server, dict.fromkeys(names, 3)) as statuses:
        for _ in range(3):
            before = {name: Counter(statuses[name]) for name in names}
            wait_until(lambda: all(statuses[name][200] > before[name][200] + 5 for name in names), "they serve", 60)  # noqa: B023
            for name in names:
                worker(server, name).kill()
            shot = {name: Counter(statuses[name]) for name in names}
            wait_until(lambda: all(statuses[name][200] > shot[name][200] + 5 for name in names), "they come back", 60)  # noqa: B023
            lost = {name: statuses[name] - before[name] for name in names}
            assert all(set(each) <= {200, 500, 507} and each[500] + each[507] <= 1 for each in lost.values()), lost


def test_a_request_that_a_killed_worker_has_not_begun_is_the_next_ones(server: ServerProcess) -> None:
    name = load(server)
    stopped = worker(server, name)
    stopped.suspend()
    wait_until_idle(server)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.invoke, name, command("sleep", 0))
        wait_until(lambda: in_flight(server) == 1, "the request is with the worker")
        stopped.kill()
        answer = waiting.result()
    assert answer.status_code == 200, answer.text
    assert answer.json() == worker(server, name).pid != stopped.pid


def test_a_request_that_ends_two_workers_before_they_begin_it_is_given_up(
    server: ServerProcess, tmp_path: Path
) -> None:
    deadly = tmp_path / "deadly"
    name = uuid.uuid4().hex
    handler = make_model(server.model_dir(name)) / f"{HANDLER}.py"
    handler.write_text(
        handler.read_text()
        + f"""
from mme.zygote.protocol import RequestReader
read = RequestReader.read

def read_or_die(reader):
    first = reader._connection.recv(1, 2)  # a look at it
    if first == b"I" and Path({str(deadly)!r}).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return read(reader)

RequestReader.read = read_or_die
"""
    )
    assert server.load(name).status_code == 200
    first = worker(server, name)
    deadly.touch()
    answer = server.invoke(name, command("echo", 1))
    assert (answer.status_code, answer.json()["message"]) == (500, "Worker died.")
    deadly.unlink()
    assert server.invoke(name, command("echo", 1)).json() == 1
    assert worker(server, name) != first
    assert server.log().count(f"of model {name} was killed") == 2


@contextmanager
def asking(server: ServerProcess, clients: dict[str, int]) -> Iterator[dict[str, Counter[int]]]:
    """So many clients of each model send requests meanwhile, one after the other; yields what they are answered."""
    statuses: dict[str, Counter[int]] = {name: Counter() for name in clients}
    stop = threading.Event()

    def ask(name: str) -> None:
        while not stop.is_set():
            statuses[name][server.invoke(name, command("sleep", 0.005)).status_code] += 1

    with ThreadPoolExecutor(sum(clients.values())) as pool:
        running = [pool.submit(ask, name) for name, number in clients.items() for _ in range(number)]
        try:
            yield statuses
        finally:
            stop.set()
        for each in running:
            each.result()


# ---- health ----


def test_ping_is_503_until_the_one_model_is_loaded(tmp_path: Path) -> None:
    go_on = tmp_path / "go_on"
    (tmp_path / "model").mkdir()
    server = ServerProcess(
        single_model_dir=make_model(tmp_path / "model", "wait_for", str(go_on)),
        SAGEMAKER_HANDLER=HANDLER,
        SAGEMAKER_MODEL_SERVER_WORKERS="1",
        MME_PRELOAD="none",
    )
    try:
        server.launch()
        being_loaded = (503, "The model is being loaded.")  # before: the server is starting
        wait_until(lambda: ping(server) == being_loaded, lambda: f"{ping(server)}\n{server.log_tail()}", 60)
        check = subprocess.run(
            [sys.executable, "-m", "mme.supervisor.healthcheck"],
            env={**os.environ, **server.settings, "PYTHONPATH": str(AGENT_JAR.parents[2])},
            capture_output=True,
            text=True,
        )
        assert (check.returncode, "503" in check.stdout) == (1, True)
        go_on.touch()
        wait_until(lambda: ping(server) == (200, None), "the model is loaded")
        assert server.post("/invocations", command("echo", 1)).json() == 1
        wait_until(lambda: "serving the model" in server.log(), "it says so")
        assert server.stop() == 0
    finally:
        server.discard()


def test_a_start_whose_one_model_does_not_load_ends_with_the_reason(tmp_path: Path) -> None:
    server = ServerProcess(
        single_model_dir=make_model(tmp_path, "fail", "the weights are missing"),
        SAGEMAKER_HANDLER=HANDLER,
        SAGEMAKER_MODEL_SERVER_WORKERS="1",
        MME_PRELOAD="none",
    )
    try:
        server.launch()
        assert server.wait(60) == 1
        assert "does not load (500): " in server.log()
        assert "the weights are missing" in server.log().splitlines()[-1]
    finally:
        server.discard()


def test_ping_is_503_while_nothing_can_be_loaded(tmp_path: Path) -> None:
    """A zygote that takes the place of another is held at its start."""
    hold = tmp_path / "hold"
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if 'mme.zygote.root' in sys.orig_argv:\n"
        f"    while os.path.exists({str(hold)!r}): time.sleep(0.02)\n"
    )
    settings: dict[str, Any] = {"SAGEMAKER_HANDLER": HANDLER, "MME_PRELOAD": "none", "PYTHONPATH": str(tmp_path)}
    with ServerProcess(**settings) as server:
        for name in ("m", "n"):
            make_model(server.model_dir(name))
        assert server.load("m").status_code == 200
        hold.touch()
        root(server)[0].kill()
        expected = (503, "No model can be loaded: the zygote has ended, and another one is starting.")
        wait_until(lambda: ping(server) == expected, "the server says that it is not well")
        assert server.invoke("m", command("echo", 1)).json() == 1
        hold.unlink()
        wait_until(lambda: ping(server) == (200, None), "loads work again", 30)
        assert server.load("n").status_code == 200


def test_ping_is_503_until_what_is_preloaded_is_prepared(tmp_path: Path) -> None:
    """The import of the handler is held in the template."""
    go_on = tmp_path / "go_on"
    (tmp_path / "slow_handler.py").write_text(
        f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.02)\nfrom {HANDLER} import handle\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(scripted_handler.__file__).parent)])
    server = ServerProcess(SAGEMAKER_HANDLER="slow_handler", MME_PRELOAD="none", PYTHONPATH=path)
    try:
        server.launch()
        expected = (503, "No model can be loaded yet: the zygote prepares what it preloads.")
        wait_until(lambda: ping(server) == expected, lambda: f"it prepares\n{server.log_tail()}", 60)
        go_on.touch()
        wait_until(lambda: ping(server) == (200, None), lambda: f"it serves\n{server.log_tail()}", 60)
        make_model(server.model_dir("m"))
        assert server.load("m").status_code == 200
        assert server.stop() == 0
    finally:
        server.discard()


def test_a_zygote_that_dies_while_the_front_end_starts_is_replaced(tmp_path: Path) -> None:
    """The JVM's start is held until the zygote, which was ready, is dead and gone."""
    java = shutil.which("java") or pytest.skip("no java on PATH")
    script, go_on = tmp_path / "bin" / "java", tmp_path / "go_on"
    script.parent.mkdir()
    wait = f"while [ ! -e {go_on} ]; do sleep 0.05; done"
    script.write_text(f'#!/bin/sh\ncase "$*" in *-version*) ;; *) {wait};; esac\nexec {java} "$@"\n')
    script.chmod(0o755)
    server = ServerProcess(JAVA_HOME=str(tmp_path), SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none")
    try:
        server.launch()
        wait_until(lambda: bool(root(server)), "there is a zygote", 60)
        (zygote,) = root(server)
        pipe = ready_pipe(zygote)
        wait_until(lambda: ready_pipe(zygote) != pipe, "it says that it is ready, and closes the pipe", 60)
        zygote.kill()
        wait_until(lambda: root(server) not in ([], [zygote]), "another one is started", 30)
        go_on.touch()
        wait_until(lambda: ping(server) == (200, None), lambda: f"it serves\n{server.log_tail()}", 60)
        make_model(server.model_dir("m"))
        assert server.load("m").status_code == 200
        assert server.stop() == 0
    finally:
        server.discard()


def root(server: ServerProcess) -> list[psutil.Process]:
    """The zygote that the supervisor started, without its templates; none while it is being replaced."""
    assert server.process is not None
    return [each for each in zygotes(server) if each.ppid() == server.process.pid]


def ready_pipe(zygote: psutil.Process) -> str:
    """What the descriptor leads to in which the zygote says that it is ready; nothing once it is closed."""
    try:
        return str(Path(f"/proc/{zygote.pid}/fd/{zygote.cmdline()[-2]}").readlink())
    except FileNotFoundError:
        return ""


def ping(server: ServerProcess) -> tuple[int, str | None] | None:
    try:
        answer = requests.get(server.url + "/ping", timeout=5)
    except requests.ConnectionError:
        return None
    return answer.status_code, answer.json().get("message")


# ---- an agent that fails ----


def test_a_front_end_whose_agent_cannot_start_ends_and_says_why(tmp_path: Path) -> None:
    java = shutil.which("java") or pytest.skip("no java on PATH")
    jar = Path(mms.__file__).parent / "frontend" / "model-server.jar"
    (tmp_path / "mms.properties").touch()
    ended = subprocess.run(
        [java, "-cp", f"{jar}:{AGENT_JAR}", "com.amazonaws.ml.mms.ModelServer", "-f", "mms.properties"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 70
    assert "mms-agent: the front end ends, because its agent failed: " in ended.stderr
    assert "load-policy.properties" in ended.stderr


def test_a_front_end_whose_agent_fails_later_ends_and_the_server_with_it() -> None:
    with ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none") as server:
        (runtime_dir,) = (server.folder / "tmp").glob("mme-*")
        with (runtime_dir / COMMANDS).open("r+b", buffering=0) as commands:
            commands.write(b"1 nonsense\n")
        assert server.wait() == 70
        assert "mms-agent: the front end ends, because its agent failed: " in server.log()
        server.assert_nothing_survives()


# ---- what is left behind ----


def models_in_heap(jcmd: str, server: ServerProcess) -> int:
    command_ = [jcmd, str(server.front_end().pid), "GC.class_histogram"]
    answer = subprocess.run(command_, capture_output=True, text=True, timeout=60, check=True)
    lines = [line.split() for line in answer.stdout.splitlines()]
    return sum(int(line[1]) for line in lines if line[-1:] == ["com.amazonaws.ml.mms.wlm.Model"])


@pytest.fixture
def spawning() -> Iterator[ServerProcess]:
    with ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", MME_WORKERS="spawn") as running:
        yield running


@pytest.mark.parametrize(("way", "times"), [("server", 6), pytest.param("spawning", 3, marks=pytest.mark.ci)])
def test_nothing_of_a_model_that_was_unloaded_stays(request: pytest.FixtureRequest, way: str, times: int) -> None:
    jcmd = shutil.which("jcmd") or pytest.skip("no jcmd here: a JDK is needed to look into the JVM's heap")
    running: ServerProcess = request.getfixturevalue(way)
    for each in running.list_models().json()["models"]:
        assert running.unload(each["modelName"]).status_code == 200
    make_model(running.model_dir("last"))
    for _ in range(times):
        assert running.load("last").status_code == 200
        assert running.unload("last").status_code == 200
    wait_until(lambda: models_in_heap(jcmd, running) <= 1, "the models are collected", 30)


# ---- the log ----


@pytest.mark.ci  # starts without a class archive
def test_what_java_prints_at_the_start_is_logged_once_as_json(tmp_path: Path) -> None:
    """200 KB of it: more than a pipe holds."""
    java = shutil.which("java") or pytest.skip("no java on PATH")
    script = tmp_path / "bin" / "java"
    script.parent.mkdir()
    script.write_text(
        f"""#!/bin/sh
case "$*" in *-version*) exec {java} "$@";; esac
i=0; while [ $i -lt 2000 ]; do echo "noise $i {"x" * 90}"; i=$((i+1)); done
exec {java} "$@"
"""
    )
    script.chmod(0o755)
    settings: dict[str, Any] = {"JAVA_HOME": str(tmp_path), "MME_LOG_FORMAT": "json", "MME_PRELOAD": "none"}
    with ServerProcess(**settings) as server:
        assert server.stop() == 0
        messages = [json.loads(line)["message"] for line in server.log().splitlines()]
    assert sorted(line.split()[1] for line in messages if line.startswith("noise ")) == sorted(map(str, range(2000)))
