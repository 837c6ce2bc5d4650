"""The launcher: what MMS starts and takes for a model's worker program. It stands for the model, and does nothing.

MMS runs ``PYTHON $MODEL_SERVER_HOME/mms/model_service_worker.py --sock-type … --sock-name …`` per model, reads its
output, and kills it when the model is unregistered (WorkerLifeCycle.java). Here that is a shell script of a few lines:
it writes its process number into a named pipe and waits on another one. The fork server reads all else from
``/proc``: arguments, environment, working folder and standard descriptors. A shell starts in a millisecond where
Python needs ten, and costs 0.1 MB while it waits.

    standard input     a pipe that the JVM alone holds the other end of and never writes to. The JVM closes it when it
                       has reaped the launcher, or when it dies itself: its end tells the fork server that the model
                       is to go.
    the alive pipe     has the fork server at its other end. Should that die, the launcher announces itself anew and
                       waits for the next one, so that a model survives the loss of the fork server.

The shell keeps copies of its standard descriptors as 4, 5 and 6, because ``read`` and ``echo`` put others in their
places for a moment.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import mms

# In the server's private folder:
HOME = "home"  # MODEL_SERVER_HOME
LAUNCHES = "launches"  # named pipe: launchers write their process numbers, the fork server reads
ALIVE = "alive"  # named pipe: the fork server holds it open, launchers wait for its end

_STANDARD_INPUT, _STANDARD_OUTPUT, _STANDARD_ERROR = 4, 5, 6

# What stands in the place of mms/model_service_worker.py, by the way in which workers come to be.
_WORKER_PROGRAMS = {
    "fork": """#!/bin/sh
# Stands for one model towards MMS; mme/workers/launcher.py says how.
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
        "spawned": Path(__file__).with_name("spawned.py"),
        "collector": Path(mms.__file__).parent / "metrics" / "metric_collector.py",
    }
    quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
    (home / "mms" / "model_service_worker.py").write_text(_WORKER_PROGRAMS[workers].format(**quoted))
    (home / "mms" / "metrics" / "metric_collector.py").write_text(_METRIC_COLLECTOR.format(**quoted))
    for name in PYTHONS:
        (home / "bin" / name).symlink_to("/bin/sh")
    return {"MODEL_SERVER_HOME": str(home), "PATH": str(home / "bin")}


def python_for_mms(runtime_dir: Path) -> Path:
    """What MMS is to start as its Python."""
    return runtime_dir / HOME / "bin" / PYTHONS[0]


@dataclass(frozen=True)
class Launch:
    """What a launcher was started with, and its descriptors as long as it lives."""

    pid: int
    started: str  # the kernel's start time of the process: tells it from a later one with the same number
    arguments: dict[str, str]  # as MMS passes them: {"--model-name": …}
    environment: dict[bytes, bytes]
    working_dir: str  # the model's folder

    @classmethod
    def of_process(cls, pid: int) -> Launch:
        """Reads the launch of process ``pid``. Raises ``OSError`` if that is gone, ``ValueError`` if it is none."""
        words = [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
        programs = [at for at, word in enumerate(words) if word.endswith("/mms/model_service_worker.py")]
        if not programs:
            raise ValueError(f"process {pid} is no launcher: {words}")
        options = words[programs[0] + 1 :]
        arguments = dict(zip(options[::2], options[1::2], strict=True))
        pairs = [entry.split(b"=", 1) for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if entry]
        environment = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
        return cls(pid, start_time(pid), arguments, environment, str(Path(f"/proc/{pid}/cwd").readlink()))

    @property
    def model_name(self) -> str:
        return self.arguments["--model-name"]

    @property
    def socket_path(self) -> str | None:
        """The Unix socket to listen on, or None for TCP on ``port``."""
        return self.arguments["--sock-name"] if self.arguments["--sock-type"] == "unix" else None

    @property
    def port(self) -> int:
        return int(self.arguments["--port"])

    @property
    def temporary_dir(self) -> str:
        """Where the front end expects the log pipes."""
        return self.arguments["--tmp-dir"]

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


def is_process(pid: int, started: str) -> bool:
    """Whether process ``pid`` runs and is the one that was started then."""
    try:
        return start_time(pid) == started
    except (OSError, ValueError):
        return False


def start_time(pid: int) -> str:
    """When the process was started, as the kernel words it. Raises ``OSError`` or ``ValueError`` if it has ended."""
    state, *fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    if state == "Z":
        raise ValueError("a zombie")
    return fields[18]
