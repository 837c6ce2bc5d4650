"""What memory there is, read from trees of files as kernels show them, and from this machine's own."""

from __future__ import annotations

import json
import mmap
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mme.capacity.memory import MIB, KernelMemory, SystemMemory
from mme.capacity.process_memory import ProcessId, ProcessTree, parent_of
from mme.settings import Settings
from mme.zygote.launcher import forget_closed_descriptors
from tests.harness.waiting import wait_until

UNLIMITED_V1 = 9223372036854771712  # PAGE_COUNTER_MAX, as memory.limit_in_bytes shows it


class FakeSystem:
    """A /proc and a /sys below ``root``: a machine of 16,000 MiB of which 12,000 are available, and no cgroup yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)
        self.machine(total_mib=16_000, available_mib=12_000)
        self.cgroup_lines: list[str] = []
        self.mount_lines = ["27 1 254:0 / / rw,relatime - ext4 /dev/vda rw"]

    def machine(self, *, total_mib: int, available_mib: int) -> None:
        self.write("proc/meminfo", f"MemTotal: {total_mib * 1024} kB\nMemFree: 1024 kB\nMemAvailable: "
                   f"{available_mib * 1024} kB\nSwapTotal: 99999999 kB\nSwapFree: 99999999 kB\n")  # fmt: skip

    def v2(self, path: str, *, mounted_root: str = "/", point: str = "/sys/fs/cgroup") -> None:
        self.cgroup_lines.append(f"0::{path}")
        self.mount_lines.append(
            f"41 31 0:38 {mounted_root} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
        )

    def v1(self, path: str, *, mounted_root: str = "/", point: str = "/sys/fs/cgroup/memory") -> None:
        self.cgroup_lines += [f"4:memory:{path}", f"9:name=systemd:{path}"]
        self.mount_lines += [
            f"35 31 0:32 {mounted_root} {point} rw,relatime - cgroup cgroup rw,memory",
            f"34 31 0:31 {mounted_root} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu",
        ]

    def v2_level(
        self,
        folder: str,
        *,
        limit: str,
        used_mib: int,
        high: str = "max",
        inactive: int = 0,
        active: int = 0,
        mapped: int = 0,
        slab_reclaimable: int = 0,
        slab_unreclaimable: int = 0,
    ) -> None:
        self.write(f"{folder}/memory.max", limit + "\n")
        self.write(f"{folder}/memory.high", high + "\n")
        self.write(f"{folder}/memory.current", f"{used_mib * MIB}\n")
        self.write(
            f"{folder}/memory.stat",
            f"anon 1\nfile 2\nfile_mapped {mapped * MIB}\ninactive_file {inactive * MIB}\nactive_file {active * MIB}\n"
            f"slab_reclaimable {slab_reclaimable * MIB}\nslab_unreclaimable {slab_unreclaimable * MIB}\n",
        )

    def v1_level(
        self,
        folder: str,
        *,
        limit: int,
        used_mib: int,
        inactive: int = 0,
        active: int = 0,
        mapped: int = 0,
        hierarchical_limit: int | None = None,
        totals: bool = True,
    ) -> None:
        prefix = "total_" if totals else ""
        self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{used_mib * MIB}\n")
        self.write(
            f"{folder}/memory.stat",
            # what the level holds itself, without those below, is nothing here
            ("inactive_file 0\nactive_file 0\nmapped_file 0\n" if totals else "")
            + f"hierarchical_memory_limit {limit if hierarchical_limit is None else hierarchical_limit}\n"
            + f"{prefix}inactive_file {inactive * MIB}\n{prefix}active_file {active * MIB}\n"
            + f"{prefix}mapped_file {mapped * MIB}\n",
        )

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def memory(self, settings: Settings | None = None, server_pid: int = 0) -> SystemMemory:
        self.write("proc/self/cgroup", "".join(line + "\n" for line in self.cgroup_lines))
        self.write("proc/self/mountinfo", "".join(line + "\n" for line in self.mount_lines))
        return SystemMemory(settings or Settings(), self.root, server_pid=server_pid, root=self.root)


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def mib(text: int) -> str:
    return str(text * MIB)


# ---- the machine ----


def test_without_a_cgroup_the_machine_is_the_limit_and_swap_does_not_count(system: FakeSystem) -> None:
    sample = system.memory().read()
    assert sample.free_bytes == 12_000 * MIB
    assert sample.limit_bytes == sample.smallest_limit_bytes == 16_000 * MIB
    assert "/proc/meminfo" in sample.source


def test_the_machine_counts_where_it_has_less_free_than_the_cgroup(system: FakeSystem) -> None:
    system.machine(total_mib=16_000, available_mib=100)
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(2000), used_mib=500)
    sample = system.memory().read()
    assert sample.free_bytes == 100 * MIB
    assert sample.limit_bytes == 16_000 * MIB
    assert sample.smallest_limit_bytes == 2000 * MIB


def test_an_old_kernel_without_an_estimate_of_available_memory_is_taken_by_its_free_memory(system: FakeSystem) -> None:
    system.write("proc/meminfo", "MemTotal: 2048000 kB\nMemFree: 1024000 kB\nCached: 500000 kB\n")
    assert system.memory().read().free_bytes == 1000 * MIB


def test_nothing_to_read_is_an_error_not_endless_memory(system: FakeSystem) -> None:
    (system.root / "proc/meminfo").unlink()
    memory = system.memory()
    with pytest.raises(OSError, match="no memory limit"):
        memory.read()


# ---- cgroup v2 ----


def test_v2_in_a_container_sees_its_own_limit_at_the_root_of_its_namespace(system: FakeSystem) -> None:
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(2000), used_mib=500)
    sample = system.memory().read()
    assert (sample.limit_bytes, sample.used_bytes) == (2000 * MIB, 500 * MIB)
    assert sample.source == "cgroup v2 /"


def test_v2_page_cache_counts_as_free_but_for_what_is_mapped(system: FakeSystem) -> None:
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(2000), used_mib=1500, inactive=600, active=400, mapped=50)
    assert system.memory().read().used_bytes == (1500 - 600 - 400 + 50) * MIB


def test_v2_what_the_kernel_remembers_of_files_counts_as_free_where_it_can_forget_it(system: FakeSystem) -> None:
    """Thousands of unpacked artifacts leave names and inodes behind that no unloading frees, but the kernel does."""
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(2000), used_mib=1500, slab_reclaimable=300, slab_unreclaimable=100)
    assert system.memory().read().used_bytes == (1500 - 300) * MIB


def test_v1_what_the_kernel_keeps_for_processes_is_used(system: FakeSystem) -> None:
    system.v1("/")
    system.v1_level("sys/fs/cgroup/memory", limit=2000 * MIB, used_mib=1500)
    system.write("sys/fs/cgroup/memory/memory.kmem.usage_in_bytes", f"{600 * MIB}\n")
    assert system.memory().read().free_bytes == 500 * MIB


def test_v2_the_tightest_of_nested_levels_counts(system: FakeSystem) -> None:
    system.v2("/pod/container")
    system.v2_level("sys/fs/cgroup/pod/container", limit=mib(3000), used_mib=100)
    system.v2_level("sys/fs/cgroup/pod", limit=mib(4000), used_mib=3500)
    sample = system.memory().read()
    assert sample.source == "cgroup v2 /pod"
    assert sample.free_bytes == 500 * MIB
    assert sample.smallest_limit_bytes == 3000 * MIB


def test_v2_levels_without_a_limit_do_not_count(system: FakeSystem) -> None:
    system.v2("/pod/container")
    system.v2_level("sys/fs/cgroup/pod/container", limit="max", used_mib=11_000)
    system.v2_level("sys/fs/cgroup/pod", limit=mib(13_000), used_mib=11_500)
    assert system.memory().read().source == "cgroup v2 /pod"


def test_v2_the_level_above_which_all_is_throttled_is_a_limit(system: FakeSystem) -> None:
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(2000), high=mib(1000), used_mib=600)
    assert system.memory().read().free_bytes == 400 * MIB


def test_v2_where_the_root_cgroup_has_no_such_files_the_machine_counts(system: FakeSystem) -> None:
    system.v2("/")
    (system.root / "sys/fs/cgroup").mkdir(parents=True)
    assert "machine" in system.memory().read().source


def test_v2_a_path_from_outside_the_namespace_is_taken_as_the_mount_itself(system: FakeSystem) -> None:
    system.v2("/../other")
    system.v2_level("sys/fs/cgroup", limit=mib(1000), used_mib=300)
    assert system.memory().read().free_bytes == 700 * MIB


def test_v2_usage_beyond_the_limit_leaves_nothing_free(system: FakeSystem) -> None:
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(1000), used_mib=1100)
    assert system.memory().read().free_bytes == 0


def test_v2_a_limit_that_is_changed_while_we_run_is_seen(system: FakeSystem) -> None:
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(1000), used_mib=300)
    memory = system.memory()
    assert memory.read().free_bytes == 700 * MIB
    system.v2_level("sys/fs/cgroup", limit=mib(2000), used_mib=300)
    assert memory.read().free_bytes == 1700 * MIB


def test_v2_without_statistics_nothing_is_taken_for_page_cache(system: FakeSystem) -> None:
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(1000), used_mib=300)
    (system.root / "sys/fs/cgroup/memory.stat").unlink()
    assert system.memory().read().used_bytes == 300 * MIB


def test_v2_a_mount_point_with_a_blank_in_its_name_is_found(system: FakeSystem) -> None:
    system.v2("/", point=r"/mnt/my\040cgroups")
    system.v2_level("mnt/my cgroups", limit=mib(1000), used_mib=300)
    assert system.memory().read().free_bytes == 700 * MIB


# ---- cgroup v1 ----


def test_v1_in_a_container_sees_its_own_part_of_the_hierarchy(system: FakeSystem) -> None:
    """/proc/self/cgroup has the path outside; the mount shows that very folder as its root."""
    system.v1("/docker/abc", mounted_root="/docker/abc")
    system.v1_level("sys/fs/cgroup/memory", limit=2000 * MIB, used_mib=900, inactive=300, active=200, mapped=20)
    sample = system.memory().read()
    assert (sample.limit_bytes, sample.used_bytes) == (2000 * MIB, (900 - 300 - 200 + 20) * MIB)
    assert sample.source == "cgroup v1 /"


def test_v1_the_huge_number_that_means_no_limit_is_none(system: FakeSystem) -> None:
    system.v1("/docker/abc", mounted_root="/docker/abc")
    system.v1_level("sys/fs/cgroup/memory", limit=UNLIMITED_V1, used_mib=900)
    sample = system.memory().read()
    assert "machine" in sample.source
    assert sample.smallest_limit_bytes == 16_000 * MIB


def test_v1_the_tightest_of_nested_levels_counts(system: FakeSystem) -> None:
    system.v1("/a/b/c")
    system.v1_level("sys/fs/cgroup/memory/a/b/c", limit=UNLIMITED_V1, used_mib=10, hierarchical_limit=1000 * MIB)
    system.v1_level("sys/fs/cgroup/memory/a/b", limit=1000 * MIB, used_mib=800)
    system.v1_level("sys/fs/cgroup/memory/a", limit=4000 * MIB, used_mib=3900)
    system.v1_level("sys/fs/cgroup/memory", limit=UNLIMITED_V1, used_mib=9000)
    sample = system.memory().read()
    assert sample.source == "cgroup v1 /a"
    assert sample.free_bytes == 100 * MIB


def test_v1_a_limit_of_a_level_that_is_not_visible_counts(system: FakeSystem) -> None:
    system.v1("/docker/abc", mounted_root="/docker/abc")
    system.v1_level("sys/fs/cgroup/memory", limit=UNLIMITED_V1, used_mib=300, hierarchical_limit=1000 * MIB)
    assert system.memory().read().free_bytes == 700 * MIB


def test_v1_without_hierarchical_statistics_the_plain_ones_count(system: FakeSystem) -> None:
    system.v1("/")
    system.v1_level("sys/fs/cgroup/memory", limit=1000 * MIB, used_mib=500, inactive=100, totals=False)
    assert system.memory().read().used_bytes == 400 * MIB


def test_v1_a_cgroup_that_is_not_under_the_mount_is_taken_as_the_mount_itself(system: FakeSystem) -> None:
    system.v1("/kubepods/pod1/abc")
    system.v1_level("sys/fs/cgroup/memory", limit=1000 * MIB, used_mib=500)
    assert system.memory().read().free_bytes == 500 * MIB


# ---- both at once ----


@pytest.mark.parametrize(("v1_used", "v2_used", "source"), [(900, 100, "cgroup v1 /"), (100, 900, "cgroup v2 /svc")])
def test_of_both_hierarchies_the_tightest_counts(system: FakeSystem, v1_used: int, v2_used: int, source: str) -> None:
    system.v1("/")
    system.v2("/svc", point="/sys/fs/cgroup/unified")
    system.v1_level("sys/fs/cgroup/memory", limit=1000 * MIB, used_mib=v1_used)
    system.v2_level("sys/fs/cgroup/unified/svc", limit=mib(1000), used_mib=v2_used)
    sample = system.memory().read()
    assert (sample.source, sample.free_bytes) == (source, 100 * MIB)


def test_a_unified_hierarchy_without_the_memory_controller_does_not_hide_v1(system: FakeSystem) -> None:
    system.v1("/")
    system.v2("/", point="/sys/fs/cgroup/unified")
    system.v1_level("sys/fs/cgroup/memory", limit=1000 * MIB, used_mib=400)
    (system.root / "sys/fs/cgroup/unified").mkdir(parents=True)
    assert system.memory().read().free_bytes == 600 * MIB


# ---- MME_MEMORY_LIMIT_MB ----


def fake_process(
    system: FakeSystem,
    pid: int,
    parent: int,
    *,
    private_mib: int,
    shared_mib: int = 0,
    name: str = "p",
    program: int = 0,
    faults: int = 0,
    start_ticks: int = 1000,
) -> None:
    """``program`` is that of the process that it was forked from, or one of its own."""
    resident_pages = (private_mib + shared_mib) * 256
    numbers = [parent, *[0] * 5, faults, 0, 0, *[0] * 9, start_ticks, 0, resident_pages, 0, program, 0, program, 0]
    system.write(f"proc/{pid}/stat", f"{pid} ({name}) S {' '.join(map(str, numbers))}\n")
    private, shared = (f"{kind}_Clean: 0 kB\n{kind}_Dirty: {{}} kB\n" for kind in ("Private", "Shared"))
    system.write(
        f"proc/{pid}/smaps_rollup",
        "00400000-7ff rw-p\n" + private.format(private_mib * 1024) + shared.format(shared_mib * 1024),
    )


def test_the_setting_limits_the_server_and_counts_its_own_processes_alone(system: FakeSystem) -> None:
    fake_process(system, 1, 0, private_mib=5000)
    fake_process(system, 10, 1, private_mib=100, shared_mib=7)
    fake_process(system, 11, 10, private_mib=30, name="a (b) c) S 1")
    fake_process(system, 12, 11, private_mib=20)
    sample = system.memory(Settings(memory_limit_mb=1000), server_pid=10).read()
    assert (sample.limit_bytes, sample.used_bytes) == (1000 * MIB, 150 * MIB)
    assert sample.source == "MME_MEMORY_LIMIT_MB"


def test_the_setting_cannot_allow_more_than_there_is(system: FakeSystem) -> None:
    system.v2("/")
    system.v2_level("sys/fs/cgroup", limit=mib(1000), used_mib=300)
    sample = system.memory(Settings(memory_limit_mb=8000), server_pid=10).read()
    assert (sample.free_bytes, sample.source) == (700 * MIB, "cgroup v2 /")


def test_a_process_is_looked_at_again_when_it_has_touched_pages_or_its_number_is_anothers(system: FakeSystem) -> None:
    fake_process(system, 10, 1, private_mib=100)
    tree = ProcessTree(10, proc=system.root / "proc")
    assert tree.used_bytes() == 100 * MIB
    fake_process(system, 10, 1, private_mib=100, shared_mib=0, faults=16)
    (system.root / "proc/10/smaps_rollup").write_text("x\nPrivate_Dirty: 1024 kB\n")
    assert tree.used_bytes() == 100 * MIB + 16 * 4096  # not looked at, but no less than it can have taken
    fake_process(system, 10, 1, private_mib=160, faults=1000)
    assert tree.used_bytes() == 160 * MIB
    fake_process(system, 10, 1, private_mib=40, faults=1000)  # given back
    assert tree.used_bytes() == 40 * MIB
    fake_process(system, 10, 1, private_mib=40, faults=1000, start_ticks=7)
    (system.root / "proc/10/smaps_rollup").write_text("x\nPrivate_Dirty: 1024 kB\n")
    assert tree.used_bytes() == 1 * MIB


def test_what_one_process_has_looked_at_another_need_not(system: FakeSystem) -> None:
    fake_process(system, 10, 1, private_mib=100)
    cache = system.root / "processes.json"
    assert ProcessTree(10, cache_file=cache, proc=system.root / "proc").used_bytes() == 100 * MIB
    (system.root / "proc/10/smaps_rollup").write_text("x\nPrivate_Dirty: 1024 kB\n")
    assert ProcessTree(10, cache_file=cache, proc=system.root / "proc").used_bytes() == 100 * MIB
    cache.write_text('{"10": [')
    assert ProcessTree(10, cache_file=cache, proc=system.root / "proc").used_bytes() == 1 * MIB


def test_a_process_that_may_not_be_looked_at_counts_with_its_resident_size(system: FakeSystem) -> None:
    fake_process(system, 10, 1, private_mib=100, shared_mib=100)
    (system.root / "proc/10/smaps_rollup").unlink()
    assert ProcessTree(10, proc=system.root / "proc").used_bytes() == 200 * MIB


def test_what_forked_processes_share_counts_once_for_each_that_is_forked_from(system: FakeSystem) -> None:
    fake_process(system, 10, 1, private_mib=50)  # supervisor
    fake_process(system, 20, 10, private_mib=1, shared_mib=30, program=5)  # root
    fake_process(system, 21, 20, private_mib=2, shared_mib=130, program=5)  # template: 100 more than the root
    for pid in range(100, 150):
        fake_process(system, pid, 21, private_mib=4, shared_mib=125, program=5)
    tree = ProcessTree(10, proc=system.root / "proc")
    assert tree.used_bytes() == (50 + 1 + 30 + 2 + 100 + 50 * 4) * MIB


def test_what_a_process_shared_with_those_that_are_gone_is_its_own(system: FakeSystem) -> None:
    """Its pages and its faults stay as they are: nothing else tells."""
    fake_process(system, 10, 1, private_mib=50)
    fake_process(system, 20, 10, private_mib=1, shared_mib=30, program=5)  # root
    fake_process(system, 21, 20, private_mib=2, shared_mib=130, program=5)  # template
    fake_process(system, 100, 21, private_mib=4, shared_mib=125, program=5)
    tree = ProcessTree(10, proc=system.root / "proc")
    assert tree.used_bytes() == (50 + 1 + 30 + 2 + 100 + 4) * MIB
    shutil.rmtree(system.root / "proc/100")
    fake_process(system, 21, 20, private_mib=102, shared_mib=30, program=5)
    assert tree.used_bytes() == (50 + 1 + 30 + 102) * MIB
    shutil.rmtree(system.root / "proc/20")
    fake_process(system, 21, 10, private_mib=132, shared_mib=0, program=5)
    assert tree.used_bytes() == (50 + 132) * MIB


def test_what_the_last_of_several_orphans_shared_is_its_own(system: FakeSystem) -> None:
    fake_process(system, 10, 1, private_mib=50)
    for pid in (100, 101):
        fake_process(system, pid, 10, private_mib=4, shared_mib=125, program=5)
    tree = ProcessTree(10, proc=system.root / "proc")
    assert tree.used_bytes() == (50 + 2 * 4 + 125) * MIB
    shutil.rmtree(system.root / "proc/101")
    fake_process(system, 100, 10, private_mib=129, program=5)
    assert tree.used_bytes() == (50 + 129) * MIB


def test_what_orphaned_workers_share_still_counts(system: FakeSystem) -> None:
    fake_process(system, 10, 1, private_mib=50)
    for pid in (100, 101):
        fake_process(system, pid, 10, private_mib=4, shared_mib=125, program=5)
    assert ProcessTree(10, proc=system.root / "proc").used_bytes() == (50 + 2 * 4 + 125) * MIB


def test_a_server_that_is_gone_takes_nothing(system: FakeSystem) -> None:
    assert ProcessTree(10, proc=system.root / "proc").used_bytes() == 0


# ---- this machine ----


def test_this_machine_is_read_in_less_than_a_millisecond() -> None:
    memory = KernelMemory()
    sample = memory.read()
    assert 0 < sample.free_bytes < sample.limit_bytes
    fastest_s = min(_timed_s(memory.read) for _ in range(50))
    assert fastest_s < 0.001


def _timed_s(call: object) -> float:
    assert callable(call)
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


# A process of its own: one that runs tests has imported libraries that write to their memory when it forks.
FAMILY = """
import mmap, os, socket, sys
SIZE, GROWTH = map(int, sys.argv[1:])
block = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.write(b"x" * SIZE)
links = []
for line in sys.stdin:
    if line == "fork\\n":
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            grown = []
            while theirs.recv(1):
                grown.append(bytearray(b"y" * GROWTH))
                theirs.send(b".")
            os._exit(0)
        theirs.close()
        links.append(ours)
    else:
        for link in links:
            link.send(b".")
            link.recv(1)
    print("done", flush=True)
