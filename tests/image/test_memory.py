"""Containers with little memory: the limit is seen, loads are refused before the kernel kills, and unloading helps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.docker import DockerServer, Image
from tests.harness.models import heavy_model, hungry_model, link_files
from tests.harness.scripted_handler import HANDLER, command, make_model

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1300)]

LIMIT_MB = 1024
RESERVE_MB = 128
WEIGHTS_MB = 100

_READ_SAMPLE = """
import json
from mme.capacity.memory import KernelMemory
sample = KernelMemory().read()
print(json.dumps([sample.limit_bytes, sample.used_bytes, sample.source]))
"""
# The kernel's own count of what it killed in this container: cgroup v1, then v2.
_COUNT_KILLS = (
    "cat /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null || cat /sys/fs/cgroup/memory.events 2>/dev/null"
)


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heavy_model(tmp_path_factory.mktemp("heavy"), weights_mb=WEIGHTS_MB)


def test_a_full_container_refuses_loads_and_nothing_is_killed(image: Image, heavy: Path) -> None:
    memory = ["--memory", f"{LIMIT_MB}m", "--memory-swap", f"{LIMIT_MB}m"]
    server = DockerServer(image, options=memory, MME_MEMORY_RESERVE_MB=str(RESERVE_MB), MME_OVERCOMMIT="off")
    with server:
        limit_bytes, used_bytes, source = json.loads(server.execute("python", "-c", _READ_SAMPLE).splitlines()[-1])
        assert limit_bytes == LIMIT_MB * 2**20
        assert 0 < used_bytes < limit_bytes
        assert source.startswith("cgroup v")
        loaded: list[str] = []
        for number in range(LIMIT_MB // WEIGHTS_MB):
            name = f"heavy-{number}"
            link_files(heavy, server.model_dir(name))
            status = server.load(name).status_code
            if status == 507:
                break
            assert status == 200, server.log_tail()
            loaded.append(name)
        else:
            pytest.fail(f"{len(loaded)} models of {WEIGHTS_MB} MiB are loaded within {LIMIT_MB} MiB")
        assert len(loaded) >= 3
        assert all(answers(server, each) for each in loaded)
        # again and again, so that the artifacts are in the page cache, which must not count
        for _ in range(3):
            victim = loaded.pop(0)
            assert server.unload(victim).status_code == 200
            assert server.load(name).status_code == 200, server.log_tail()
            assert answers(server, name)
            loaded.append(name)
            name = victim
        assert kernel_kills(server) == 0
        assert server.state()["OOMKilled"] is False


@pytest.fixture(scope="module")
def small(image: Image) -> Iterator[DockerServer]:
    """A container with 700 MiB and no limit on the worker itself: Linux grants memory, and kills when it is touched."""
    with DockerServer(image, options=["--memory", "700m", "--memory-swap", "700m"]) as server:
        yield server


def test_a_request_that_takes_more_than_there_is_is_answered_507_by_a_worker_that_lives_on(small: DockerServer) -> None:
    hungry_model(small.model_dir("hungry"), megabytes_per_sample=40)
    heavy_model(small.model_dir("other"), weights_mb=10)
    for name in ("hungry", "other"):
        assert small.load(name).status_code == 200, small.log_tail()
    before = worker_processes(small, "hungry")
    assert len(before) == 1
    for _ in range(3):
        response = small.invoke("hungry", rows(64), content_type="application/json")
        assert response.status_code == 507, f"{response.text}\n{small.log_tail()}"
        response = small.invoke("hungry", rows(1), content_type="application/json")
        assert response.status_code == 200, f"{response.text}\n{small.log_tail()}"
        assert answers(small, "other")
    assert worker_processes(small, "hungry") == before
    assert kernel_kills(small) == 0


def test_should_the_kernel_kill_then_one_worker_whose_caller_gets_507(small: DockerServer) -> None:
    """The handler takes memory that nobody sees coming: shared, so that no limit of the process counts it."""
    for name in ("greedy", "modest"):
        make_model(small.model_dir(name))
        assert small.load(name, handler=HANDLER).status_code == 200, small.log_tail()
    before, modest = worker_processes(small, "greedy"), worker_processes(small, "modest")
    killed = kernel_kills(small)
    answer = small.invoke("greedy", command("take_shared", 2000))
    assert answer.status_code == 507, f"{answer.text}\n{small.log_tail()}"
    assert kernel_kills(small) == killed + 1
    assert small.invoke("modest", command("echo", 1)).json() == 1
    assert small.invoke("greedy", command("echo", 2)).json() == 2
    assert worker_processes(small, "greedy") != before
    assert worker_processes(small, "modest") == modest


def rows(count: int) -> bytes:
    return json.dumps([[0.0, 1.0, 2.0, 3.0]] * count).encode()


def worker_processes(server: DockerServer, name: str) -> list[str]:
    """The numbers of the model's worker processes, which are named after it."""
    script = f"grep -l -x 'mme {name}' /proc/[0-9]*/comm"
    return sorted(server.execute("sh", "-c", script).split())


def answers(server: DockerServer, name: str) -> bool:
    response = server.invoke(name, json.dumps([[1.0] * 1024]).encode(), content_type="application/json")
    return response.status_code == 200 and response.json()["predictions"][0][0] > 0


def kernel_kills(server: DockerServer) -> int:
    found = re.search(r"^oom_kill (\d+)$", server.execute("sh", "-c", _COUNT_KILLS), re.MULTILINE)
    assert found, "the kernel's count of kills is not there"
    return int(found[1])
