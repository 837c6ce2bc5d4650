"""The profile of a model outside its worker: what a mapping, a thread and a descriptor are, and what is per model."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import outside_profile, worker_profile
from benchmarks.outside_profile import MemoryMapping
from tests.harness.waiting import wait_until

HEAP = (0xD9000000, 0xD9000000 + 624 * 2**20)
SMAPS = """\
d9000000-f0a00000 rw-p 00000000 00:00 0
Size:             388096 kB
Rss:                 200 kB
Pss:                 100 kB
Anonymous:           200 kB
VmFlags: rd wr mr mw me ac sd
7fbd97300000-7fbd97304000 ---p 00000000 00:00 0
Pss:                   0 kB
Anonymous:             0 kB
ffe00000-ffe75000 rw-p 00c9f000 fe:00 1234                               /usr/lib/jvm/a folder/classes.jsa
Pss:                   7 kB
Anonymous:             3 kB
THPeligible:           0
"""


def test_mappings_are_read_with_their_names_and_sizes() -> None:
    heap, guard, archive = outside_profile.parse_smaps(SMAPS)
    assert heap == MemoryMapping(0xD9000000, 0xF0A00000, "rw-p", "", 200 * 1024)
    assert (guard.permissions, guard.anonymous_bytes) == ("---p", 0)
    assert (archive.name, archive.anonymous_bytes) == ("/usr/lib/jvm/a folder/classes.jsa", 3 * 1024)
    assert list(outside_profile.parse_smaps("")) == []


def test_what_a_worker_has_alone_is_told_by_the_kind_of_its_mappings() -> None:
    smaps = """\
