"""Admission: the arithmetic of it, what a model needs, loads at the same time, and processes that die meanwhile."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mme.capacity.admission import COPIED_ON_WRITE_BYTES, KEPT_S, Admission
from mme.capacity.footprint import MIB, Artifact, declared_bytes, estimated_bytes, need_of, survey
from mme.capacity.memory import MemorySample
from mme.capacity.policy import decide, load_growth_bytes, request_growth_bytes, reserve_bytes
from mme.capacity.process_memory import ProcessId
from mme.capacity.reservations import Loading, Reservations, ReservationTable, new_key
from mme.capacity.rlimit import (
    RENEW_S,
    SAMPLE_NUMBERS,
    RequestLimit,
    _data_bytes,
    limit_worker,
    limited_growth,
    thread_stacks_bytes,
)
from mme.capacity.shared_numbers import SharedNumbers
from mme.errors import InsufficientMemory, ModelLoadError
from mme.frameworks import xgboost
from mme.settings import Settings
from tests.harness import models
from tests.harness.declared_memory import maker_of_models
from tests.harness.programs import run_with_mxnet
from tests.harness.waiting import wait_until

CONTAINER = Path(__file__).resolve().parents[2] / "container"
SIZES = st.integers(0, 1 << 42)


def sample_of(limit_mib: int, used_mib: float = 0) -> MemorySample:
    return MemorySample(limit_mib * MIB, int(used_mib * MIB), limit_mib * MIB, "cgroup v2 /test")


# ---- policy ----


@given(limit=SIZES, used=SIZES, promised=SIZES, need=SIZES, reserve=SIZES)
def test_what_is_admitted_leaves_the_reserve_and_what_is_missing_is_what_would_be_enough(
    limit: int, used: int, promised: int, need: int, reserve: int
) -> None:
    sample = MemorySample(limit, used, limit, "test")
    decision = decide(sample, promised_bytes=promised, need_bytes=need, reserve_bytes=reserve)
    if decision.admitted:
        assert min(used, limit) + promised + need + reserve <= limit
        assert decision.missing_bytes == 0
        return
    for freed_bytes, is_enough in ((decision.missing_bytes - 1, False), (decision.missing_bytes, True)):
        # what is over the limit does not count as free once it is below
        after = MemorySample(limit + freed_bytes, min(used, limit), limit, "test")
        again = decide(after, promised_bytes=promised, need_bytes=need, reserve_bytes=reserve)
        assert again.admitted == is_enough, f"{decision.missing_bytes} bytes are missing, {freed_bytes} were freed"


@given(limit=SIZES, reserve=st.integers(0, 1 << 38), needs=st.lists(st.integers(0, 1 << 40), max_size=30))
def test_loads_at_the_same_time_never_overshoot_together(limit: int, reserve: int, needs: list[int]) -> None:
    sample = MemorySample(limit, 0, limit, "test")
    promised = 0
    for need in needs:
        if decide(sample, promised_bytes=promised, need_bytes=need, reserve_bytes=reserve).admitted:
            promised += need
    assert promised == 0 or promised + reserve <= limit


@given(limit=SIZES, used=SIZES, promised=SIZES, reserve=SIZES)
def test_no_load_or_request_may_allocate_more_than_there_is(limit: int, used: int, promised: int, reserve: int) -> None:
    sample = MemorySample(limit, used, limit, "test")
    load = load_growth_bytes(sample, promised_bytes=promised, reserve_bytes=reserve)
    assert 0 <= load <= max(0, sample.free_bytes - promised)
    assert 0 <= request_growth_bytes(sample, reserve_bytes=reserve) <= sample.free_bytes


@pytest.mark.parametrize(("limit_mib", "expected_mib"), [(512, 256), (5120, 256), (10_240, 512), (100_000, 5000)])
def test_the_default_reserve_is_the_larger_of_256_mib_and_5_percent(limit_mib: int, expected_mib: int) -> None:
    assert reserve_bytes(Settings(), sample_of(limit_mib)) == expected_mib * MIB


def test_the_default_reserve_holds_the_bodies_that_the_front_end_may_have_at_once() -> None:
    """The heap of the JVM grows by them after the loads were admitted."""
    sample = MemorySample(8192 * MIB, 0, 8192 * MIB, "test")
    assert reserve_bytes(Settings(max_payload_mb=100), sample) == 2 * 16 * 100 * MIB
    assert reserve_bytes(Settings(max_payload_mb=100, memory_reserve_mb=300), sample) == 300 * MIB


def test_the_default_reserve_is_a_share_of_the_smallest_limit_even_where_the_machine_is_fuller() -> None:
    sample = MemorySample(1_000_000 * MIB, 999_000 * MIB, 8000 * MIB, "the machine")
    assert reserve_bytes(Settings(), sample) == 400 * MIB


def test_the_reserve_can_be_set_even_to_nothing() -> None:
    assert reserve_bytes(Settings(memory_reserve_mb=0), sample_of(100_000)) == 0


# ---- what a model needs ----


def model_of(folder: Path, **files_mib: float) -> Path:
    """A folder of sparse files; ``weights_params=3`` is weights.params of 3 MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size_mib in files_mib.items():
        with (folder / ".".join(name.rsplit("_", 1))).open("wb") as file:
            file.truncate(int(size_mib * MIB))
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "required_memory_mb=300",
        "required_memory_mb = 300  ",
        "option.required_memory_mb: 300",
        "required_memory_mb 0300",
        "#required_memory_mb=5\noption.required_memory_mb=5\nrequired_memory_mb=300",
        "engine=MXNet\r\nrequired_memory_mb=300\r\n",
        "required_memory_mb=5\nrequired_memory_mb=300",
    ],
)
def test_a_model_declares_its_need_in_serving_properties(tmp_path: Path, line: str) -> None:
    (tmp_path / "serving.properties").write_bytes(line.encode())
    assert declared_bytes(tmp_path) == 300 * MIB


