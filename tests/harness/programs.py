"""Code that tests run in a process of its own: where memory is limited or measured, or MXNet configured anew."""

from __future__ import annotations

import os
import subprocess
import sys


def run_python(code: str, *arguments: object, **environment: str) -> str:
    """Runs ``code`` in a fresh process with one thread, where MXNet and our settings are what ``environment`` says.

    Returns what it printed; fails the test with its standard error where it does not end well.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MXNET", "MME"))}
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        env={
            **inherited,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=240,  # a few seconds, where the machine has nothing else to do
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout
