"""A small process that cleans up after a local endpoint which was killed: run as a script, it knows nothing else.

It reads commands, one per line, from its standard input, which only the local endpoint holds the other end of:

    group PID         a process group to be ended       forget-group PID        it was ended
    container NAME    a container to be removed         forget-container NAME   it was removed
    folder PATH       a folder to be removed            forget-folder PATH      it was removed

End of input is the local endpoint's death, or its orderly end, when nothing is left to do.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE_S = 10.0
ENGINE_TIMEOUT_S = 30.0


class Janitor:
    """The local endpoint's side. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is not for it
            text=True,
        )

    def _tell(self, command: str, value: object) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(f"{command} {value}\n")
            self._process.stdin.flush()

    def watch_group(self, pid: int) -> None:
        self._tell("group", pid)

    def forget_group(self, pid: int) -> None:
        self._tell("forget-group", pid)

    def watch_container(self, name: str) -> None:
        self._tell("container", name)

    def forget_container(self, name: str) -> None:
        self._tell("forget-container", name)

    def watch_folder(self, path: Path) -> None:
        self._tell("folder", path)

    def forget_folder(self, path: Path) -> None:
        self._tell("forget-folder", path)

    def close(self) -> None:
        assert self._process.stdin is not None
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def main() -> None:
    """The process itself."""
    watched: dict[str, set[str]] = {"group": set(), "container": set(), "folder": set()}
    for line in sys.stdin:
        command, _, value = line.rstrip("\n").partition(" ")
        if command in watched:
            watched[command].add(value)
        else:
            watched[command.removeprefix("forget-")].discard(value)
    end_groups({int(group) for group in watched["group"]})
    remove_containers(watched["container"])
    for folder in watched["folder"]:
        shutil.rmtree(folder, ignore_errors=True)


def end_groups(groups: set[int]) -> None:
    """SIGTERM, and SIGKILL for what is left after ``GRACE_S``; by then the number of another may be a stranger's."""
    left = groups
    for number, grace_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 1.0)):
        for group in left:
            with contextlib.suppress(OSError):
                os.killpg(group, number)
        deadline_s = time.monotonic() + grace_s
        while (left := {group for group in left if _is_there(group)}) and time.monotonic() < deadline_s:
            time.sleep(0.05)


def remove_containers(names: set[str]) -> None:
    """With the docker program, or where there is none by asking the engine's socket itself."""
    if names and shutil.which("docker"):
        subprocess.run(["docker", "rm", "--force", *names], capture_output=True)
        return
    for name in names:
        with contextlib.suppress(OSError, http.client.HTTPException):
            engine = EngineConnection("localhost", timeout=ENGINE_TIMEOUT_S)
            engine.request("DELETE", f"/containers/{name}?force=1")
            engine.getresponse().read()
            engine.close()


class EngineConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket of the Docker engine."""

    def connect(self) -> None:
        address = os.environ.get("DOCKER_HOST", "")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(address.removeprefix("unix://") if address.startswith("unix://") else "/var/run/docker.sock")


if __name__ == "__main__":
    main()