@pytest.mark.parametrize("value", ["", "0", "-5", "1.5", "1e3", "300M", "abc", "٣", "9999999999", "1 2"])
def test_a_declaration_that_is_no_number_fails_the_load_and_names_it(tmp_path: Path, value: str) -> None:
    (tmp_path / "serving.properties").write_text(f"option.required_memory_mb={value}\n", encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"serving\.properties, line 1: option\.required_memory_mb="):
        declared_bytes(tmp_path)


def test_properties_that_are_a_pipe_declare_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "serving.properties")
    assert declared_bytes(tmp_path) is None


@pytest.mark.parametrize("text", ["", "engine=MXNet", "!required_memory_mb=5", "xrequired_memory_mb=5", "=5"])
def test_a_file_of_properties_need_not_declare_anything(tmp_path: Path, text: str) -> None:
    (tmp_path / "serving.properties").write_text(text)
    assert declared_bytes(tmp_path) is None
    assert declared_bytes(tmp_path / "absent") is None


def test_declared_goes_before_learnt_and_learnt_before_estimated(tmp_path: Path) -> None:
    model_dir = model_of(tmp_path / "model", model_params=10)
    artifact = survey(model_dir)
    assert need_of(model_dir, artifact, None).kind == "estimated"
    learnt = need_of(model_dir, artifact, 77 * MIB)
    assert (learnt.kind, learnt.need_bytes) == ("learnt", 77 * MIB)
    (model_dir / "serving.properties").write_text("required_memory_mb=5")
    assert str(need_of(model_dir, artifact, 77 * MIB)) == "5 MiB (declared)"