"""


class ForkedFamily:
    """A process with 64 MiB, of which children are forked that take 3 MiB each when they are told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", FAMILY, str(64 * MIB), str(3 * MIB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.pid = self._process.pid
        self._tell("grow")  # of no child: it is there once it has answered

    def fork(self) -> None:
        self._tell("fork")

    def grow(self) -> None:
        self._tell("grow")

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def resident_bytes(self) -> int:
        """Of the parent alone."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture
def family() -> Iterator[ForkedFamily]:
    running = ForkedFamily()
    yield running
    running.end()


def test_what_real_processes_share_counts_once_however_many_are_forked_one_after_the_other(
    family: ForkedFamily,
) -> None:
    tree = ProcessTree(family.pid)
    tree.used_bytes()
    for _ in range(12):
        family.fork()
        tree.used_bytes()  # a figure of each is kept from when fewer shared
    assert tree.used_bytes() < family.resident_bytes() + 12 * 4 * MIB


def test_growth_of_real_processes_is_seen_however_little_it_is(family: ForkedFamily) -> None:
    for _ in range(6):
        family.fork()
    tree = ProcessTree(family.pid)
    before = tree.used_bytes()
    family.grow()
    grown = tree.used_bytes() - before
    assert 6 * 3 * MIB <= grown < 6 * 4 * MIB
    assert ProcessTree(family.pid).used_bytes() - before <= grown


def test_copies_of_shared_pages_are_seen_although_no_resident_size_changes() -> None:
    block = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.write(b"x" * len(block))
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        theirs.recv(1)
        for at in range(0, len(block), mmap.PAGESIZE):
            block[at] = 1
        theirs.send(b".")
        signal.pause()
    try:
        tree = ProcessTree(os.getpid())
        before = tree.used_bytes()
        ours.send(b".")
        assert ours.recv(1) == b"."
        assert tree.used_bytes() - before >= 16 * MIB
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for each in (ours, theirs, block):
            each.close()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_parent_of_a_process_is_known_and_nobody_is_that_of_none() -> None:
    assert parent_of(os.getpid()) == os.getppid()
    assert parent_of(2**22) is None


def test_a_process_is_known_by_its_number_and_start_and_a_zombie_is_dead() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    known = ProcessId.of(child)
    assert known is not None
    assert known.is_alive()
    assert not ProcessId(child, known.start_ticks + 1).is_alive()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not known.is_alive(), "the killed process counts as dead, though nobody has waited for it")
    os.waitpid(child, 0)
    assert ProcessId.of(child) is None


# ---- a real cgroup ----


def _memory_controller() -> Path | None:
    """The folder of this process's own cgroup with a memory controller, where a child may be made; None elsewhere."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
            return folder if os.access(folder, os.W_OK) and (folder / "memory.limit_in_bytes").is_file() else None
    return None


