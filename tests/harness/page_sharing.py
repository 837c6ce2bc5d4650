"""What a process that shares its pages goes through, and one forked from it: python -m tests.harness.page_sharing NAME.

A process can share its memory once, and only while it has one thread, so each of these has one of its own. It fails by
an exception.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mme import pages

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Shelf:
    """Objects of many kinds, some of which refer to others."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.words = [f"word {number} {index}" for index in range(20)]
        self.by_word = {word: (number, index / 7) for index, word in enumerate(self.words)}
        self.array = np.arange(number, number + 200, dtype=np.float64)

    def total(self) -> float:
        return float(self.array.sum()) + sum(first + second for first, second in self.by_word.values())


def share() -> None:
    """As the zygote does it."""
    gc.collect()
    assert pages.share() > 0
    assert pages.is_shared()


def in_fork(do: Callable[[], object]) -> None:
    """Runs ``do`` in a forked process, as a worker's work is run; fails if it fails there, or crashes."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            do()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def anonymous_bytes() -> int:
    (found,) = re.findall(r"Anonymous:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found) * 1024


def busy(shelves: list[Shelf], seed: int) -> float:
    """A bit of everything that an interpreter does."""
    chance = random.Random(seed)
    total = 0.0
    for _ in range(300):
        shelf = chance.choice(shelves)
        total += shelf.total()
        copy = json.loads(json.dumps({"words": shelf.words, "number": shelf.number}))
        try:
            raise KeyError(copy["words"][chance.randrange(20)])
        except KeyError as error:
            total += len(str(error))
        total += float(np.sort(shelf.array[::-1])[chance.randrange(200)])
        shelf.words.append(f"new {seed}")
        shelf.by_word[f"new {seed}"] = (1, 1.0)
        total += shelf.words.count(f"new {seed}")
        shelf.words.pop()
        del shelf.by_word[f"new {seed}"]
        if chance.random() < 0.05:
            gc.collect()
    return total


def gives_back_what_is_as_it_was() -> None:
    shelves = [Shelf(number) for number in range(2000)]
    expected = busy(shelves, 1)
    share()

    def work() -> None:
        busy(shelves, 1)
        before = anonymous_bytes()
        dropped = pages.drop()
        assert dropped > 1_000_000
        assert anonymous_bytes() < before - dropped / 2  # looking has copied some of them again
        assert busy(shelves, 1) == expected

    for _ in range(3):
        in_fork(work)


def goes_on_working_however_often_it_gives_back() -> None:
    shelves = [Shelf(number) for number in range(500)]
    expected = [busy(shelves, seed) for seed in range(20)]
    share()

    def work() -> None:
        mine: dict[int, list[object]] = {}
        for turn in range(200):
            seed = turn % len(expected)
            assert busy(shelves, seed) == expected[seed]
            # What a worker makes itself, and keeps in what it shares, is its own.
            shelves[turn].words = [f"mine {turn}"]
            mine[turn] = [Shelf(turn), shelves[turn].words]
            pages.drop()
            assert shelves[turn].words == [f"mine {turn}"]
            shelves[turn].words = [f"word {turn} {index}" for index in range(20)]
            if turn % 7 == 0:
                mine.clear()
                gc.collect()
        assert [shelf.total() for shelf in shelves] == totals

    totals = [shelf.total() for shelf in shelves]
    for _ in range(2):
        in_fork(work)


def costs_who_shares_it_next_to_nothing() -> None:
    shelves = [Shelf(number) for number in range(2000)]
    share()
    assert anonymous_bytes() < 8_000_000  # what is shared is of the file
    assert len(shelves) == 2000


def keeps_what_differs_by_a_single_bit() -> None:
    memory = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(64):
        memory[page * PAGE : (page + 1) * PAGE] = bytes([page]) * PAGE
    share()

    def work() -> None:
        chance = random.Random(3)
        changed = {}
        for page in range(64):
            at = page * PAGE + chance.randrange(PAGE)
            memory[at] = memory[at]  # copies the page
            if page % 2:
                memory[at] ^= 1 << chance.randrange(8)
                changed[at] = memory[at]
        before = bytes(memory)
        assert pages.drop() >= 32 * PAGE
        assert bytes(memory) == before
        assert all(memory[at] == value for at, value in changed.items())

    in_fork(work)


def leaves_memory_alone_that_is_somebody_elses_by_now() -> None:
    size = 16 * PAGE
    private_anonymous, read_write = 0x22, 3
    address = _libc.mmap(None, size, read_write, private_anonymous, 2**64 - 1, 0)
    ctypes.memset(address, 77, size)
    share()

    def work() -> None:
        # The same bytes at the same place, but no longer a mapping of the file: given back it would be zeros.
        _libc.munmap(address, size)
        fixed = 0x10
        assert _libc.mmap(address, size, read_write, private_anonymous | fixed, 2**64 - 1, 0) == address
        ctypes.memset(address, 77, size)
        pages.drop()
        assert ctypes.string_at(address, size) == bytes([77]) * size

    in_fork(work)


def gives_nothing_back_while_there_are_threads() -> None:
    shelves = [Shelf(number) for number in range(200)]
    share()

    def work() -> None:
        busy(shelves, 1)
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        thread.start()
        assert pages.drop() == 0
        end.set()
        thread.join()
        deadline_s = time.monotonic() + 10
        while not pages.drop():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    in_fork(work)


def is_not_shared_by_a_process_of_several_threads() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    with pytest.raises(OSError, match="busy"):
        pages.share()
    assert not pages.is_shared()
    assert pages.drop() == 0
    end.set()
    thread.join()


def cannot_be_written_to_by_who_shares_it() -> None:
    share()

    def work() -> None:
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if "mme-pages" in line]
        assert {line.split()[1] for line in lines} <= {"rw-p", "r--p"}  # private, all of them
        open_now = [Path("/proc/self/fd", each) for each in os.listdir("/proc/self/fd")]  # noqa: PTH208
        links = [str(each.readlink()) for each in open_now if each.is_symlink()]
        assert not [link for link in links if "mme-pages" in link]

    in_fork(work)


def lets_shared_objects_live_whoever_lets_go_of_them() -> None:
    shelf = [object() for _ in range(1000)]
    addresses = [id(each) for each in shelf]
    share()

    def work() -> None:
        shelf.clear()
        assert all(ctypes.c_int64.from_address(address).value > 1 << 39 for address in addresses)
        pages.drop()
        fresh = [object() for _ in range(5000)]
        assert not {id(each) for each in fresh} & set(addresses)

    in_fork(work)


def specialises_code_that_runs_for_the_first_time_in_a_fork() -> None:
    namespace: dict[str, Callable[[list[int]], int]] = {}
    exec(
        "def add_up(numbers):\n    total = 0\n    for each in numbers:\n        total += each\n    return total",
        namespace,
    )
    share()

    def work() -> None:
        add_up = namespace["add_up"]
        for turn in range(200):
            assert add_up(list(range(turn))) == turn * (turn - 1) // 2
            if turn % 3 == 0:
                pages.drop()

    in_fork(work)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