# Loads a model in a worker that was forked from a warm template, and prints what that then holds alone, in bytes.
PRIVATE_BYTES_OF_A_WORKER = """
import os
import sys
from pathlib import Path
import numpy as np
from mme.capacity.footprint import estimated_bytes, survey
from mme.frameworks.registry import adapter, data_adapter_for
from mme.settings import Settings

folder, settings = Path(sys.argv[1]), Settings.from_environment()
adapter("mxnet").warm_template(settings)
print(estimated_bytes(survey(folder)), flush=True)
pid = os.fork()
if pid == 0:
    model = data_adapter_for(folder, settings).load(folder, settings)
    spec = model.inputs[0]
    for _ in range(2):
        model.predict({spec.name: np.ones((1, *spec.sample_shape), spec.dtype)})
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    private_kb = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    print(1024 * private_kb, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("weights_mb", [1, 60])
def test_an_estimate_for_mxnet_is_enough_and_not_much_too_much(tmp_path: Path, weights_mb: int) -> None:
    models.heavy_model(tmp_path, weights_mb=weights_mb)
    single = {"OMP_NUM_THREADS": "1", "MXNET_ENGINE_TYPE": "NaiveEngine", "MXNET_SUBGRAPH_BACKEND": "NONE"}
    estimate, private = map(int, run_with_mxnet(PRIVATE_BYTES_OF_A_WORKER, tmp_path, **single).split())
    assert weights_mb * 10**6 < private <= estimate <= 2 * private + 20 * MIB


@pytest.mark.parametrize(
    "files",
    [
        {".params": 200, ".json": 3000, ".txt": 100},
        {".params": 3000, ".txt": 31_000, ".json": 5000},
        {".params": 1, ".json": 10, ".py": 4000, "": 10},
    ],
)
def test_labels_and_descriptions_make_no_model_one_of_another_framework(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, int]
) -> None:
    monkeypatch.setitem(sys.modules, "mxnet", np)
    assert 8 * MIB <= estimated_bytes(Artifact("", files)) < 9 * MIB


def test_a_model_of_nothing_but_json_is_one_that_json_describes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "xgboost", raising=False)
    growth = xgboost.GROWTH
    estimate = growth.start_mib + growth.import_mib + growth.factor
    assert estimated_bytes(Artifact("", {".json": MIB})) == int(estimate * MIB)
    assert estimated_bytes(Artifact("", {"xgboost-model": MIB})) == int(estimate * MIB)


def test_importing_the_framework_counts_where_it_is_not_imported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = Artifact("", {".params": MIB})
    monkeypatch.setitem(sys.modules, "mxnet", np)
    imported = estimated_bytes(artifact)
    monkeypatch.delitem(sys.modules, "mxnet")
    assert estimated_bytes(artifact) == imported + 110 * MIB


def test_an_empty_or_absent_folder_is_estimated_at_little_and_left_to_the_load_to_refuse(tmp_path: Path) -> None:
    assert 0 < estimated_bytes(survey(tmp_path)) < 32 * MIB
    assert survey(tmp_path).identity == survey(tmp_path / "absent").identity


def test_all_files_count_with_those_in_folders_and_behind_links_to_files(tmp_path: Path) -> None:
    outside = model_of(tmp_path / "outside", linked_params=16)
    model_dir = model_of(tmp_path / "model", a_params=1)
    model_of(model_dir / "deep/deeper", b_params=2, c_PARAMS=4)
    (model_dir / "link.params").symlink_to(outside / "linked.params")
    (model_dir / "broken.params").symlink_to(tmp_path / "nowhere")
    (model_dir / "loop").symlink_to(model_dir)
    os.mkfifo(model_dir / "pipe.params")
    assert survey(model_dir).bytes_by_suffix == {".params": 23 * MIB}


def test_an_artifact_is_the_same_under_another_name_and_another_when_a_file_changes(tmp_path: Path) -> None:
    first, second = model_of(tmp_path / "one", w_params=1), model_of(tmp_path / "two", w_params=1)
    for folder in (first, second):
        os.utime(folder / "w.params", (1_700_000_000, 1_700_000_000))
    assert survey(first) == survey(second)
    os.utime(second / "w.params", (1_700_000_000, 1_700_000_001))
    assert survey(first).identity != survey(second).identity


def test_a_folder_of_endless_files_is_looked_at_for_a_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mme.capacity.footprint.MOST_FILES", 10)
    for number in range(30):
        model_of(tmp_path, **{f"f{number}_params": 1})
    assert survey(tmp_path).total_bytes == 10 * MIB


# ---- admission ----


@dataclass
class FakeMemory:
    """Says that ``limit_mib`` is the limit and ``used_mib`` in use."""

    limit_mib: int = 1000
    used_mib: float = 0

    def read(self) -> MemorySample:
        return sample_of(self.limit_mib, self.used_mib)


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def admission(tmp_path: Path, memory: FakeMemory) -> Admission:
    runtime_dir = tmp_path / "runtime"
    runtime_dir.mkdir()
    return Admission(Settings(memory_reserve_mb=100), runtime_dir, server_pid=os.getpid(), memory=memory)


@pytest.fixture
def declaring(tmp_path: Path) -> Callable[[int], Path]:
    return maker_of_models(tmp_path)


@pytest.fixture
def idle_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_load_that_leaves_the_reserve_is_admitted_and_one_byte_more_is_not(
    admission: Admission, declaring: Callable[[int], Path]
) -> None:
    admission.admit("a", declaring(900)).release()
    with pytest.raises(InsufficientMemory):
        admission.admit("a", declaring(901))


def test_a_refusal_is_logged_and_says_all_that_it_was_decided_by(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory, caplog: pytest.LogCaptureFixture
) -> None:
    memory.used_mib = 350
    admission.admit("other", declaring(300))
    with caplog.at_level(logging.WARNING), pytest.raises(InsufficientMemory) as refusal:
        admission.admit("resnet", declaring(400))
    message = str(refusal.value)
    assert caplog.messages == [message]
    for part in (
        *("'resnet'", r"400 MiB \(declared\)", "free are 650 MiB", r"(299|300) MiB promised to 1 load"),
        *("100 MiB are reserved", "limit 1000 MiB: cgroup v2 /test", "(149|150) MiB are missing"),
    ):
        assert re.search(part, message), message
    assert refusal.value.status == 507


def test_a_part_of_a_mebibyte_that_is_missing_is_said_as_a_whole_one(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory
) -> None:
    memory.used_mib = 0.25
    with pytest.raises(InsufficientMemory, match="; 1 MiB are missing"):
        admission.admit("a", declaring(900))


def test_memory_is_short_where_the_reserve_is_used_or_loads_under_way_will_use_it(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory
) -> None:
    memory.used_mib = 900
    assert not admission.is_memory_short()
    memory.used_mib = 901
    assert admission.is_memory_short()
    memory.used_mib = 300
    reservation = admission.admit("m", declaring(600))
    memory.used_mib = 310  # by another process
    assert admission.is_memory_short()
    reservation.release()
    assert not admission.is_memory_short()


def test_loads_under_way_count_until_they_are_settled_or_released(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory
) -> None:
    first = admission.admit("first", declaring(500))
    with pytest.raises(InsufficientMemory):
        admission.admit("second", declaring(401))
    second = admission.admit("second", declaring(400))
    first.release()
    first.release()
    third = admission.admit("third", declaring(500))
    memory.used_mib = 250
    second.settle()  # took 250 rather than 400
    third.settle()
    admission.admit("fourth", declaring(650))


def test_what_a_load_has_taken_already_is_not_counted_twice(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory
) -> None:
    admission.admit("first", declaring(500))
    block = np.ones(200 * MIB, np.uint8)
    memory.used_mib = 200
    # 800 free, about 300 still promised, 100 reserved
    admission.admit("second", declaring(395)).release()
    with pytest.raises(InsufficientMemory):
        admission.admit("second", declaring(410))
    assert block[0] == 1


def test_the_real_size_is_learnt_and_counts_at_the_next_load(
    admission: Admission, tmp_path: Path, memory: FakeMemory
) -> None:
    model_dir = model_of(tmp_path / "model", w_params=1)
    reservation = admission.admit("a", model_dir)
    assert reservation.need.kind == "estimated"
    block = np.ones(150 * MIB, np.uint8)
    reservation.settle()
    again = admission.admit("b", model_dir)
    assert again.need.kind == "learnt"
    assert 150 * MIB <= again.need.need_bytes - COPIED_ON_WRITE_BYTES < 160 * MIB
    assert block[0] == 1
    memory.used_mib = 800
    with pytest.raises(InsufficientMemory, match="learnt"):
        admission.admit("c", model_dir)


def test_what_a_load_is_about_to_give_back_is_not_learnt(admission: Admission, tmp_path: Path) -> None:
    model_dir = model_of(tmp_path / "model", w_params=1)
    reservation = admission.admit("a", model_dir)
    block = np.ones(150 * MIB, np.uint8)
    reservation.unused_bytes = 100 * MIB
    reservation.settle()
    assert 50 * MIB <= reservation.taken_bytes - COPIED_ON_WRITE_BYTES < 60 * MIB
    assert admission.admit("b", model_dir).need.need_bytes == reservation.taken_bytes
    assert block[0] == 1


@pytest.mark.parametrize(("used_mib", "leaves_room"), [(499, True), (501, False)])
def test_a_load_leaves_room_where_another_one_fits_beside_it(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory, used_mib: int, leaves_room: bool
) -> None:
    memory.used_mib = used_mib
    assert admission.admit("m", declaring(200)).leaves_room is leaves_room


def test_a_load_that_took_so_much_that_the_reserve_is_broken_is_undone(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory, caplog: pytest.LogCaptureFixture
) -> None:
    reservation = admission.admit("a", declaring(100))
    memory.used_mib = 901
    with pytest.raises(InsufficientMemory) as refusal:
        reservation.settle(800 * MIB)
    assert caplog.messages == [str(refusal.value)]
    for part in ("'a'", "undone", "took 800 MiB where 100 MiB (declared)", "free are 99 MiB", "1 MiB are missing"):
        assert part in str(refusal.value)
    memory.used_mib = 0
    admission.admit("b", declaring(900))  # nothing of the one that was undone is promised any more


def test_around_a_load_memory_is_promised_and_a_failed_load_gives_it_back(
    admission: Admission, declaring: Callable[[int], Path]
) -> None:
    with pytest.raises(ModelLoadError), admission.loading("a", declaring(900)):
        with pytest.raises(InsufficientMemory):
            admission.admit("b", declaring(1))
        raise ModelLoadError("broken")
    with admission.loading("b", declaring(900)):
        pass
    admission.admit("c", declaring(900))


def test_the_promise_of_a_process_that_died_vanishes(
    admission: Admission, declaring: Callable[[int], Path], idle_process: subprocess.Popen[bytes]
) -> None:
    admission.admit("a", declaring(800)).hand_over(idle_process.pid)
    with pytest.raises(InsufficientMemory):
        admission.admit("b", declaring(800))
    idle_process.kill()
    idle_process.wait()
    admission.admit("b", declaring(800))


def test_a_promise_handed_over_to_a_process_that_is_gone_is_no_promise(
    admission: Admission, declaring: Callable[[int], Path], idle_process: subprocess.Popen[bytes]
) -> None:
    idle_process.kill()
    idle_process.wait()
    admission.admit("a", declaring(800)).hand_over(idle_process.pid)
    admission.admit("b", declaring(800))


def test_what_is_kept_for_a_model_is_kept_from_others_and_may_use_of_the_reserve(
    tmp_path: Path, memory: FakeMemory, declaring: Callable[[int], Path]
) -> None:
    admission = Admission(Settings(memory_reserve_mb=200), tmp_path, server_pid=1, memory=memory)
    memory.used_mib = 500  # of 1000
    key = admission.keep("dead", 300 * MIB)
    with pytest.raises(InsufficientMemory, match="300 MiB promised"):
        admission.admit("other", declaring(10))
    memory.used_mib = 600  # requests have taken of the reserve: 400 are free
    reservation = admission.admit("dead", declaring(300))  # leaves 100, more than the floor of 50
    with pytest.raises(InsufficientMemory):
        admission.admit("dead", declaring(60))  # a second one has no such right
    memory.used_mib = 900
    reservation.settle()  # 100 are left
    admission.forget(key)


def test_what_is_kept_stays_kept_where_even_that_is_not_enough(
    tmp_path: Path, memory: FakeMemory, declaring: Callable[[int], Path]
) -> None:
    admission = Admission(Settings(memory_reserve_mb=200), tmp_path, server_pid=1, memory=memory)
    memory.used_mib = 800
    admission.keep("dead", 150 * MIB)
    with pytest.raises(InsufficientMemory):
        admission.admit("dead", declaring(160))  # would leave 40 of the floor of 50
    memory.used_mib = 700
    admission.admit("dead", declaring(160)).settle()


def test_each_dead_worker_of_a_model_is_kept_for_once(
    tmp_path: Path, memory: FakeMemory, declaring: Callable[[int], Path]
) -> None:
    admission = Admission(Settings(memory_reserve_mb=100), tmp_path, server_pid=1, memory=memory)
    keys = [admission.keep("dead", 100 * MIB) for _ in range(2)]
    assert len(set(keys)) == 2
    with Reservations(tmp_path).open() as table:
        assert table.most_outstanding_bytes() == 200 * MIB
    admission.admit("dead", declaring(100))
    with Reservations(tmp_path).open() as table:
        assert [key for key in keys if key in table.loading] == keys[1:]
    admission.forget(keys[1])
    with Reservations(tmp_path).open() as table:
        assert len(table.loading) == 1


def test_what_a_process_that_has_died_has_kept_gives_no_right(idle_process: subprocess.Popen[bytes]) -> None:
    process = ProcessId.of(idle_process.pid)
    assert process is not None
    table = ReservationTable()
    table.keep(Loading("dead", process.pid, process.start_ticks, 100 * MIB, 0))
    idle_process.kill()
    idle_process.wait()
    assert table.take_kept("dead") == {}


def test_who_cannot_wait_for_the_table_is_told_so(tmp_path: Path) -> None:
    reservations = Reservations(tmp_path)
    with reservations.open(), pytest.raises(BlockingIOError), reservations.open(wait=False):
        pass
    with reservations.open(wait=False) as table:
        assert table.loading == {}


def test_a_load_that_runs_out_of_memory_is_logged_with_all_that_it_was_admitted_by(
    admission: Admission, declaring: Callable[[int], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(MemoryError), admission.loading("greedy", declaring(7)):
        raise MemoryError("std::bad_alloc")
    message = caplog.messages[-1]
    for part in ("'greedy'", "507", "std::bad_alloc", "7 MiB (declared)", "free are", "reserved", "limit 1000 MiB: "):
        assert part in message


def test_processes_that_load_at_the_same_time_share_what_there_is(tmp_path: Path) -> None:
    """Six processes each want 200 of 1,000 MiB, 100 of which are reserved: four get it, whatever the order."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/serving.properties").write_text("required_memory_mb=200")
    program = f"""
import os, sys
sys.path.insert(0, {str(CONTAINER)!r})
from pathlib import Path
from mme.capacity.admission import Admission
from mme.capacity.memory import MIB, MemorySample
from mme.errors import InsufficientMemory
from mme.settings import Settings
class Fixed:
    def read(self):
        return MemorySample(1000 * MIB, 0, 1000 * MIB, "test")
admission = Admission(Settings(memory_reserve_mb=100), Path({str(tmp_path)!r}), server_pid=1, memory=Fixed())
sys.stdin.readline()
try:
    admission.admit("m", Path({str(tmp_path / "model")!r}))
    print("admitted", flush=True)
except InsufficientMemory:
    print("refused", flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", program]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(6)
    ]
    try:
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        answers = [process.stdout.readline().strip() for process in processes if process.stdout]
    finally:
        for process in processes:
            process.communicate("\n", timeout=30)
    assert sorted(answers) == ["admitted"] * 4 + ["refused"] * 2


# ---- reservations ----


def test_a_table_that_was_garbled_or_of_another_make_is_begun_anew(
    admission: Admission, declaring: Callable[[int], Path], tmp_path: Path
) -> None:
    for text in ("{", '{"key": {"pid": 1}}', "[]", ""):
        (tmp_path / "runtime/loading.json").write_text(text)
        reservation = admission.admit("a", declaring(900))
        with pytest.raises(InsufficientMemory):
            admission.admit("b", declaring(1))
        reservation.release()


def test_a_table_that_cannot_be_written_stops_no_load(admission: Admission, tmp_path: Path) -> None:
    # what stands in the way of every write, even root's
    (tmp_path / f"runtime/.loading.json.{os.getpid()}").mkdir()
    (tmp_path / "runtime/learnt").unlink()
    with admission.loading("a", tmp_path):
        pass


def test_a_table_that_somebody_has_removed_is_begun_anew(tmp_path: Path) -> None:
    memory, folder = tmp_path / "shared memory", tmp_path / "memory"
    memory.mkdir()
    folder.symlink_to(memory)
    reservations = Reservations(folder)
    shutil.rmtree(memory)
    with reservations.open() as table:
        table.keep(Loading("model", os.getpid(), 1, MIB, 0))
    with reservations.open() as table:
        assert len(table.loading) == 1
    reservations.learn("abc-1", 5)
    assert reservations.learnt_bytes("abc-1") == 5


def test_the_latest_size_is_remembered_under_the_whole_identity_in_a_bounded_file(tmp_path: Path) -> None:
    reservations = Reservations(tmp_path)
    identities = [f"{number % 5:03x}-{number}" for number in range(50)]
    for size, identity in enumerate(identities):
        reservations.learn(identity, size)
        assert reservations.learnt_bytes(identity) == size
    assert [reservations.learnt_bytes(identity) for identity in identities] == [None] * 45 + [45, 46, 47, 48, 49]
    assert (tmp_path / "learnt").stat().st_size == 5 * 64
    (tmp_path / "learnt").write_text("garbled")
    assert reservations.learnt_bytes(identities[45]) is None


def test_entries_of_dead_processes_do_not_pile_up(tmp_path: Path) -> None:
    reservations = Reservations(tmp_path)
    dead = Loading("model", 2**22 - 1, 1, MIB, 0)
    for _ in range(3):
        with reservations.open() as table:
            table.loading |= {new_key(): dead for _ in range(400)}
    with reservations.open() as table:
        assert len(table.loading) <= 400


def test_many_loads_under_way_are_not_looked_at_where_there_is_enough_anyway(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.limit_mib = 1_000_000
    model_dir = declaring(1)
    for _ in range(40):
        admission.admit("m", model_dir)
    looked_at: list[int] = []

    def look_at(pid: int) -> int:
        looked_at.append(pid)
        return 0

    monkeypatch.setattr("mme.capacity.reservations.anonymous_bytes", look_at)
    admission.admit("m", model_dir).settle()
    assert looked_at == []
    memory.limit_mib = 120  # less than all of them together, with the reserve
    with pytest.raises(InsufficientMemory):
        admission.admit("m", model_dir)
    assert len(looked_at) >= 40


# ---- what is kept for the next worker ----


def keep_in_a_child(admission: Admission, model: str, size: int) -> None:
    """A process that is shot right after it has kept memory."""
    child = os.fork()
    if child == 0:
        admission.keep(model, size)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_is_kept_outlives_who_kept_it_and_goes_with_its_time(
    admission: Admission, declaring: Callable[[int], Path], memory: FakeMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_in_a_child(admission, "shot", 850 * MIB)  # of 1,000, of which 100 are reserved
    with pytest.raises(InsufficientMemory):
        admission.admit("other", declaring(60))
    admission.admit("shot", declaring(850)).release()
    keep_in_a_child(admission, "shot", 850 * MIB)
    now_s = time.monotonic()
    monkeypatch.setattr("mme.capacity.reservations.time", SimpleNamespace(monotonic=lambda: now_s + KEPT_S + 1))
    admission.admit("other", declaring(60)).release()


def test_a_worker_that_replaces_one_needs_only_leave_the_floor(
    admission: Admission, declaring: Callable[[int], Path]
) -> None:
    with pytest.raises(InsufficientMemory):
        admission.admit("m", declaring(950))
    admission.admit("m", declaring(950), replaces=True).release()  # nobody was there to keep anything
    with pytest.raises(InsufficientMemory):
        admission.admit("m", declaring(990), replaces=True)


# ---- the limit of a request ----


def in_child(do: Callable[[], object]) -> None:
    """Runs ``do`` in a forked process, whose limits are its own; fails the test if it fails there."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what this process has freed could be had without asking the kernel
            do()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def allocate(size_mib: int) -> np.ndarray:
    """Memory that the limits count; of its pages only the first is taken, which spares the machine a second."""
    block = np.empty(size_mib * MIB, np.uint8)
    block[0] = 1
    return block


