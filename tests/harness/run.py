"""One run of the tests: its temporary folder and its mark, and what is left of both at the end.

The first process makes the folder; those of pytest-xdist join it. Whatever a test starts inherits ``TMPDIR`` and the
mark. A process or file that is left at the end fails the run.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
import time
from pathlib import Path

from mme import runtime_dir
from tests.harness.marked_process import processes_with_mark

MARK = "MME_TEST_RUN"
END_TIMEOUT_S = 5.0
# Written by programs that we start, and meant to stay for their next start: locks of uv.
_NOT_OURS = ("uv-*.lock",)
_POLL_S = 0.05


def begin() -> Path:
    """Makes the run's folder and joins it. Returns the folder."""
    # pytest keeps the folders of its last three runs: they go where they went.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="mt-"))  # short: Unix sockets live below it
    folder.chmod(0o755)  # containers look into it as another user
    join(folder)
    return folder


def join(folder: Path) -> None:
    """Temporary files of this process and of all that it starts go to ``folder``; what it starts carries the mark.

    The mark is set in a running process, so that it stands in its environment for its children and not for itself.
    """
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    os.environ[MARK] = str(folder)


def end(folder: Path) -> list[str]:
    """What is left of the run, one line each; all of it is ended and removed."""
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while (processes := processes_with_mark(MARK, str(folder))) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    left = [f"process {process.pid}: {' '.join(process.cmdline())[:200]}" for process in processes]
    for process in processes:
        process.kill()
    files = [path.name for path in sorted(folder.iterdir())]
    left += [f"file {name} in the temporary folder" for name in files if not _is_not_ours(name)]
    for server, memory in runtime_dir.all_in_memory():
        if server.is_relative_to(folder):
            left.append(f"folder {memory}")
            shutil.rmtree(memory, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    return left


def _is_not_ours(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in _NOT_OURS)
