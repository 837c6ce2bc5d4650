"""A server whose memory is limited, in the strictest way that this machine offers.

docker   the image in ``docker run --memory``                  the kernel's kills: the container's own cgroup
cgroup   the entry point in a cgroup made for it (needs root)  that cgroup
setting  the entry point with MME_MEMORY_LIMIT_MB              /proc/vmstat: the whole machine
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
import uuid
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.failure import BenchmarkError
from benchmarks.report import ROOT, progress
from benchmarks.servers.base import Server
from benchmarks.servers.docker import DockerServer
from benchmarks.servers.ours import OurServer
from benchmarks.soak import process_inspector

MIB = 1024 * 1024
IMAGE_NAME = "demo-sagemaker-multimodel-soak"
_BUILD_TIMEOUT_S = 1800.0
_CGROUP_EMPTY_S = 10.0
_POLL_S = 0.05
# Whom the server runs as in the image. In a container not even root sees the memory of another user's processes.
_SERVER_USER = "model-server"


class LimitedServer(Server):
    """A ``Server`` with a limit, whose processes can be counted and killed. ``settings`` are environment variables."""

    def __init__(self, memory_mb: int, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.memory_mb = memory_mb
        self.settings = dict(settings or {})

    @property
    @abstractmethod
    def where(self) -> str:
        """The limit in words."""

    @abstractmethod
    def kernel_kills(self) -> int:
        """How many processes the kernel has killed for lack of memory, so far."""

    def census(self) -> dict[str, Any]:
        """What ``process_inspector.census`` finds."""
        return process_inspector.census(self.root_process().pid, set())

    def kill(self, name: str) -> int | None:
        """Kills the process with this name; None where there is none."""
        return process_inspector.kill(self.root_process().pid, name)

    def is_running(self) -> bool:
        """Whether the server's first process lives."""
        process = self.program.process
        return process is not None and process.poll() is None


class SettingLimitedServer(LimitedServer, OurServer):
    """Limited by the server's own setting alone."""

    @property
    def where(self) -> str:
        return f"MME_MEMORY_LIMIT_MB={self.memory_mb}"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MME_MEMORY_LIMIT_MB": str(self.memory_mb), **self.settings}

    def start(self) -> None:
        self._kills_before = _machines_kills()
        super().start()

    def kernel_kills(self) -> int:
        return _machines_kills() - self._kills_before


class CgroupLimitedServer(LimitedServer, OurServer):
    """In a cgroup below this process's own, of either version."""

    def __init__(self, memory_mb: int, settings: Mapping[str, str] | None = None) -> None:
        self._cgroup = make_cgroup(f"mme-soak-{uuid.uuid4().hex[:12]}", memory_mb * MIB)
        super().__init__(memory_mb, settings)

    @property
    def where(self) -> str:
        return f"cgroup {'v2' if self._is_v2 else 'v1'}, {self.memory_mb} MiB"

    @property
    def _is_v2(self) -> bool:
        return (self._cgroup / "memory.max").exists()

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.settings}

    def command(self) -> list[str]:
        enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        return ["/bin/sh", "-c", enter, str(self._cgroup), *super().command()]

    def kernel_kills(self) -> int:
        return _number_in(self._cgroup / ("memory.events" if self._is_v2 else "memory.oom_control"), "oom_kill")

    def kernel_bytes(self) -> int:
        """What the kernel keeps for these processes: page tables, stacks, descriptors, sockets."""
        if self._is_v2:
            return _number_in(self._cgroup / "memory.stat", "kernel")
        return int((self._cgroup / "memory.kmem.usage_in_bytes").read_text())

    def anonymous_bytes(self) -> int:
        """These processes' pages that are of no file, those in memory that they share among them."""
        names = ("anon", "shmem") if self._is_v2 else ("total_rss", "total_shmem")
        return sum(_number_in(self._cgroup / "memory.stat", name) for name in names)

    def reclaim(self) -> None:
        """Has the kernel drop what it can: page cache, and what it remembers of files."""
        wanted = (self._cgroup / "memory.current").read_text() if self._is_v2 else "0"
        with contextlib.suppress(OSError):  # there was less than was asked for
            (self._cgroup / ("memory.reclaim" if self._is_v2 else "memory.force_empty")).write_text(wanted)

    def remove_folders(self) -> None:
        super().remove_folders()
        deadline_s = time.monotonic() + _CGROUP_EMPTY_S
        while self._cgroup.is_dir():
            try:
                self._cgroup.rmdir()
            except OSError as error:  # its last process is just ending
                if time.monotonic() > deadline_s:
                    progress(f"the cgroup {self._cgroup} could not be removed: {error}")
                    return
                time.sleep(_POLL_S)


