"""What else than memory a model needs of the kernel: descriptors and process numbers. Either runs out as memory does.

    descriptors        of the front end and of the template: a model takes up to 4 in each, a client one in the front
                       end. The limit is RLIMIT_NOFILE (``ulimit -n``).
    process numbers    every process and thread has one: a model takes about 10, most of them threads of the front end.
                       Limits are a cgroup's pids.max (``docker run --pids-limit``), the machine's, and RLIMIT_NPROC.

A load is admitted if so many are left that the server goes on to answer: see ``MODEL_…`` and ``SPARE_…``. Reading all
of it takes a millisecond with a thousand models.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mme.capacity import cgroups
from mme.capacity.kernel_files import read_number, read_text

# For one model, measured on MMS 1.1.11 and rounded up.
MODEL_DESCRIPTORS = 8
MODEL_TASKS = 16
# What loads leave to clients, log files, threads that come and go.
SPARE_DESCRIPTORS = 64
SPARE_TASKS = 48
_OPEN_FILES = re.compile(r"^Max open files +([0-9]+) ", re.MULTILINE)  # of /proc/PID/limits
_TASKS = re.compile(r"\S+ \S+ \S+ [0-9]+/([0-9]+) ")  # of /proc/loadavg


@dataclass(frozen=True)
class Allowance:
    """One limit: ``used`` of ``limit``, of which a load needs ``need`` and leaves ``spare``."""

    what: str  # "descriptors of the front end"
    used: int
    limit: int
    need: int
    spare: int
    remedy: str

    @property
    def is_enough(self) -> bool:
        return self.limit - self.used >= self.need + self.spare

    def __str__(self) -> str:
        return (
            f"{self.what}: {self.used} of {self.limit} are in use; a model needs up to {self.need}, and {self.spare} "
            f"are left to requests. {self.remedy}"
        )


class KernelLimits:
    """The limits of this server. ``root`` is where /proc and /sys are looked for."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._folders = [level.folder for level in cgroups.levels(root, "pids")]

    def too_tight(self, holders: Sequence[tuple[str, int | None]]) -> Allowance | None:
        """The first limit that leaves a load too little; None where there is enough.

        ``holders`` are the processes that hold descriptors for each model, by what they are called. What cannot be
        read (another user's process) does not limit.
        """
        found = (*self._descriptors(holders), *self._tasks())
        return next((each for each in found if not each.is_enough), None)

    def _descriptors(self, holders: Sequence[tuple[str, int | None]]) -> Iterator[Allowance]:
        remedy = "Unload other models, or raise the limit (ulimit -n, docker run --ulimit nofile=…)."
        for name, pid in holders:
            if pid is None:
                continue
            limit = _OPEN_FILES.search(read_text(self._proc / str(pid) / "limits"))
            used = _count_descriptors(self._proc / str(pid) / "fd")
            if limit and used is not None:
                needs = MODEL_DESCRIPTORS, SPARE_DESCRIPTORS
                yield Allowance(f"descriptors of the {name}", used, int(limit[1]), *needs, remedy)

    def _tasks(self) -> Iterator[Allowance]:
        needs = MODEL_TASKS, SPARE_TASKS
        for folder in self._folders:
            limit, used = read_number(folder / "pids.max"), read_number(folder / "pids.current")
            if limit is not None and used is not None:
                remedy = "Unload other models, or raise the limit (docker run --pids-limit)."
                yield Allowance("process numbers of the container (pids.max)", used, limit, *needs, remedy)
        on_machine = _TASKS.match(read_text(self._proc / "loadavg"))
        if on_machine is None:
            return
        used = int(on_machine[1])
        for name in ("threads-max", "pid_max"):
            limit = read_number(self._proc / "sys/kernel" / name)
            if limit is not None:
                remedy = f"Unload other models, or raise kernel.{name}."
                yield Allowance(f"process numbers of the machine (kernel.{name})", used, limit, *needs, remedy)
        yield from self._tasks_of_user(used)

    def _tasks_of_user(self, on_machine: int) -> Iterator[Allowance]:
        limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        # The kernel does not hold root to it. Counting takes its time, and is not needed far from the limit.
        if os.getuid() == 0 or limit == resource.RLIM_INFINITY or on_machine + MODEL_TASKS + SPARE_TASKS <= limit:
            return
        remedy = "Unload other models, or raise the limit (ulimit -u, docker run --ulimit nproc=…)."
        used = _count_tasks(self._proc, os.getuid())
        yield Allowance("process numbers of the user (RLIMIT_NPROC)", used, limit, MODEL_TASKS, SPARE_TASKS, remedy)


def _count_descriptors(folder: Path) -> int | None:
    """How many a process has; None where that is not to be known."""
    try:
        return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208 (the size is the number since Linux 6.2)
    except OSError:
        return None


def _count_tasks(proc: Path, user: int) -> int:
    """Threads of all processes of the user."""
    count = 0
    for name in os.listdir(proc):  # noqa: PTH208
        if name.isdigit():
            try:
                if (proc / name).stat().st_uid == user:
                    count += (proc / name / "task").stat().st_nlink - 2
            except OSError:
                continue  # it has ended
    return count
