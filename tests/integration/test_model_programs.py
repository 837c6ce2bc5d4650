"""Models that bring code, on a real server: each has its own, and none takes anything but itself down."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.harness.scripts import djl, script
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until

TIMEOUT_S = 4


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(MME_PRELOAD="script", SAGEMAKER_MODEL_SERVER_TIMEOUT=str(TIMEOUT_S)) as running:
        script(running.model_dir("witness"), "import os\ndef predict_fn(data, model): return os.getpid()")
        assert running.load("witness").status_code == 200, running.log_tail()
        yield running


@pytest.fixture
def make(server: ServerProcess) -> Iterator[Callable[..., str]]:
    """``make(source, …)``: a model with that script; returns its name, before it is loaded."""
    names = []

    def write(source: str, how: Callable[..., Path] = script, **more: str) -> str:
        name = uuid.uuid4().hex
        how(server.model_dir(name), source, **more)
        names.append(name)
        return name

    yield write
    for name in names:
        server.unload(name)


@pytest.fixture(autouse=True)
def no_other_model_is_touched(server: ServerProcess) -> Iterator[None]:
    before = ask(server, "witness")
    yield
    assert ask(server, "witness") == before


def loaded(server: ServerProcess, name: str) -> str:
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return name


def ask(server: ServerProcess, name: str, body: str = "1") -> Any:
    answer = server.invoke(name, body)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return answer.json()


def message_of(answer: requests.Response) -> str:
    """The reason of an error: a line of JSON without a stack trace."""
    error = answer.json()
    assert error["code"] == answer.status_code
    assert "Traceback" not in error["message"] and "\n" not in error["message"]
    return str(error["message"])


# ---- each its own ----

COUNTING = """
    import os, sys
    import helper
    count = 0
    def predict_fn(data, model):
        global count
        count += 1
        return [helper.NAME, count, os.getpid(), os.getcwd(), open("data.txt").read(), sys.path[:3]]
