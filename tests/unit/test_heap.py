"""What a worker's C heap keeps, counted in page faults of a process of its own."""

from __future__ import annotations

from collections.abc import Callable

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


def trims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    monkeypatch.setattr(heap, "trim", lambda: made.append("trim"))
    return made


@pytest.mark.parametrize(("short", "pause_ms"), [(lambda: False, 2000), (lambda: True, 200)])
def test_the_heap_is_trimmed_once_in_each_pause(
    monkeypatch: pytest.MonkeyPatch, short: Callable[[], bool], pause_ms: int
) -> None:
    made = trims(monkeypatch)
    idle_trim = heap.IdleTrim(short)
    assert idle_trim.wait_ms() is None  # nothing has been used yet
    for _ in range(2):
        idle_trim.used()
        assert idle_trim.wait_ms() == pause_ms
        idle_trim.trim()
        assert idle_trim.wait_ms() is None  # it sleeps until the next request, and costs nothing
    assert made == ["trim"] * 2
