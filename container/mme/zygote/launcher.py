"""The launcher: what MMS starts and takes for a model's worker program (MMS-19). It stands for the model.

MMS runs ``PYTHON $MODEL_SERVER_HOME/mms/model_service_worker.py --sock-type … --sock-name …`` per model, reads its
output, and kills it when the model is unregistered (WorkerLifeCycle.java). Here that is a shell script of a few lines:
it writes its process number into a named pipe and waits on another one. The zygote reads all else from
``/proc``: arguments, environment, working folder and standard descriptors. A shell starts in a millisecond where
Python needs ten, and costs 0.1 MB while it waits.

    standard input     a pipe that the JVM alone holds the other end of and never writes to. The JVM closes it when it
                       has reaped the launcher, or when it dies itself: its end tells the zygote that the model
                       is to go.
    the alive pipe     has the zygote's root at its other end. Should that die, or one of its templates, the launcher
                       announces itself anew and waits at the next pipe, so that a model survives the loss of both.

The shell keeps copies of its standard descriptors as 4, 5 and 6, because ``read`` and ``echo`` put others in their
places for a moment.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mme.capacity.process_memory import parent_of
from mme.errors import StartError

# In the server's private folder:
HOME = "home"  # MODEL_SERVER_HOME
LAUNCHES = "launches"  # named pipe: launchers write their process numbers, the zygote reads
ALIVE = "alive"  # named pipe: the zygote holds it open, launchers wait for its end

_STANDARD_INPUT, _STANDARD_OUTPUT, _STANDARD_ERROR = 4, 5, 6

LAUNCHERS_OPEN_S = 0.2  # from looking the alive pipe up until it is open

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# What stands in the place of mms/model_service_worker.py, by the way in which workers come to be.
_WORKER_PROGRAMS = {
    "fork": """#!/bin/sh
# Stands for one model towards MMS; mme/zygote/launcher.py says how.
exec 4<&0 5>&1 6>&2
while :; do
    exec 3<{alive}
    echo $$ >{launches}
    read -r _ <&3
done
""",
    # Isolated (-I): what lies in the folders of PYTHONPATH, which MMS makes of a request, is not to run at the start.
    "spawn": """#!/bin/sh
exec {python} -I -u {spawned} {runtime_dir} {python_path} "$@"
""",
}

_METRIC_COLLECTOR = """#!/bin/sh
exec {python} {collector} "$@"
"""

# The names by which a request or an archive may ask for a Python (Manifest.RuntimeType), and the one that MMS is told.
PYTHONS = ("python", "python2", "python3")


def write_home(runtime_dir: Path, workers: str, python_path: str) -> dict[str, str]:
    """Makes MODEL_SERVER_HOME and, for ``fork``, the named pipes below ``runtime_dir``.

    Whichever Python MMS starts is a symlink to the shell, and whatever it runs with it a shell script of ours. So it
    works where our folder may hold no programs (docker run --tmpfs /tmp mounts it noexec), and no interpreter starts
    with a PYTHONPATH that a request has a part in. ``python_path`` is the server's own. Returns the variables for the
    front end's environment; ``PATH`` is to be put in front of the existing one.
    """
    home = runtime_dir / HOME
    (home / "mms" / "metrics").mkdir(parents=True)
    (home / "bin").mkdir()
    if workers == "fork":
        for name in (LAUNCHES, ALIVE):
            os.mkfifo(runtime_dir / name, 0o600)
    words = {
        "python": sys.executable,
        "alive": runtime_dir / ALIVE,
        "launches": runtime_dir / LAUNCHES,
        "runtime_dir": runtime_dir,
        "python_path": python_path,
        "spawned": Path(__file__).with_name("spawned_worker.py"),
        "collector": _folder_of("mms") / "metrics" / "metric_collector.py",
    }
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    (home / "mms" / "model_service_worker.py").write_text(_WORKER_PROGRAMS[workers].format(**quoted))
    (home / "mms" / "metrics" / "metric_collector.py").write_text(_METRIC_COLLECTOR.format(**quoted))
    for name in PYTHONS:
        (home / "bin" / name).symlink_to("/bin/sh")
    return {"MODEL_SERVER_HOME": str(home), "PATH": str(home / "bin")}


def _folder_of(package: str) -> Path:
    """Where a package is, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise StartError(f"the package {package} is not installed beside {sys.executable}.")
    return Path(found.origin).parent


def replace_alive_pipe(runtime_dir: Path) -> tuple[int, int]:
    """Puts a new named pipe into the place of the alive pipe. Returns descriptors of both, the new one first.

    Launchers get past opening the new one as long as its descriptor is open. Those that wait to open the old one, or
    wait for its end, go on to the new one when the descriptor of the old one, and all others of it, are closed: a
    moment later (``LAUNCHERS_OPEN_S``), for one may just be about to open it. Had the same pipe been closed and opened
    again, a launcher that did not run in between would have missed the end.
    """
    path, new_path = runtime_dir / ALIVE, runtime_dir / f".{ALIVE}"
    old = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    new_path.unlink(missing_ok=True)
    os.mkfifo(new_path, 0o600)
    new = os.open(new_path, os.O_RDWR | os.O_CLOEXEC)
    new_path.rename(path)
    return new, old