def test_a_real_cgroup_v1_is_seen_from_inside_and_its_page_cache_counts_as_free(tmp_path: Path) -> None:
    parent = _memory_controller()
    if parent is None:
        pytest.skip("needs a writable cgroup v1 memory hierarchy")
    group = parent / f"mme-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(256 * MIB))
        result = tmp_path / "result"
        child = os.fork()
        if child == 0:
            status = 1
            try:
                (group / "cgroup.procs").write_text(str(os.getpid()))
                result.write_text(json.dumps(_fill_and_read(group, tmp_path / "big")))
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        start, cached, taken = json.loads(result.read_text())
        for each in (start, cached, taken):
            assert each["limit"] == 256 * MIB
            assert each["source"].endswith(f"/{group.name}")
        assert cached["charged"] - start["charged"] > 60 * MIB
        assert cached["used"] - start["used"] < 16 * MIB
        assert 60 * MIB < taken["used"] - cached["used"] < 80 * MIB
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
        group.rmdir()


def _fill_and_read(group: Path, file: Path) -> list[dict[str, int | str]]:
    """Samples from inside ``group``: at first, with 64 MiB of ``file`` in its page cache, with 64 MiB of its own."""
    memory = KernelMemory()

    def look() -> dict[str, int | str]:
        charged = int((group / "memory.usage_in_bytes").read_text())
        sample = memory.read()
        return {"limit": sample.limit_bytes, "used": sample.used_bytes, "source": sample.source, "charged": charged}

    samples = [look()]
    with file.open("wb") as opened:
        for _ in range(64):
            opened.write(b"x" * MIB)
        opened.flush()
        os.fsync(opened.fileno())
    samples.append(look())
    block = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for _ in range(64):
        block.write(b"y" * MIB)
    samples.append(look())
    return samples


