"""What a handler sees of its process: the same whether forked or started by stock MMS, and nothing of other models."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness import models
from tests.harness.marked_process import MARK
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.workers import zygotes

# A pipe or a socket of the log, the connection to MMS, or nothing.
PRIVATE = re.compile(r"/dev/null|pipe:.*|socket:.*|.*-std(out|err) \(deleted\)|the listing itself|/proc/\d+/fd")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, ServerProcess]]:
    with ExitStack() as stack:
        yield {
            mode: stack.enter_context(
                ServerProcess(MME_WORKERS=mode, SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD="none", A_SETTING="é=1 \n2")
            )
            for mode in ("fork", "spawn")
        }


def look(server: ServerProcess, name: str) -> dict[str, Any]:
    answer = server.invoke(name, command("look"))
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return answer.json()


def load(server: ServerProcess, name: str) -> str:
    make_model(server.model_dir(name))
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return name


@pytest.fixture(scope="module")
def seen(servers: dict[str, ServerProcess]) -> dict[str, dict[str, Any]]:
    """What the same handler sees in each mode; its folder and the server's own replaced by words."""
    name = uuid.uuid4().hex
    found = {}
    for mode, server in servers.items():
        text = repr(look(server, load(server, name)))
        text = text.replace(server.model_url(name), "MODEL").replace(str(server.folder), "SERVER")
        found[mode] = eval(re.sub(r"/mme-\w{8}", "/RUNTIME", text))
    return found


