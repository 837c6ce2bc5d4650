"""What a worker's C heap keeps, counted in page faults of a process of its own."""

from __future__ import annotations

import pytest

from mme.zygote import heap
from tests.harness.programs import run_python

# Allocates and frees as a request does, 20 times; prints page faults per round, as it is and with the heap kept.
FAULTS_PER_ROUND = """
import ctypes
import resource
import sys
from mme.zygote import heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
sizes = [900_000, 600_000, 3_200_000, 150_000] * 3

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def run(rounds):
    before = faults()
    for _ in range(rounds):
        blocks = [libc.malloc(size) for size in sizes]
        for block, size in zip(blocks, sizes):
            ctypes.memset(block, 1, size)
        for block in reversed(blocks):
            libc.free(block)
    return (faults() - before) / rounds

def resident_kb():
    return int(open("/proc/self/statm").read().split()[1]) * 4

libc.mallopt(-3, 128 * 1024)  # glibc raises its thresholds after the first large block: not here, as not in a worker
before = run(20)
heap.keep_freed_memory()
run(2)
kept = resident_kb()
print(before, run(20), kept)
heap.trim()
print(kept - resident_kb())
"""


def test_a_request_finds_the_memory_of_the_last_one_and_a_pause_gives_it_back() -> None:
    first, given_back_kb = run_python(FAULTS_PER_ROUND).splitlines()
    before, after, _ = map(float, first.split())
    assert before > 1000
    assert after < 5
    assert int(given_back_kb) > 10_000


FAULTS_OF_BLOCKS = """
import ctypes
import resource
from mme.libc import LIBC, fault_in
from mme.zygote import heap

heap.keep_freed_memory()
fault_in(20 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(18):
    ctypes.memset(LIBC.malloc(1 << 20), 1, 1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_what_is_about_to_be_used_can_be_had_at_once() -> None:
    assert int(run_python(FAULTS_OF_BLOCKS)) < 300, "page faults: 4,600 without"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now_s = [1000.0]
    monkeypatch.setattr(heap.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(heap, "trim", lambda: None)
    return now_s


def test_a_lone_request_is_followed_by_a_trim_at_once_and_a_busy_model_by_none(clock: list[float]) -> None:
    idle_trim = heap.IdleTrim(lambda: False)
    assert idle_trim.wait_ms() is None
    idle_trim.loaded()
    assert idle_trim.wait_ms() == 1000 * heap.IDLE_AFTER_LOAD_S
    idle_trim.trim()
    assert idle_trim.wait_ms() is None
    idle_trim.used()
    assert idle_trim.wait_ms() == 0  # the first one
    idle_trim.trim()
    for _ in range(3):
        clock[0] += heap.IDLE_S / 2
        idle_trim.used()
        assert idle_trim.wait_ms() == 1000 * heap.IDLE_S
    idle_trim.trim()
    clock[0] += heap.IDLE_S * 1.1
    idle_trim.used()
    assert idle_trim.wait_ms() == 0


def test_a_pause_is_shorter_where_memory_is_short(clock: list[float]) -> None:
    idle_trim = heap.IdleTrim(lambda: True)
    idle_trim.used()
    clock[0] += 0.1
    idle_trim.used()
    assert idle_trim.wait_ms() == 1000 * heap.IDLE_UNDER_PRESSURE_S