# As Java starts programs: all descriptors are listed, and closed, and a program follows.
LISTS_DESCRIPTORS = """
import os, signal, sys
(open(sys.argv[1] + "/cgroup.procs", "w")).write(str(os.getpid()))
for _ in range(int(sys.argv[2])):
    os.set_inheritable(os.dup(0), True)
child = os.fork()
if child == 0:
    os.listdir("/proc/self/fd")
    os.closerange(3, 1 << 20)
    os.execv("/bin/sh", ["sh", "-c", "echo started; read -r _"])
print(child, flush=True)
signal.pause()
"""


def test_the_kernel_forgets_descriptors_that_a_launcher_has_closed() -> None:
    parent, (_, most) = _memory_controller(), resource.getrlimit(resource.RLIMIT_NOFILE)
    if parent is None or most < 12_000:
        pytest.skip("needs a writable cgroup v1 memory hierarchy, and 12,000 descriptors")
    group = parent / f"mme-test-{os.getpid()}"
    group.mkdir()

    def kernel_bytes() -> int:
        return int((group / "memory.kmem.usage_in_bytes").read_text())

    front_end = subprocess.Popen(
        [sys.executable, "-c", LISTS_DESCRIPTORS, str(group), "10000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
    )
    try:
        assert front_end.stdout is not None and front_end.stdin is not None
        lines = sorted([front_end.stdout.readline(), front_end.stdout.readline()])
        launcher = int(lines[0])
        forget_closed_descriptors(launcher)  # 9 MB, or what the kernel has kept of that by itself
        wait_until(lambda: kernel_bytes() < 1.5 * MIB, "the kernel keeps next to nothing for the names")
        assert str(Path(f"/proc/{launcher}/fd/0").readlink()).startswith("pipe:")  # what it has it keeps
    finally:
        front_end.kill()
        front_end.communicate()
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
        group.rmdir()


def test_descriptors_of_a_launcher_that_has_ended_are_no_error() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    forget_closed_descriptors(ended.pid)
