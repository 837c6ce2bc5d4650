"""How many cores a server may use, read from trees of files as kernels show them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mme.capacity.cores import usable_cores, whole_cores

V2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
V1 = "35 31 0:32 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


def system(root: Path, mounts: str, own: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": own, "proc/self/mountinfo": mounts, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def test_without_control_groups_those_that_the_process_is_bound_to(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("150000 100000", 1.5), ("1600000 100000", 8), ("", 8)]
)
def test_the_quota_of_the_control_group(tmp_path: Path, limit: str, cores: float) -> None:
    files = {"sys/fs/cgroup/a/cpu.max": limit + "\n"}
    assert usable_cores(system(tmp_path, V2, "0::/a\n", files)) == cores


def test_the_tightest_level_counts(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/a/cpu.max": "200000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n"}
    assert usable_cores(system(tmp_path, V2, "0::/a/b\n", files)) == 2


@pytest.mark.parametrize(("quota", "cores"), [(-1, 8), (50_000, 0.5)])
def test_the_quota_of_the_first_version(tmp_path: Path, quota: int, cores: float) -> None:
    folder = "sys/fs/cgroup/cpu/a"
    files = {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    assert usable_cores(system(tmp_path, V1, "4:cpu,cpuacct:/a\n", files)) == cores


def test_a_part_of_a_core_keeps_one_process_busy() -> None:
    assert [whole_cores(cores) for cores in (0.2, 1.0, 1.5, 8.0)] == [1, 1, 2, 8]