def test_the_stacks_of_a_pool_of_threads_are_no_memory_of_a_load() -> None:
    def start_a_pool() -> None:
        threads = (os.cpu_count() or 1) + 2
        with limited_growth(MIB):
            done = threading.Event()
            pool = [threading.Thread(target=done.wait) for _ in range(threads)]
            for thread in pool:
                thread.start()  # RuntimeError: can't start new thread
            done.set()
            for thread in pool:
                thread.join()

    in_child(start_a_pool)


def test_inside_the_limit_an_allocation_that_is_too_large_fails_and_afterwards_it_does_not() -> None:
    def work() -> None:
        with limited_growth(100 * MIB):
            assert allocate(50)[0] == 1
            with pytest.raises(MemoryError):
                allocate(150)
            assert allocate(50)[0] == 1
        assert allocate(150)[0] == 1

    in_child(work)


def test_a_limit_that_the_load_itself_has_set_stays() -> None:
    def work() -> None:
        with limited_growth(100 * MIB):
            resource.setrlimit(resource.RLIMIT_DATA, (5000 * MIB, resource.RLIM_INFINITY))
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 5000 * MIB

    in_child(work)


def test_a_load_that_takes_more_than_there_is_gets_a_memory_error_not_a_kill(
    admission: Admission, declaring: Callable[[int], Path]
) -> None:
    """1,000 MiB are free, the floor is a quarter of the 100 that are reserved."""

    def work() -> None:
        with pytest.raises(MemoryError), admission.loading("liar", declaring(10)):
            allocate(1100)
        with admission.loading("not quite", declaring(10)):
            allocate(900)

    in_child(work)