class DockerLimitedServer(LimitedServer, DockerServer):
    """In a container of the image, which is built first."""

    def __init__(self, memory_mb: int, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(memory_mb, settings)
        self._inspector: subprocess.Popen[str] | None = None
        self._inspecting = threading.Lock()
        self.image = ""

    @property
    def where(self) -> str:
        return f"docker run --memory {self.memory_mb}m --memory-swap {self.memory_mb}m"

    def start(self) -> None:
        progress("building the image")
        self.image = build_image()
        super().start()

    def command(self) -> list[str]:
        settings = {
            "SAGEMAKER_MULTI_MODEL": "true",
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "MME_HOST": "127.0.0.1",
            **{name: value for name, value in os.environ.items() if name.startswith("MME_")},
            **self.settings,
        }
        environment = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
        limits = ["--memory", f"{self.memory_mb}m", "--memory-swap", f"{self.memory_mb}m"]
        mount = ["--volume", f"{self.base_dir}:/opt/ml:ro"]
        # without --rm: what the container says of itself can be read after its end
        container = ["docker", "run", "--name", self._container, "--network", "host"]
        return [*container, *limits, *mount, *environment, self.image, "serve"]

    def stop(self) -> None:
        if self._inspector is not None:
            self._inspector.kill()
            self._inspector.communicate()
        super().stop()

    def census(self) -> dict[str, Any]:
        return self._ask({"do": "census"})

    def kill(self, name: str) -> int | None:
        return self._ask({"do": "kill", "name": name})["pid"]

    def kernel_kills(self) -> int:
        kills = self._ask_shell(
            "cat /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null || cat /sys/fs/cgroup/memory.events"
        )
        return _number(kills, "oom_kill")

    def _ask(self, order: dict[str, str]) -> dict[str, Any]:
        """The container's inspector: one process for the whole time, so that it weighs the same in every census."""
        with self._inspecting:
            if self._inspector is None:
                source = Path(process_inspector.__file__).read_text()
                as_server = ["docker", "exec", "--interactive", "--user", _SERVER_USER]
                self._inspector = subprocess.Popen(
                    [*as_server, self._container, "python", "-c", source],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
            assert self._inspector.stdin is not None and self._inspector.stdout is not None
            try:
                self._inspector.stdin.write(json.dumps(order) + "\n")
                self._inspector.stdin.flush()
                line = self._inspector.stdout.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            raise BenchmarkError("the container has ended, or nothing can be run in it")
        return json.loads(line)

    def _ask_shell(self, command: str) -> str:
        done = subprocess.run(["docker", "exec", self._container, "sh", "-c", command], capture_output=True, text=True)
        if done.returncode != 0:
            raise BenchmarkError(f"the container has ended, or nothing can be run in it: {done.stderr}")
        return done.stdout


def make_limited_server(memory_mb: int, *, native: bool, settings: Mapping[str, str] | None = None) -> LimitedServer:
    """The server with the strictest limit that can be had; with ``native`` without Docker."""
    if not native and docker_answers():
        return DockerLimitedServer(memory_mb, settings)
    try:
        return CgroupLimitedServer(memory_mb, settings)
    except BenchmarkError as error:
        progress(f"{error}: the limit is the server's own setting alone")
        return SettingLimitedServer(memory_mb, settings)


def docker_answers() -> bool:
    """Is there an engine?"""
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def build_image() -> str:
    """Builds the image of this checkout as a user does, and returns its tag."""
    done = subprocess.run(
        [str(ROOT / "build_and_push.sh"), "--build-only", IMAGE_NAME],
        env={"DOCKER_BUILD_OPTIONS": "--network host", **os.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILD_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise BenchmarkError(f"the image could not be built:\n{done.stderr[-3000:]}")
    return done.stdout.strip()


def make_cgroup(name: str, limit_bytes: int) -> Path:
    """A new memory cgroup below this process's own, or below the root. Raises ``BenchmarkError`` where none can be."""
    for parent in _cgroup_parents():
        folder = parent / name
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / "memory.limit_in_bytes").exists():  # v1
                (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
                with contextlib.suppress(OSError):  # only where swap is accounted for
                    (folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
            else:
                (folder / "memory.max").write_text(str(limit_bytes))
                with contextlib.suppress(OSError):
                    (folder / "memory.swap.max").write_text("0")
            return folder
        except OSError:
            folder.rmdir()
    raise BenchmarkError("no cgroup can be made here")


def _cgroup_parents() -> list[Path]:
    parents = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        root = Path("/sys/fs/cgroup/memory") if "memory" in controllers.split(",") else Path("/sys/fs/cgroup")
        if "memory" in controllers.split(",") or (not controllers and (root / "cgroup.controllers").exists()):
            parents += [root / path.lstrip("/"), root]
    return parents


def _machines_kills() -> int:
    return _number_in(Path("/proc/vmstat"), "oom_kill")


def _number_in(path: Path, name: str) -> int:
    return _number(path.read_text(), name)


def _number(text: str, name: str) -> int:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    raise BenchmarkError(f"this kernel does not count {name}")