def python_for_mms(runtime_dir: Path) -> Path:
    """What MMS is to start as its Python."""
    return runtime_dir / HOME / "bin" / PYTHONS[0]


@dataclass(frozen=True)
class Launch:
    """What a launcher was started with, and its descriptors as long as it lives.

    The zygote makes one between two forks, and each object that it looks at then costs the next worker a page. So
    this holds what the kernel said, read without ``pathlib``; the worker takes it apart.
    """

    pid: int
    started: bytes  # the kernel's start time of the process: tells it from a later one with the same number
    options: dict[bytes, bytes]
    environ: bytes
    working_dir: str  # the model's folder

    @classmethod
    def of_process(cls, pid: int) -> Launch:
        """Reads the launch of process ``pid``. Raises ``OSError`` if that is gone, ``ValueError`` if it is none."""
        words = _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]
        while words and not words.pop(0).endswith(b"/mms/model_service_worker.py"):
            pass
        if not words:
            raise ValueError(f"process {pid} is no launcher")
        options = dict(zip(words[::2], words[1::2], strict=True))
        working_dir = os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115
        return cls(pid, start_time(pid), options, _read(f"/proc/{pid}/environ"), working_dir)

    @property
    def arguments(self) -> dict[str, str]:
        """As MMS passes them: {"--model-name": …}."""
        return {os.fsdecode(name): os.fsdecode(value) for name, value in self.options.items()}

    @property
    def environment(self) -> dict[bytes, bytes]:
        """The variables that it was started with."""
        variables = {}
        for entry in self.environ.split(b"\0"):
            name, equals, value = entry.partition(b"=")
            if equals:
                variables[name] = value
        return variables

    @property
    def model_name(self) -> str:
        return os.fsdecode(self.options[b"--model-name"])

    @property
    def socket_path(self) -> str | None:
        """The Unix socket to listen on, or None for TCP on ``port``."""
        return os.fsdecode(self.options[b"--sock-name"]) if self.options[b"--sock-type"] == b"unix" else None

    @property
    def port(self) -> int:
        return int(self.options[b"--port"])

    @property
    def temporary_dir(self) -> str:
        """Where the front end makes the log files of workers."""
        return os.fsdecode(self.options[b"--tmp-dir"])

    def age_s(self) -> float:
        """How long ago the process was started, in seconds."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(self.started) / _TICKS_PER_S

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return is_process(self.pid, self.started)

    def open_standard_input(self) -> int:
        """A descriptor that ends when the front end has reaped the launcher, or is gone itself."""
        return os.open(f"/proc/{self.pid}/fd/{_STANDARD_INPUT}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def open_output(self) -> tuple[int, int]:
        """Standard output and standard error, which MMS reads. Raises ``OSError`` if the launcher is gone."""
        return self._open_for_writing(_STANDARD_OUTPUT), self._open_for_writing(_STANDARD_ERROR)

    def _open_for_writing(self, number: int) -> int:
        return os.open(f"/proc/{self.pid}/fd/{number}", os.O_WRONLY | os.O_CLOEXEC)


def forget_closed_descriptors(pid: int) -> None:
    """Has the kernel forget by which names launcher ``pid`` once had the front end's descriptors.

    Java starts programs by one that lists /proc/self/fd and closes what it finds (childproc.c). Of each name that was
    listed the kernel keeps an inode, as long as the process lives or until memory is short: 1 KB for each of the front
    end's descriptors in each launcher, 1.2 GB with 800 models. It finds out that a name is void when somebody asks.
    """
    try:
        folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return  # it has ended
    try:
        for number in range(_STANDARD_ERROR + 1, _most_descriptors(parent_of(pid))):
            os.access(str(number), os.F_OK, dir_fd=folder)
    finally:
        os.close(folder)


def _most_descriptors(pid: int | None) -> int:
    """No descriptor of the process has this number, or a higher one; 0 where there is no such process."""
    try:
        return int(_read(f"/proc/{pid}/status").partition(b"FDSize:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError):
        return 0


def is_process(pid: int, started: bytes) -> bool:
    """Whether process ``pid`` runs and is the one that was started then."""
    try:
        return start_time(pid) == started
    except (OSError, ValueError):
        return False


def start_time(pid: int) -> bytes:
    """When the process was started, as the kernel words it. Raises ``OSError`` or ``ValueError`` if it has ended."""
    state, *fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    if state == b"Z":
        raise ValueError("a zombie")
    return fields[18]


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while part := os.read(descriptor, 65536):
            content += part
        return content
    finally:
        os.close(descriptor)
