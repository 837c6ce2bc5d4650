"""What processes do that a test has forked, and one that forks to spare others its imports."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from os import fork, waitpid
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def run_to_the_end(program: Callable[[], None]) -> NoReturn:
    """Runs ``program`` as Python runs a script, and ends this process with the exit code that is then due."""
    exit_code = 1
    try:
        program()
        exit_code = 0
    except SystemExit as end:
        exit_code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def serve_forks() -> None:
    """Runs code in forks of this process, one after the other, until standard input ends.

    A line on standard input is JSON: [code, arguments, environment, folder]. The code's output goes to files ``output``
    and ``errors`` in the folder; its exit code is the answer, a line on standard output.
    """
    for line in sys.stdin:
        request = json.loads(line)
        child = fork()
        if child == 0:
            run_to_the_end(lambda: _become(*request))  # noqa: B023 (called at once)
        print(os.waitstatus_to_exitcode(waitpid(child, 0)[1]), flush=True)


def _become(code: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, path in ((0, os.devnull), (1, Path(folder, "output")), (2, Path(folder, "errors"))):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
