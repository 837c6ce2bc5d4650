"""Loads against a real server with little memory: refused before the model is read, and admitted after unloading."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from mme.runtime_dir import in_memory
from tests.harness.models import heavy_model, link_files, tiny_mlp
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until

RESERVE_MB = 100
WEIGHTS_MB = 100
# What the server takes by itself (JVM, zygote, supervisor) is about 300 MiB; a heavy model takes about 110.
LIMIT_MB = 1000


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return heavy_model(tmp_path_factory.mktemp("heavy"), weights_mb=WEIGHTS_MB)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ServerProcess]:
    """One server for all tests of this file."""
    with ServerProcess(
        MME_OVERCOMMIT="off", MME_MEMORY_LIMIT_MB=str(LIMIT_MB), MME_MEMORY_RESERVE_MB=str(RESERVE_MB)
    ) as running:
        yield running


@pytest.fixture
def server(shared_server: ServerProcess) -> Iterator[ServerProcess]:
    """The server without a model, before the test and after it."""
    yield shared_server
    for name in listed(shared_server):
        assert shared_server.unload(name).status_code == 200


def listed(server: ServerProcess) -> set[str]:
    return {model["modelName"] for model in server.list_models().json()["models"]}


def place(server: ServerProcess, model: Path) -> str:
    """Puts ``model`` where the platform would, under a new name."""
    name = f"heavy-{uuid.uuid4().hex}"
    link_files(model, server.model_dir(name))
    return name


def load_until_full(server: ServerProcess, heavy: Path) -> tuple[list[str], str]:
    """Loads heavy models until one is answered 507; returns the names of those that are loaded, and that one's."""
    loaded: list[str] = []
    for _ in range(LIMIT_MB // WEIGHTS_MB):
        name = place(server, heavy)
        status = server.load(name).status_code
        if status == 507:
            return loaded, name
        assert status == 200, server.log_tail()
        loaded.append(name)
    raise AssertionError(f"{len(loaded)} models of {WEIGHTS_MB} MiB are loaded within {LIMIT_MB} MiB")


def answers(server: ServerProcess, name: str) -> bool:
    response = server.invoke(name, json.dumps([[1.0] * 1024]).encode(), content_type="application/json")
    return response.status_code == 200 and response.json()["predictions"][0][0] > 0


def used_mib(server: ServerProcess) -> float:
    return sum(process.memory_full_info().pss for process in server.processes()) / 2**20


def refusals(server: ServerProcess, name: str) -> list[str]:
    return re.findall(rf"model '{name}' is refused: .*", server.log())


def test_a_full_server_answers_507_keeps_its_reserve_and_takes_the_model_after_unloading(
    server: ServerProcess, heavy: Path
) -> None:
    loaded, refused = load_until_full(server, heavy)
    assert len(loaded) >= 3
    assert LIMIT_MB - used_mib(server) >= RESERVE_MB
    wait_until(lambda: refusals(server, refused), "the refusal is logged, with all that it was decided by")
    message = refusals(server, refused)[0]
    for part in ("(learnt)", "free are", f"{RESERVE_MB} MiB are reserved", "MME_MEMORY_LIMIT_MB"):
        assert part in message, message
    again = server.load(refused)
    assert again.status_code == 507, "a second try is no conflict"
    for part in (repr(refused), "(learnt)", f"{RESERVE_MB} MiB are reserved", "are missing. Unload other models"):
        assert part in again.json()["message"], again.text
    assert all(answers(server, name) for name in loaded)
    # One model's memory may be less than what is expected of another, which has a margin; two models' is not.
    for name in loaded[:2]:
        assert server.unload(name).status_code == 200
        if (status := server.load(refused).status_code) != 507:
            break
    assert status == 200, server.log_tail()
    assert answers(server, refused)


def test_a_model_that_declares_more_than_there_is_is_refused_before_it_is_read(server: ServerProcess) -> None:
    folder = tiny_mlp(server.model_dir("modest"))
    (folder / "serving.properties").write_text(f"option.required_memory_mb={LIMIT_MB}\n")
    for broken in folder.glob("*.params"):
        broken.write_bytes(b"broken: reading it would be answered 500")
    refused = server.load("modest")
    assert refused.status_code == 507
    for part in (f"it needs {LIMIT_MB} MiB (declared)", "Unload other models, use a larger instance"):
        assert part in refused.json()["message"], refused.text
    wait_until(lambda: "(declared)" in "".join(refusals(server, "modest")), "the refusal is logged")


def test_a_declaration_that_is_no_number_fails_the_load_and_not_for_memory(server: ServerProcess) -> None:
    folder = tiny_mlp(server.model_dir("model"))
    (folder / "serving.properties").write_text("required_memory_mb=plenty\n")
    assert server.load("model").status_code == 500
    wait_until(lambda: "required_memory_mb=plenty is not allowed" in server.log(), "the reason is logged")
    (folder / "serving.properties").write_text("required_memory_mb=20\n")
    assert server.load("model").status_code == 200


def test_a_model_that_takes_more_than_it_declares_is_undone(server: ServerProcess, heavy: Path) -> None:
    loaded, _ = load_until_full(server, heavy)
    before_mib = used_mib(server)
    # More than what the refused one was expected to take, which is 16 MiB more than it would have.
    folder = heavy_model(server.model_dir("liar"), weights_mb=WEIGHTS_MB + 20)
    (folder / "serving.properties").write_text("required_memory_mb=1\n")
    assert server.load("liar").status_code == 507, server.log_tail()
    assert all(answers(server, name) for name in loaded)
    wait_until(lambda: used_mib(server) < before_mib + 30, "what it took is given back")
    assert "liar" not in listed(server)


def test_loads_at_the_same_time_do_not_overshoot_together(server: ServerProcess, heavy: Path) -> None:
    names = [place(server, heavy) for _ in range(10)]
    with ThreadPoolExecutor(len(names)) as pool:
        statuses = list(pool.map(lambda name: server.load(name).status_code, names))
    assert set(statuses) == {200, 507}, statuses
    assert LIMIT_MB - used_mib(server) >= RESERVE_MB
    loaded = [name for name, status in zip(names, statuses, strict=True) if status == 200]
    assert loaded
    assert all(answers(server, name) for name in loaded)
    assert listed(server) == set(loaded)


def test_what_is_unloaded_can_be_had_at_once(server: ServerProcess, heavy: Path) -> None:
    """By a model that needs 10 MiB less: one alike is expected to need more than each takes, which has a margin."""
    loaded, _ = load_until_full(server, heavy)
    smaller = heavy_model(server.folder / "smaller", weights_mb=WEIGHTS_MB - 20)
    (smaller / "serving.properties").write_text(f"required_memory_mb={WEIGHTS_MB - 10}\n")
    for victim in loaded[:3]:
        assert server.unload(victim).status_code == 200
        name = place(server, smaller)
        assert server.load(name).status_code == 200, server.log_tail()
        loaded = [*loaded[1:], name]
    assert psutil.pid_exists(server.front_end().pid)
    assert all(answers(server, name) for name in loaded)


def test_what_a_load_writes_is_not_on_the_disk(server: ServerProcess, heavy: Path) -> None:
    """A disk that is busy, as one is that models are being downloaded to, would hold up each load."""
    before = written(server.runtime_dir)
    assert server.load(place(server, heavy)).status_code == 200
    assert written(server.runtime_dir) == before
    assert {path.name for path in written(in_memory(server.runtime_dir))} >= {"loading.json", "learnt"}


def written(folder: Path) -> dict[Path, int]:
    """The files below ``folder`` that have something in them, and when they were written."""
    about = {path: path.lstat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    return {path: each.st_mtime_ns for path, each in about.items() if each.st_size}