"""


def test_models_with_helpers_of_one_name_never_see_each_other(server: ServerProcess, make: Callable[..., str]) -> None:
    names = [make(COUNTING, helper=f"NAME = {number}") for number in range(3)]
    for name in names:
        (server.model_dir(name) / "data.txt").write_text(name)
        loaded(server, name)
    seen = {name: [ask(server, name) for _ in range(2)] for name in names}
    for number, name in enumerate(names):
        folder = server.model_url(name)
        pids = {each[2] for each in seen[name]}
        assert len(pids) == 1
        for count in (1, 2):
            found, counted, _, cwd, data, path = seen[name][count - 1]
            assert (found, counted, cwd, data) == (number, count, folder, name)
            assert path[:2] == [f"{folder}/code", folder]
    assert len({each[0][2] for each in seen.values()}) == 3


def test_a_model_that_is_loaded_anew_runs_its_new_code(server: ServerProcess, make: Callable[..., str]) -> None:
    source = "import helper\ndef predict_fn(data, model): return helper.NAME"
    name = make(source, helper="NAME = 'a'")
    for text in ("a", "b", "c"):  # files of one size, within a second
        script(server.model_dir(name), source, helper=f"NAME = {text!r}")
        loaded(server, name)
        assert ask(server, name) == text
        assert server.unload(name).status_code == 200
    assert not list(Path(server.model_url(name)).rglob("__pycache__"))


def test_nothing_of_a_model_or_a_sample_is_in_the_process_that_workers_are_forked_from(
    server: ServerProcess, make: Callable[..., str]
) -> None:
    loaded(server, make(COUNTING.replace('open("data.txt").read()', "0"), helper="NAME = 1"))
    source = """
        import sys
        LOADED = {name: getattr(module, "__file__", None) or "" for name, module in list(sys.modules.items())}
        def predict_fn(data, model): return [LOADED, sys.path]
        """
    modules, path = ask(server, loaded(server, make(source)))
    below = {name: file for name, file in modules.items() if file.startswith(str(server.folder))}
    assert set(below) <= {"inference"} and "helper" not in modules  # (itself, while it is imported)
    assert not [entry for entry in path if "sample-" in entry]
    assert {"numpy", "sagemaker_inference.decoder", "djl_python"} <= set(modules)


def test_two_programs_in_one_archive_are_refused_by_name(server: ServerProcess, make: Callable[..., str]) -> None:
    name = make("def predict_fn(data, model): return 1")
    djl(server.model_dir(name), "def handle(inputs): pass")
    answer = server.load(name)
    assert answer.status_code == 500
    assert "2 kinds of model: script: code/inference.py" in message_of(answer) and "djl: " in message_of(answer)


def manifest(folder: Path, handler: str) -> None:
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF/MANIFEST.json").write_text(
        json.dumps({"specificationVersion": "1.0", "modelServerVersion": "1.0", "model": {
            "modelName": "m", "handler": handler}})
    )  # fmt: skip


@pytest.mark.parametrize("style", ["function", "class"])
def test_an_archive_of_mms_brings_its_handler(server: ServerProcess, style: str) -> None:
    name, source = f"mms-{style}", "import helper, coded\n"
    if style == "function":
        source += "def handle(data, context):\n    return data and [helper.NAME + coded.NAME] * len(data)\n"
    else:
        source += (
            "class Service:\n"
            "    def initialize(self, context): self.folder = context.system_properties['model_dir']\n"
            "    def handle(self, data, context): return [helper.NAME + coded.NAME] * len(data)\n"
        )
    folder = server.model_dir(name)
    (folder / "code").mkdir()
    (folder / "service.py").write_text(source)
    (folder / "helper.py").write_text("NAME = 'helper '")
    (folder / "code/coded.py").write_text("NAME = 'coded'")
    (folder / "serving.properties").write_text(f"option.mine=1\nnobodys.{style}=1\n")
    manifest(folder, "service:handle" if style == "function" else "service")
    loaded(server, name)
    line = f"serving.properties: nothing here reads nobodys.{style}."
    wait_until(lambda: line in server.log(), "the front end has read what the worker wrote")
    assert server.log().count(line) == 1
    assert server.invoke(name, b"1").text == "helper coded"
    assert server.unload(name).status_code == 200


# ---- hostile ones ----


@pytest.mark.parametrize(
    ("statement", "status", "reason"),
    [
        ("raise ValueError('told so')", 500, "code/inference.py cannot be imported: ValueError: told so"),
        ("sys.exit(3)", 500, "cannot be imported: it ended the program (SystemExit: 3)"),
        ("os._exit(0)", 500, "ended with exit code 0 while it loaded"),
        ("os._exit(3)", 500, "ended with exit code 3 while it loaded"),
        ("os.abort()", 500, "crashed (SIGABRT) while it loaded"),
        ("os.kill(os.getpid(), 9)", 507, "was killed while it loaded"),
        ("exec('def f(): f()\\nf()')", 500, "cannot be imported: RecursionError"),
        ("raise BaseException('x' * 100_000)", 500, "cannot be imported: BaseException: xxx"),
        ("open('/no/such/file')", 500, "FileNotFoundError: [Errno 2] No such file or directory: '…/file'"),
        ("bytearray(1 << 50)", 507, "Not enough memory"),
        ("while True: pass", 500, ""),
        ("os.closerange(0, 1000)", 500, ""),
    ],
)
def test_a_script_that_ends_or_raises_at_import_is_refused_with_the_reason(
    server: ServerProcess, make: Callable[..., str], statement: str, status: int, reason: str
) -> None:
    name = make(f"import os, sys\n{statement}\n")
    answer = server.load(name)
    assert answer.status_code == status, f"{answer.text}\n{server.log_tail()}"
    assert reason in message_of(answer)
    assert server.describe(name).status_code == 404
    script(server.model_dir(name), "def predict_fn(data, model): return 1")
    assert ask(server, loaded(server, name)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "sys.stdout.buffer.write(bytes(range(256)) * 100); sys.stdout.flush()",
        "os.write(1, bytes(range(256)) * 100); os.write(2, bytes(range(256)))",
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        "threading.Thread(target=time.sleep, args=(1000,)).start()",
        "subprocess.Popen(['/bin/sleep', '1000'])",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "os.close(1); os.close(2)",
        "sys.stdout = sys.stderr = None",
        "sys.modules.pop('numpy')",
        "logging.disable()",
        "os.chdir('/'); os.environ.clear(); sys.path.clear()",
        "os.nice(5); os.setpgid(0, 0)",
    ],
)
def test_a_script_that_does_odd_things_at_import_serves(
    server: ServerProcess, make: Callable[..., str], statement: str
) -> None:
    imports = "import logging, os, signal, subprocess, sys, threading, time"
    name = loaded(server, make(f"{imports}\n{statement}\ndef predict_fn(data, model): return data + 1\n"))
    assert ask(server, name, "[1]") == [2]
    assert server.invoke(name, "no json").status_code == 400
    assert server.unload(name).status_code == 200


@pytest.mark.parametrize(
    ("statement", "status", "reason"),
    [
        ("raise ValueError('told so')", 500, "predict_fn failed: ValueError: told so"),
        ("sys.exit(3)", 500, "predict_fn failed: it ended the program (SystemExit: 3)"),
        ("return object()", 500, "cannot be written as application/json: TypeError"),
        ("bytearray(1 << 50)", 507, "Not enough memory"),
        ("return 'x' * 7_000_000", 500, "SAGEMAKER_MAX_PAYLOAD_IN_MB"),
        ("os.write(1, bytes(range(256)) * 1000); raise ValueError", 500, "predict_fn failed: ValueError"),
        ("os._exit(0)", 500, "ended with exit code 0 while it answered a request"),
        ("os._exit(3)", 500, "ended with exit code 3 while it answered a request"),
        ("os.abort()", 500, "crashed (SIGABRT) while it answered a request"),
        ("while True: pass", 500, "Worker died."),
        ("os.kill(os.getpid(), 19)", 500, "Worker died."),
        ("os.closerange(3, 1000)", 500, "Worker died."),
    ],
)
def test_a_script_that_fails_a_request_answers_the_next(
    server: ServerProcess, make: Callable[..., str], statement: str, status: int, reason: str
) -> None:
    source = f"""
        import os, sys
        def predict_fn(data, model):
            if data != 1: return "well"
            {statement}
        """
    name = loaded(server, make(source))
    answer = server.invoke(name, "1")
    assert answer.status_code == status, f"{answer.text}\n{server.log_tail()}"
    assert reason in message_of(answer)
    deadline_s = time.monotonic() + 30
    while (after := server.invoke(name, "2")).status_code != 200 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert after.json() == "well", f"{after.text}\n{server.log_tail()}"
