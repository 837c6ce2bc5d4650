"""Ending and reaping real processes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap

import pytest

from mme.supervisor import processes


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("exit 0", 0, "exit code 0"),
        ("exit 3", 3, "exit code 3"),
        ("kill -TERM $$", 143, "killed by SIGTERM"),
        ("kill -KILL $$", 137, "killed by SIGKILL, probably by the kernel for lack of memory"),
    ],
)
def test_a_status_is_worded_as_a_shell_words_it(script: str, code: int, text: str) -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {})
    _, status = os.waitpid(pid, 0)
    assert processes.exit_code(status) == code
    assert processes.describe_status(status) == text


def test_stubborn_and_orphaned_descendants_are_ended() -> None:
    """In a process of its own, since ending descendants would end those of other tests."""
    program = textwrap.dedent(
        """
        import subprocess, sys, time
        from mme.supervisor import processes
        processes._GRACE_S = 0.3
        processes.become_subreaper()
        # one that ignores SIGTERM, one whose parent is gone
        stubborn = subprocess.Popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"],
                                    stdout=subprocess.PIPE)
        stubborn.stdout.readline()
        subprocess.run(["sh", "-c", "sleep 600 & exit 0"])
        assert len(processes.descendants()) >= 2
        processes.end_descendants(first=[stubborn.pid], deadline_s=time.monotonic() + 20)
        assert not processes.descendants()
        print("none left")
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "none left\n", ended.stderr


def test_a_spared_descendant_lives_on() -> None:
    program = textwrap.dedent(
        """
        import subprocess, time
        from mme.supervisor import processes
        spared, other = subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sleep", "600"])
        processes.end_descendants(first=[], deadline_s=time.monotonic() + 20, spare=frozenset([spared.pid]))
        assert [each.pid for each in processes.descendants()] == [spared.pid]
        spared.kill(); spared.wait()
        print("spared")
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "spared\n", ended.stderr


def test_what_a_spared_descendant_starts_lives_on_too() -> None:
    program = textwrap.dedent(
        """
        import subprocess, time
        from mme.supervisor import processes
        spared = subprocess.Popen(["sh", "-c", "sleep 600 & echo ready; wait"], stdout=subprocess.PIPE)
        spared.stdout.readline()
        other = subprocess.Popen(["sleep", "600"])
        processes.end_descendants(first=[], deadline_s=time.monotonic() + 20, spare=frozenset([spared.pid]))
        left = processes.descendants()
        assert len(left) == 2 and other.pid not in [each.pid for each in left], left
        for each in left: each.kill()
        print("spared")
        """
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "spared\n", ended.stderr


@pytest.mark.parametrize("error", [OSError("no room"), ValueError("not so"), KeyError("x")])
def test_an_error_in_a_child_is_raised_in_the_parent(error: Exception) -> None:
    def fail() -> None:
        raise error

    message = "KeyError: 'x'" if isinstance(error, KeyError) else str(error)
    with pytest.raises(ValueError if isinstance(error, ValueError) else OSError, match=message):
        processes.run_in_child(fail)


def test_what_a_child_changes_and_imports_leaves_no_trace() -> None:
    def change() -> None:
        os.environ["ONLY_IN_THE_CHILD"] = "1"
        sys.modules["only_in_the_child"] = sys

    processes.run_in_child(change)
    assert "ONLY_IN_THE_CHILD" not in os.environ
    assert "only_in_the_child" not in sys.modules
    with pytest.raises(OSError, match="exit code 3"):
        processes.run_in_child(lambda: os._exit(3))


def test_draining_an_empty_pipe_does_not_block() -> None:
    read, write = os.pipe2(os.O_NONBLOCK)
    try:
        os.write(write, b"\0" * 3)
        processes.drain(read)
        assert not processes.wait_readable(read, timeout_s=0)
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("has_call", [True, False])
def test_descriptors_are_closed_without_a_list_of_them(has_call: bool) -> None:
    """The list takes as long as there are descriptors; without the call of the kernel it is still made."""
    program = textwrap.dedent(
        f"""
        import os, resource
        from mme.zygote import processes
        if not {has_call}:
            processes.LIBC = object()
        listed = []
        list_folder = os.listdir
        os.listdir = lambda folder: listed.append(folder) or list_folder(folder)
        first = os.open("/dev/null", os.O_RDONLY)
        for number in (first + 1, first + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1):
            os.dup2(first, number)
        processes.close_from(first + 1)
        left = set(map(int, list_folder("/proc/self/fd")))
        # (the highest is that of the list itself)
        assert left - {{max(left)}} == set(range(first + 1)), left
        print(len(listed))
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if has_call and hasattr(ctypes.CDLL(None), "close_range"):
        assert done.stdout == "0\n"
