"""What the supervisor does with processes: adopt, look up, reap, end. Linux only."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import psutil

from mme.zygote.processes import reap as reap

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# From asking a process to end until it is killed, where the deadline leaves as much.
_GRACE_S = 5.0


def become_subreaper() -> None:
    """Makes orphaned descendants our children, as they would be under the first process of a container.

    The toolkit starts the JVM through a script that ends; without this its exit status would go to init.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def descendants() -> list[psutil.Process]:
    """All living processes below this one."""
    return psutil.Process().children(recursive=True)


def descendant_with_argument(argument: str) -> int | None:
    """The pid of the descendant with ``argument`` on its command line, or None."""
    for process in descendants():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and argument in process.cmdline():
                return process.pid
        except psutil.Error:
            continue  # it ended meanwhile
    return None


def end_descendants(
    first: Iterable[int], deadline_s: float, spare: frozenset[int] = frozenset()
) -> list[tuple[int, int]]:
    """Ends every descendant and reaps it: SIGTERM to ``first``, then to all that is left, then SIGKILL.

    ``deadline_s`` is in time.monotonic(); at it everything left is killed. Returns (pid, status) of all that was
    reaped. New descendants that appear meanwhile are found, too. Those in ``spare``, and what they have started
    themselves, are left alone.
    """
    reaped: list[tuple[int, int]] = []
    _signal(first, signal.SIGTERM)
    asked = set(first)
    kill_at_s = min(deadline_s, time.monotonic() + _GRACE_S)
    while True:
        reaped.extend(reap())
        ended = {pid for pid, _ in reaped}
        left = _without(spare, descendants())
        if not left:
            return reaped
        if not (asked & set(left)) or asked <= ended:
            newcomers = [pid for pid in left if pid not in asked]
            _signal(newcomers, signal.SIGTERM)
            asked.update(newcomers)
        if time.monotonic() >= kill_at_s:
            _signal(left, signal.SIGKILL)
        if time.monotonic() >= deadline_s + _GRACE_S:
            return reaped  # unkillable: in uninterruptible sleep
        time.sleep(0.01)


def _without(spare: frozenset[int], processes: list[psutil.Process]) -> list[int]:
    """The processes that are not in ``spare`` and do not descend from one that is."""
    parents = {}
    for process in processes:
        try:
            parents[process.pid] = process.ppid()
        except psutil.Error:
            continue  # it has ended
    left = []
    for pid in parents:
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in spare:
            ancestor = parents.get(ancestor)
        if ancestor is None:
            left.append(pid)
    return left


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def run_in_child(function: Callable[[], None]) -> None:
    """Runs ``function`` in a child process, and waits for its end. What it imports leaves no trace in this process.

    Raises ``OSError`` or ``ValueError`` where it raised one, with its message; ``OSError`` where it ended otherwise.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _run_and_exit(function, write)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        kind, _, message = pipe.read().partition(":")
    _, status = os.waitpid(child, 0)
    if kind:
        raise (ValueError if kind == "ValueError" else OSError)(message)
    if status:
        raise OSError(f"its process ended: {describe_status(status)}")


def _run_and_exit(function: Callable[[], None], write: int) -> NoReturn:
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        function()
        code = 0
    except Exception as error:
        kind = "ValueError" if isinstance(error, ValueError) else "OSError"
        message = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        os.write(write, f"{kind}:{message}".encode(errors="replace")[:4096])
    finally:
        os._exit(code)


def exit_code(status: int) -> int:
    """A waitpid status as a shell words it: the exit code, or 128 + the signal's number."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def describe_status(status: int) -> str:
    """A waitpid status for the log; SIGKILL is named as what it most often is."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + (", probably by the kernel for lack of memory" if name == "SIGKILL" else "")


def wait_readable(descriptor: int, timeout_s: float | None = None) -> bool:
    """Waits until ``descriptor`` can be read."""
    return bool(select.select([descriptor], [], [], timeout_s)[0])


def drain(descriptor: int) -> None:
    """Empties a non-blocking pipe."""
    try:
        while os.read(descriptor, 512):
            pass
    except BlockingIOError:
        pass