def test_a_request_may_allocate_half_of_what_is_free_and_later_ones_as_much_as_there_is_then(
    memory: FakeMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mme.capacity.rlimit.RENEW_S", 0.0)

    def work() -> None:
        stacks_mib = thread_stacks_bytes() // MIB  # which are no memory, and so on top
        limit = RequestLimit(Settings(memory_reserve_mb=100), memory)
        limit.renew()
        with pytest.raises(MemoryError):
            allocate(500 + stacks_mib)
        assert allocate(400)[0] == 1
        memory.used_mib = 800
        limit.renew()
        with pytest.raises(MemoryError):
            allocate(100 + stacks_mib)
        memory.used_mib = 0
        limit.renew()
        assert allocate(400)[0] == 1

    in_child(work)


def test_one_worker_looks_at_what_is_free_for_all(memory: FakeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("mme.capacity.rlimit.time.monotonic", lambda: now_s)  # that of SharedNumbers, too
    looks: list[float] = []

    class Counted:
        def read(self) -> MemorySample:
            looks.append(now_s)
            return memory.read()

    def work() -> None:
        nonlocal now_s
        shared = SharedNumbers(None, SAMPLE_NUMBERS)
        first, second = (RequestLimit(Settings(memory_reserve_mb=100), Counted(), shared) for _ in range(2))
        first.renew()
        memory.used_mib = 950
        now_s += RENEW_S / 2
        second.renew()
        assert looks == [1000.0]
        assert not second.is_memory_short
        now_s += RENEW_S * 0.6  # what the second knows is as old as what the first found
        second.renew()
        assert len(looks) == 2
        assert second.is_memory_short
        first.renew()
        assert len(looks) == 2
        assert first.is_memory_short

    in_child(work)


@pytest.mark.parametrize("limit_mb", [None, 100_000])
def test_the_first_request_is_bounded_by_what_was_found_when_its_load_was_settled(
    tmp_path: Path, declaring: Callable[[int], Path], limit_mb: int | None
) -> None:
    """It was looked at a moment ago; the server's own limit is none that requests are held to."""
    admission = Admission(Settings(memory_limit_mb=limit_mb), tmp_path, server_pid=os.getpid())
    with admission.loading("m", declaring(1)) as reservation:
        pass
    assert (reservation.settled_sample is None) is (limit_mb is not None)

    def work() -> None:
        RequestLimit(Settings(), FakeMemory(1000)).renew(sample_of(700, 0))
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] < _data_bytes() + thread_stacks_bytes() + 800 * MIB

    in_child(work)


def test_the_limit_of_a_worker_holds_whatever_is_free(memory: FakeMemory) -> None:
    memory.limit_mib = 1_000_000

    def work() -> None:
        limit_worker(Settings(worker_memory_limit_mb=2000))
        RequestLimit(Settings(), memory).renew()
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2000 * MIB
        with limited_growth(1_000_000 * MIB):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2000 * MIB

    in_child(work)


def test_the_limit_of_a_worker_never_raises_another() -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1000 * MIB, 3000 * MIB))
        limit_worker(Settings(worker_memory_limit_mb=2000))
        assert resource.getrlimit(resource.RLIMIT_DATA) == (1000 * MIB, 2000 * MIB)
        limit_worker(Settings(worker_memory_limit_mb=4000))
        assert resource.getrlimit(resource.RLIMIT_DATA) == (1000 * MIB, 2000 * MIB)
        limit_worker(Settings())
        assert resource.getrlimit(resource.RLIMIT_DATA) == (1000 * MIB, 2000 * MIB)

    in_child(work)


def test_free_memory_is_looked_at_once_in_a_while_not_with_each_request() -> None:
    class Counting(FakeMemory):
        reads = 0

        def read(self) -> MemorySample:
            self.reads += 1
            return super().read()

    memory = Counting()

    def work() -> None:
        limit = RequestLimit(Settings(), memory)
        for _ in range(100):
            limit.renew()
        assert memory.reads < 50

        def looked_again() -> bool:
            limit.renew()
            return memory.reads >= 3

        wait_until(looked_again, "the limit looks again as time goes by", 5)

    in_child(work)


def test_a_killed_child_does_not_keep_the_table_locked(tmp_path: Path) -> None:
    reservations = Reservations(tmp_path)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with reservations.open():
            os.write(write_end, b"x")
            signal.pause()
        os._exit(0)
    try:
        assert os.read(read_end, 1) == b"x"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)
    with reservations.open() as table:
        assert table == ReservationTable()