def test_the_folder_is_the_models_in_both_modes(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["fork"]["folder"] == seen["spawn"]["folder"] == "MODEL"
    assert seen["fork"]["file"] == seen["spawn"]["file"] == f"MODEL/{HANDLER}.py"


def test_the_environment_is_the_same_in_both_modes(seen: dict[str, dict[str, Any]]) -> None:
    mode_dependent = {
        "MME_WORKERS",
        "MME_RUNTIME_DIR",
        MARK,
        "MODEL_SERVER_HOME",
        "PATH",
        "PYTHONPATH",
        "PWD",
    }
    fork, spawn = (seen[mode]["environment"] for mode in ("fork", "spawn"))
    common = (set(fork) | set(spawn)) - mode_dependent - {name for name in fork if name.startswith("SAGEMAKER_BIND")}
    assert {name: fork.get(name) for name in common} == {name: spawn.get(name) for name in common}
    assert fork["A_SETTING"] == "é=1 \n2"
    assert fork["OMP_NUM_THREADS"] == "1"
    assert "MALLOC_ARENA_MAX" not in fork, "it is for the front end alone"


def test_modules_are_looked_for_in_the_same_places_in_both_modes(seen: dict[str, dict[str, Any]]) -> None:
    def places(mode: str) -> list[str]:
        # MMS adds its home, which differs.
        return [entry for entry in seen[mode]["path"] if entry != "SERVER/tmp/RUNTIME/home"]

    assert places("fork") == places("spawn")


def test_no_signal_is_handled_or_blocked_that_python_itself_does_not(seen: dict[str, dict[str, Any]]) -> None:
    fork, spawn = (seen[mode] for mode in ("fork", "spawn"))
    assert fork["blocked"] == []
    assert (
        "Idle._on_signal" in fork["handlers"]["SIGURG"]
    )  # to be put to sleep; the kernel ignores it without a handler
    # MMS removes files in its handler; ours are gone already.
    ours = {"SIGTERM": "", "SIGURG": ""}
    assert {**fork["handlers"], **ours} == {**spawn["handlers"], **ours}


def test_no_descriptor_of_the_zygote_or_another_model_is_open(servers: dict[str, ServerProcess]) -> None:
    server = servers["fork"]
    others = [load(server, uuid.uuid4().hex) for _ in range(3)]
    descriptors = look(server, load(server, uuid.uuid4().hex))["descriptors"]
    assert all(PRIVATE.fullmatch(target) for target in descriptors.values()), descriptors
    assert sum(target.startswith("socket:") for target in descriptors.values()) == 1
    assert len(descriptors) <= 6
    assert all(look(server, other)["pid"] for other in others)


def test_each_worker_has_random_numbers_of_its_own(servers: dict[str, ServerProcess]) -> None:
    server = servers["fork"]
    numbers = [look(server, load(server, uuid.uuid4().hex))["random"] for _ in range(3)]
    assert len({number for pair in numbers for number in pair}) == 6


def test_a_worker_has_one_thread_a_group_of_its_own_and_no_way_to_more_privileges(
    servers: dict[str, ServerProcess],
) -> None:
    server = servers["fork"]
    found = look(server, load(server, uuid.uuid4().hex))
    assert found["threads"] == 1
    assert found["group"] == found["pid"]
    assert found["no_new_privileges"]


def test_the_kernel_would_kill_a_worker_before_the_zygote_before_the_front_end(
    servers: dict[str, ServerProcess],
) -> None:
    server = servers["fork"]

    def score(pid: int) -> int:
        with open(f"/proc/{pid}/oom_score_adj") as file:  # noqa: PTH123
            return int(file.read())

    worker = look(server, load(server, uuid.uuid4().hex))["oom_score_adj"]
    assert worker > score(zygotes(server)[0].pid) > score(server.front_end().pid)


def test_two_models_with_handlers_of_the_same_name_have_each_its_own(servers: dict[str, ServerProcess]) -> None:
    server = servers["fork"]
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    load(server, first)
    folder = server.model_dir(second)
    (folder / f"{HANDLER}.py").write_text("def handle(data, context):\n    return data and ['second'] * len(data)\n")
    assert server.load(second).status_code == 200
    assert server.invoke(second, b"").text == "second"
    assert look(server, first)["file"].startswith(server.model_url(first))


def test_a_models_own_module_comes_before_one_that_was_imported_beforehand() -> None:
    # The handler of this name is ours, which the zygote has imported; so is the package that the model brings.
    with ServerProcess(MME_PRELOAD="none") as server:
        name = uuid.uuid4().hex
        folder = server.model_dir(name)
        (folder / "sagemaker_inference").mkdir()
        (folder / "sagemaker_inference" / "__init__.py").write_text("VERSION = 'the model\\'s own'\n")
        shutil.copy(models.__file__, folder / "unrelated.py")
        (folder / "own_handler.py").write_text(
            "import sagemaker_inference\n"
            "def handle(data, context):\n"
            "    return data and [sagemaker_inference.VERSION] * len(data)\n"
        )
        answer = server.load(name, handler="own_handler")
        assert answer.status_code == 200, server.log_tail()
        assert server.invoke(name, b"").text == "the model's own"


def test_a_class_based_handler_of_stock_mms_works_unchanged(servers: dict[str, ServerProcess]) -> None:
    server, name = servers["fork"], uuid.uuid4().hex
    (server.model_dir(name) / "classic.py").write_text(
        "class Classic:\n"
        "    def initialize(self, context):\n"
        "        self.folder = context.system_properties['model_dir']\n"
        "    def handle(self, data, context):\n"
        "        context.set_response_content_type(0, 'text/x-folder')\n"
        "        return [self.folder + ' ' + str(len(data[0]['body']))]\n"
    )
    assert server.load(name, handler="classic").status_code == 200, server.log_tail()
    answer = server.invoke(name, os.urandom(300_000), "application/octet-stream")
    assert (answer.status_code, answer.text) == (200, f"{server.model_url(name)} 300000")
    assert answer.headers["Content-Type"] == "text/x-folder"


@pytest.mark.ci  # preloads MXNet; what sets the numbers is tested in tests/unit/test_threads.py
def test_a_user_who_asks_for_threads_gets_them_in_forked_workers() -> None:
    with ServerProcess(SAGEMAKER_HANDLER="threads", OMP_NUM_THREADS="3") as server:
        name = uuid.uuid4().hex
        (server.model_dir(name) / "threads.py").write_text(
            "import ctypes, re\n"
            "def handle(data, context):\n"
            "    import mxnet\n"
            "    maps = open('/proc/self/maps').read()\n"
            "    paths = set(re.findall(r'/\\S*libgomp\\S*', maps))\n"
            "    return data and [[ctypes.CDLL(path).omp_get_max_threads() for path in paths]]\n"
        )
        assert server.load(name).status_code == 200, server.log_tail()
        assert set(server.invoke(name, b"").json()) == {3}
