"""Forks of a process that has imported MXNet run code that they are given: see ``programs.run_with_mxnet``.

A line on standard input is JSON: [code, arguments, environment, folder]. The code's output goes to files ``output`` and
``errors`` in the folder; its exit code is the answer, a line on standard output. Ends with standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from tests.harness.forked import run_to_the_end

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Imports, and serves."""
    from mme import threads

    os.environ.update(threads.environment_of_template())
    from mme.frameworks.registry import adapter
    from mme.settings import Settings

    adapter("mxnet").import_framework(Settings())
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run_to_the_end(lambda: _become(*request))  # noqa: B023 (called at once)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _become(code: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, path in ((0, os.devnull), (1, Path(folder, "output")), (2, Path(folder, "errors"))):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
