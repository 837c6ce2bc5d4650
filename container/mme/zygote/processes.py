"""What the zygote's processes do to processes: name, rank for the kernel, kill, reap, word an exit."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator

from mme.capacity.kernel_files import read_text
from mme.libc import LIBC

HIGHEST_OOM_SCORE = 1000
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_HIGHEST_DESCRIPTOR = 2**32 - 1  # of all that can be


def forbid_new_privileges() -> None:
    """No program that this process or a descendant starts gains privileges (set-user-ID, file capabilities)."""
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def close_from(first: int) -> None:
    """Closes all descriptors from ``first`` on.

    In one system call where there is ``close_range`` (Linux 5.9, glibc 2.34). To list the descriptors of a process that
    has just been forked takes the kernel 2 ms for 600 of them, and as long again to forget the list at its end.
    """
    close_range = getattr(LIBC, "close_range", None)
    if close_range is not None and close_range(ctypes.c_uint(first), ctypes.c_uint(_HIGHEST_DESCRIPTOR), 0) == 0:
        return
    # (os.closerange would try each number up to the limit where there is no such call)
    os.closerange(first, max(map(int, os.listdir("/proc/self/fd"))) + 1)  # noqa: PTH208


def raise_oom_score(by: int) -> None:
    """Makes this process a likelier victim of the kernel than its parent. Needs no privilege."""
    file = "/proc/self/oom_score_adj"
    try:
        _write(file, b"%d" % min(int(read_text(file)) + by, HIGHEST_OOM_SCORE))
    except (OSError, ValueError):
        pass  # /proc may be read-only; all are equal then


def name_process(name: str) -> None:
    """What ``ps`` and ``top`` show; the kernel keeps 15 bytes. No character is cut: others read /proc as text."""
    try:
        _write("/proc/self/comm", name.encode()[:15].decode(errors="ignore").encode())
    except OSError:
        pass


def _write(file: str, text: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)  # a third of the system calls of Path.write_bytes
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ends a process by a signal, unless it has ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def kill_group(leader: int) -> None:
    """Kills a worker, unless it has ended, and what it has started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        pass


def describe_exit(status: int) -> str:
    """A waitpid status for the log."""
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def reap() -> Iterator[tuple[int, int]]:
    """Yields (pid, status) of every ended child; never blocks."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
