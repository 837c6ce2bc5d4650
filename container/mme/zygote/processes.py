"""What the zygote's processes do to processes: name, rank for the kernel, kill, reap, word an exit."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

HIGHEST_OOM_SCORE = 1000
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


def forbid_new_privileges() -> None:
    """No program that this process or a descendant starts gains privileges (set-user-ID, file capabilities)."""
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def raise_oom_score(by: int) -> None:
    """Makes this process a likelier victim of the kernel than its parent. Needs no privilege."""
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(min(int(path.read_text()) + by, HIGHEST_OOM_SCORE)))
    except OSError:
        pass  # /proc may be read-only; all are equal then


def name_process(name: str) -> None:
    """What ``ps`` and ``top`` show; the kernel keeps 15 bytes. No character is cut: others read /proc as text."""
    try:
        Path("/proc/self/comm").write_text(name.encode()[:15].decode(errors="ignore"), encoding="utf-8")
    except OSError:
        pass


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
