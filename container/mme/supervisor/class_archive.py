"""The front end's classes as its JVM has them in memory, kept in a file: a start costs the JVM half as much.

    python -m mme.supervisor.class_archive

makes the file, where the JVM can (version 13 or later: application class data sharing, ``-XX:ArchiveClassesAtExit``):
a server runs once, with a dry run, and leaves the classes that it has used. ``./scripts/setup`` and the image's build
call it. Measured: 1.0 s of processor time instead of 2.0 until the front end serves, and 15 MB less of its own memory.

The JVM itself checks that the file fits: the same JVM, the same class path, the same jars by size and time. Where it
does not, or where there is none, the start is as slow as without. A folder on the class path has to be empty, and MMS
puts the working folder there: that is why the front end has an empty one (``WORKING_FOLDER``).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mme.settings import HIGHEST_PORT, Settings
from mme.supervisor import processes

FILE = Path(sys.prefix) / "share" / "mme" / "front-end.jsa"

_OPTIONS = ("-XX:ArchiveClassesAtExit=", "-XX:SharedArchiveFile=")
_START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0  # of what has not ended by then
_POLL_S = 0.1
_MAIN_CLASS = "com.amazonaws.ml.mms.ModelServer"
_SERVE = "import sys; from mme.supervisor.server import serve; sys.exit(serve())"


def archive(settings: Settings) -> Path | None:
    """The file; None where there is none, where the JVM is told of another (``SAGEMAKER_MODEL_SERVER_VMARGS``), or
    where the path could not be told it (MMS splits its arguments at blanks).
    """
    if any(option in settings.jvm_arguments for option in _OPTIONS):
        return None
    try:
        is_there = FILE.stat().st_size > 0
    except OSError:
        return None
    return FILE if is_there and not any(each.isspace() for each in str(FILE)) else None


def make() -> str | None:
    """Makes the file anew. Returns why there is none, if so; then an empty one says that it has been tried."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    mark_tried(FILE)
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder, "new.jsa")
        output = _serve_once(Path(folder), new)
        if not new.is_file():
            return output
        shutil.copyfile(new, FILE.with_suffix(".new"))
        FILE.with_suffix(".new").replace(FILE)
    return None


def mark_tried(file: Path) -> None:
    """Leaves an empty file in the place of what was there. That is not emptied itself: a JVM that runs has it mapped,
    and would be killed (SIGBUS)."""
    empty = file.with_suffix(".empty")
    empty.write_bytes(b"")
    empty.replace(file)


def _serve_once(folder: Path, new: Path) -> str:
    """Runs a server in ``folder`` until it is ready, and returns what it has written. Its JVM makes ``new``.

    Nothing of the server is left, whatever ended it: this process takes its orphans.
    """
    from mme.supervisor.healthcheck import reason_unhealthy  # and with it http.client, which a server does not need

    (folder / "tmp").mkdir()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MME_", "SAGEMAKER_"))},
        "SAGEMAKER_MULTI_MODEL": "true",
        "SAGEMAKER_BASE_DIR": str(folder / "ml"),
        "SAGEMAKER_BIND_TO_PORT": str(_free_port()),
        "SAGEMAKER_MODEL_SERVER_VMARGS": f"-XX:ArchiveClassesAtExit={new}",
        "MME_HOST": "127.0.0.1",
        "MME_PRELOAD": "script",  # the lightest that there is a dry run with
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    settings = Settings.from_environment(environment)
    (folder / "ml" / "models").mkdir(parents=True)
    with (folder / "log").open("w+") as log:
        server = subprocess.Popen([sys.executable, "-c", _SERVE], env=environment, stdout=log, stderr=log)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while server.poll() is None and reason_unhealthy(settings) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        new.unlink(missing_ok=True)  # of the JVM that was started to see whether it does
        jvm = processes.descendant_with_argument(_MAIN_CLASS)
        if jvm is not None:
            os.kill(jvm, signal.SIGTERM)  # it may take its time; the server, which has to stop in time, ends after it
        try:
            server.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            processes.end_descendants([server.pid], time.monotonic() + _STOP_TIMEOUT_S)
        log.seek(0)
        return log.read()


def _free_port() -> int:
    for port in random.sample(range(16384, HIGHEST_PORT + 1), 100):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise OSError(f"no port is free from 16384 to {HIGHEST_PORT}")


def main() -> int:
    """Exit code 1, with the end of the server's log, where the file could not be made."""
    processes.become_subreaper()
    output = make()
    if output is not None:
        sys.stderr.write(output[-2000:] + "\n")
    return int(output is not None)


if __name__ == "__main__":
    sys.exit(main())
