"""Descriptors and process numbers, from trees of files as kernels show them and from this machine's own."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from mme.capacity.admission import Admission
from mme.capacity.kernel_limits import (
    MODEL_DESCRIPTORS,
    MODEL_TASKS,
    SPARE_DESCRIPTORS,
    SPARE_TASKS,
    KernelLimits,
    _count_descriptors,
)
from mme.errors import InsufficientMemory, InsufficientResources, Refusal
from mme.settings import Settings

PID = 7


class FakeKernel:
    """A /proc with one process of ``descriptors`` of 1,024, and a cgroup of 100 of ``most_tasks`` tasks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/loadavg", "0.1 0.2 0.3 2/600 4711\n")
        self.write("proc/sys/kernel/threads-max", "100000\n")
        self.write("proc/sys/kernel/pid_max", "32768\n")
        self.write(
            f"proc/{PID}/limits", "Limit     Soft Limit  Hard Limit  Units\nMax open files   1024   4096   files\n"
        )

    def write(self, name: str, text: str) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def pids_cgroup(self, used: int, limit: str, *, version: int) -> None:
        if version == 2:
            self.write("proc/self/cgroup", "0::/c\n")
            self.write("proc/self/mountinfo", "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n")
            folder = "sys/fs/cgroup/c"
        else:
            self.write("proc/self/cgroup", "8:pids:/c\n4:memory:/other\n")
            self.write("proc/self/mountinfo", "1 0 0:1 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n")
            folder = "sys/fs/cgroup/pids/c"
        self.write(f"{folder}/pids.max", f"{limit}\n")
        self.write(f"{folder}/pids.current", f"{used}\n")

    def too_tight(self) -> str:
        return str(KernelLimits(self.root).too_tight([("front end", PID), ("template", None), ("gone", 8)]) or "")


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path)


def test_nothing_is_too_tight_where_nothing_is_known(tmp_path: Path) -> None:
    assert KernelLimits(tmp_path).too_tight([("front end", 1)]) is None


@pytest.mark.parametrize(("missing", "refused"), [(0, False), (1, True)])
def test_descriptors_run_out_with_some_to_spare(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, missing: int, refused: bool
) -> None:
    used = 1024 - MODEL_DESCRIPTORS - SPARE_DESCRIPTORS + missing
    monkeypatch.setattr("mme.capacity.kernel_limits._count_descriptors", lambda folder: used)
    message = kernel.too_tight()
    assert message.startswith(f"descriptors of the front end: {used} of 1024 are in use") == refused
    assert ("ulimit -n" in message) == refused


def test_real_descriptors_are_counted() -> None:
    before = _count_descriptors(Path("/proc/self/fd"))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        after = _count_descriptors(Path("/proc/self/fd"))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert before is not None
    assert after == before + 5


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("used", "limit", "refused"),
    [
        (1000 - MODEL_TASKS - SPARE_TASKS, "1000", False),
        (1001 - MODEL_TASKS - SPARE_TASKS, "1000", True),
        (10**6, "max", False),
    ],
)
def test_the_process_numbers_of_a_container_run_out(
    kernel: FakeKernel, version: int, used: int, limit: str, refused: bool
) -> None:
    kernel.pids_cgroup(used, limit, version=version)
    assert ("process numbers of the container (pids.max)" in kernel.too_tight()) == refused


@pytest.mark.parametrize("name", ["threads-max", "pid_max"])
def test_the_process_numbers_of_the_machine_run_out(kernel: FakeKernel, name: str) -> None:
    assert kernel.too_tight() == ""
    kernel.write(f"proc/sys/kernel/{name}", "640\n")
    assert f"kernel.{name}" in kernel.too_tight()


def test_the_process_numbers_of_a_user_run_out(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid() or 1000
    monkeypatch.setattr(os, "getuid", lambda: owner)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    monkeypatch.setattr("mme.capacity.kernel_limits._count_tasks", lambda proc, user: 100 if user == owner else 0)
    assert "process numbers of the user (RLIMIT_NPROC): 100 of 100 are in use" in kernel.too_tight()


def test_this_machine_has_enough_and_says_so_quickly() -> None:
    assert KernelLimits().too_tight([("test", os.getpid())]) is None


def test_a_load_without_descriptors_is_refused_as_one_without_memory(tmp_path: Path) -> None:
    admission = Admission(Settings(), tmp_path, server_pid=os.getpid())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A process that runs many tests has many open, with gaps: a limit below them would keep us from looking.
    in_use = {int(number) for number in os.listdir("/proc/self/fd")}  # noqa: PTH208
    fillers = [os.open(os.devnull, os.O_RDONLY) for number in range(max(in_use)) if number not in in_use]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(in_use) + SPARE_DESCRIPTORS, hard))
    try:
        with (
            pytest.raises(InsufficientResources, match="descriptors of the test") as refused,
            admission.loading("m", tmp_path, holders=[("test", os.getpid())]),
        ):
            pytest.fail("it was admitted")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in fillers:
            os.close(each)
    assert isinstance(refused.value, InsufficientMemory)
    assert Refusal.of(refused.value).status == 507
    with admission.loading("m", tmp_path, holders=[("test", os.getpid())]):
        pass