55d000000000-55d000100000 rw-p 00000000 00:00 0                          [heap]
Private_Clean:         4 kB
Private_Dirty:        60 kB
Anonymous:           100 kB
7f0000000000-7f0000100000 r--p 00000000 fe:00 7                          /usr/lib/libm.so.6
Private_Clean:         8 kB
Private_Dirty:         0 kB
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
Private_Dirty:        16 kB
"""
    found = worker_profile.private_by_kind(smaps)
    assert sorted(found.values()) == [8 * 1024, 16 * 1024, 64 * 1024]
    assert next(kind for kind, size in found.items() if size == 64 * 1024).startswith("heap of C")


def test_the_mappings_of_a_process_add_up_to_its_memory() -> None:
    held = bytearray(os.urandom(20_000_000))
    mappings = list(outside_profile.parse_smaps(Path("/proc/self/smaps").read_text()))
    assert sum(each.anonymous_bytes for each in mappings) > len(held)
    assert any(each.name == "[heap]" for each in mappings)


@pytest.mark.parametrize(
    ("syscall", "pointer"),
    [
        ("202 0x7fbdb7dff990 0x109 0x4f01 0x0 0x0 0xffffffff 0x7ffcdd9500c0 0x7fbdb92fff16\n", 0x7FFCDD9500C0),
        ("-1 0x7ffcdd9500c0 0x7fbdb92fff16\n", 0x7FFCDD9500C0),
        ("running\n", None),
    ],
)
def test_a_stack_pointer_is_the_last_word_but_one(syscall: str, pointer: int | None) -> None:
    assert outside_profile.parse_stack_pointer(syscall) == pointer


def test_a_thread_that_waits_has_its_stack_pointer_in_a_mapping_of_its_process() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, args=(60,))
    thread.start()
    try:
        file = Path(f"/proc/self/task/{thread.native_id}/syscall")
        pointer = wait_until(lambda: outside_profile.parse_stack_pointer(file.read_text()), "the thread waits")
        assert pointer is not None
        mappings = list(outside_profile.parse_smaps(Path("/proc/self/smaps").read_text()))
    finally:
        release.set()
        thread.join()
    assert [each.name for each in mappings if each.begin <= pointer < each.end] == [""]


def test_the_heap_is_where_the_jvm_says() -> None:
    line = "[0.003s][debug][gc,heap,coops] Heap address: 0x00000000d9000000, size: 624 MB, Compressed Oops mode: 32-bit"
    assert outside_profile.parse_heap_range(line) == HEAP
    assert outside_profile.parse_heap_range("") is None


@pytest.mark.parametrize(
    ("begin", "size_bytes", "permissions", "name", "kind"),
    [
        (0x7FBD97304000, 2**20, "rw-p", "", outside_profile.STACKS),
        (0xD9000000, 2**20, "rw-p", "", outside_profile.JAVA_HEAP),
        (0xFFE00000, 2**20, "rw-p", "/usr/lib/classes.jsa", outside_profile.JAVA_HEAP),
        (0x800000000, 2**20, "rw-p", "/usr/lib/classes.jsa", outside_profile.OTHER),
        (0x800000000, 2**16, "rw-p", "", outside_profile.OTHER),
        (0x561FDF7B7000, 2**20, "rw-p", "[heap]", outside_profile.C_HEAP),
        (0x7FBDB0000000, 5 * 2**20, "rw-p", "", outside_profile.C_HEAP),
        (0x7FBDB0000000, 80 * 2**20, "rw-p", "", outside_profile.OTHER),
        (0x7FBDA1000000, 2**20, "rwxp", "", outside_profile.CODE),
        (0x7FBDA2100000, 2**20, "rw-p", "", outside_profile.OTHER),
    ],
)
def test_a_mapping_of_the_jvm_has_one_kind(begin: int, size_bytes: int, permissions: str, name: str, kind: str) -> None:
    mapping = MemoryMapping(begin, begin + size_bytes, permissions, name, 1)
    assert outside_profile.kind_of_mapping(mapping, [0x7FBD973FE3F0], HEAP) == kind


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("W-9001-7", "a worker's own"),
        ("W-10001-1234", "a worker's own"),
        ("W-9001-7-stderr", "readers of a launcher's output"),
        ("W-9011-123-stdo", "readers of a launcher's output"),
        ("W-10001-123-std", "readers of a launcher's output"),
        ("process reaper", "process reaper"),
        ("epollEventLoopG", "connections (Netty)"),
        ("G1 Conc#0", outside_profile.OTHER_THREADS),
    ],
)
def test_threads_are_told_apart_by_their_names(name: str, group: str) -> None:
    assert outside_profile.thread_group(name) == group


def test_descriptors_are_told_apart(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    reading, writing = os.pipe()
    opened = {
        "fifo": os.open(tmp_path / "fifo", os.O_RDWR),
        "file": os.open(tmp_path / "file", os.O_RDONLY),
        "pipe": reading,
        "memory": os.memfd_create("m"),
        "device": os.open(os.devnull, os.O_RDONLY),
        "pidfd": os.pidfd_open(os.getpid()),
        "socket": socket.socket(socket.AF_UNIX).detach(),
    }
    try:
        for kind, descriptor in opened.items():
            entry = Path(f"/proc/self/fd/{descriptor}")
            assert outside_profile.kind_of_descriptor(str(entry.readlink()), entry.stat().st_mode) == kind
    finally:
        for descriptor in (*opened.values(), writing):
            os.close(descriptor)
    assert outside_profile.kind_of_descriptor("anon_inode:[eventpoll]", stat.S_IRUSR) == "eventpoll"


def test_what_a_server_takes_once_falls_out() -> None:
    few, many = Counter(base=1000, grows=600), Counter(base=1000, grows=3100, new=250)
    assert outside_profile.per_model(few, many, 250) == {"base": 0, "grows": 10, "new": 1}


def test_a_table_has_sums_and_says_what_is_not_known() -> None:
    awake = {outside_profile.LAUNCHER: 100e3, outside_profile.KEPT_ROW: 20e3, outside_profile.WORKER_ROW: 4e6}
    asleep = {outside_profile.LAUNCHER: 100e3, outside_profile.KEPT_ROW: 30e3, outside_profile.KERNEL_ROW: 40e3}
    rows = {row[0]: row[1:] for row in outside_profile.size_rows({"awake": awake, "asleep": asleep})}
    assert rows[outside_profile.LAUNCHER] == ["100", "100"]
    assert rows[outside_profile.OUTSIDE_SUM_ROW] == ["120", "130"]
    assert rows[outside_profile.WORKER_ROW] == ["4,000", "–"]
    assert rows[outside_profile.KERNEL_SUM_ROW] == ["–", "40"]
    assert rows[outside_profile.GROUP_ROW] == ["–", "–"]


def test_counts_that_do_not_grow_with_models_are_left_out() -> None:
    states = {"awake": {"JVM: pipe": 3.0, "JVM: eventpoll": 0.01}, "asleep": {"JVM: pipe": 3.004}}
    assert outside_profile.count_rows(states) == [["JVM: pipe", "3.0", "3.0"]]


def test_a_profile_needs_more_models_than_it_is_held_against(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        worker_profile.main(["--outside", "--models", str(outside_profile.FEW)])
    assert f"more than {outside_profile.FEW}" in capsys.readouterr().err
