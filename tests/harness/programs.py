"""Code that tests run in a process of its own: where memory is limited or measured, or MXNet configured anew."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

TIMEOUT_S = 240  # a few seconds, where the machine has nothing else to do
WITH_MXNET = Path(__file__).with_name("program_with_mxnet.py")


def run_python(code: str, *arguments: object, **environment: str) -> str:
    """Runs ``code`` in a fresh process with one thread, where MXNet and our settings are what ``environment`` says.

    Returns what it printed; fails the test with its standard error where it does not end well.
    """
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        env=_environment() | environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def run_with_mxnet(code: str, *arguments: object, **environment: str) -> str:
    """The same in a fork of a process that has imported MXNet, as a template has, and nothing else.

    It saves two seconds of a processor. Not for what MXNet or NumPy read as they are imported, nor for their threads.
    """
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        exit_code = _program().run(code, list(map(str, arguments)), environment, Path(folder))
        output, errors = ((Path(folder) / name).read_text() for name in ("output", "errors"))
    assert exit_code == 0, errors[-3000:]
    return output


def end_programs() -> None:
    """Ends what ``run_with_mxnet`` forks from; it starts anew when it is needed again."""
    if _program.cache_info().currsize:
        _program().end()
        _program.cache_clear()


class _Program:
    """``program_with_mxnet.py``: it is asked in lines of JSON, and answers each with an exit code."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", WITH_MXNET],  # -P: beside it lies a requests.py
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, arguments: list[str], environment: dict[str, str], folder: Path) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([code, arguments, environment, str(folder)]) + "\n")
        self._process.stdin.flush()
        answers, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
        answer = self._process.stdout.readline() if answers else ""
        if not answer:
            self._process.kill()  # its fork dies with it
            end_programs()
            raise AssertionError(f"no answer within {TIMEOUT_S} s, or it ended")
        return int(answer)

    def end(self) -> None:
        """Closes its standard input, which is its end."""
        self._process.communicate()


@cache
def _program() -> _Program:
    return _Program()


def _environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MXNET", "MME"))}
    return {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
