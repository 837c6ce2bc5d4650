"""Containers with little memory: the limit is seen, loads are refused before the kernel kills, and unloading helps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.harness.docker import DockerServer, Image
from tests.harness.models import heavy_model, hungry_model, link_files
from tests.harness.obedient_handler import HANDLER, command, make_model

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


def test_a_container_sees_the_memory_that_docker_gives_it(image: Image) -> None:
    ran = image.run("python", "-c", _READ_SAMPLE, options=["--memory", "300m"])
    assert ran.returncode == 0, ran.stderr
    limit_bytes, used_bytes, source = json.loads(ran.stdout.splitlines()[-1])
    assert limit_bytes == 300 * 2**20
    assert 0 < used_bytes < 150 * 2**20
    assert source.startswith("cgroup v")


def test_a_full_container_refuses_loads_and_nothing_is_killed(image: Image, heavy: Path) -> None:
    memory = ["--memory", f"{LIMIT_MB}m", "--memory-swap", f"{LIMIT_MB}m"]
    server = DockerServer(image, options=memory, MME_MEMORY_RESERVE_MB=str(RESERVE_MB))
    with server:
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


def test_a_request_that_takes_more_than_there_is_is_answered_507_by_a_worker_that_lives_on(image: Image) -> None:
    """Without a limit on the worker itself: Linux would grant the memory, and kill when it is touched."""
    with DockerServer(image, options=["--memory", "700m", "--memory-swap", "700m"]) as server:
        hungry_model(server.model_dir("hungry"), megabytes_per_sample=40)
        heavy_model(server.model_dir("other"), weights_mb=10)
        for name in ("hungry", "other"):
            assert server.load(name).status_code == 200, server.log_tail()
        before = worker_processes(server, "hungry")
        assert len(before) == 1
        for _ in range(3):
            response = server.invoke("hungry", rows(64), content_type="application/json")
            assert response.status_code == 507, f"{response.text}\n{server.log_tail()}"
            response = server.invoke("hungry", rows(1), content_type="application/json")
            assert response.status_code == 200, f"{response.text}\n{server.log_tail()}"
            assert answers(server, "other")
        assert worker_processes(server, "hungry") == before
        assert kernel_kills(server) == 0


def test_should_the_kernel_kill_then_one_worker_whose_caller_gets_507(image: Image) -> None:
    """The handler takes memory that nobody sees coming: shared, so that no limit of the process counts it."""
    memory = ["--memory", "700m", "--memory-swap", "700m"]
    with DockerServer(image, options=memory, SAGEMAKER_HANDLER=HANDLER) as server:
        for name in ("greedy", "other"):
            make_model(server.model_dir(name))
            assert server.load(name).status_code == 200, server.log_tail()
        before, other = worker_processes(server, "greedy"), worker_processes(server, "other")
        answer = server.invoke("greedy", command("take_shared", 2000))
        assert answer.status_code == 507, f"{answer.text}\n{server.log_tail()}"
        assert kernel_kills(server) == 1
        assert server.invoke("other", command("echo", 1)).json() == 1
        assert server.invoke("greedy", command("echo", 2)).json() == 2
        assert worker_processes(server, "greedy") != before
        assert worker_processes(server, "other") == other


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
