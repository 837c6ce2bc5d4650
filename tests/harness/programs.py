"""Code that tests run in a process of its own: where memory is limited or measured, or MXNet configured anew."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

TIMEOUT_S = 240  # a few seconds, where the machine has nothing else to do
WITH_MXNET, WITH_LOCUST = (Path(__file__).with_name(f"program_with_{what}.py") for what in ("mxnet", "locust"))
LOAD_TEST = "from scripts.programs import load_test; from scripts.programs.console import run; run(load_test.main)"


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
    done = _run_in_fork(WITH_MXNET, code, arguments, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_load_test(*arguments: object, code: str = LOAD_TEST, **environment: str) -> subprocess.CompletedProcess[str]:
    """``./scripts/load_test ARGUMENTS``, or other ``code``, in a fork of a process that has imported what that imports.

    It saves two seconds of a processor: Locust, boto3 and matplotlib.
    """
    return _run_in_fork(WITH_LOCUST, code, arguments, environment)


def _run_in_fork(
    program: Path, code: str, arguments: tuple[object, ...], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    texts = list(map(str, arguments))
    if program not in _programs:
        _programs[program] = _Program(program)
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        exit_code = _programs[program].run(code, texts, environment, Path(folder))
        output, errors = ((Path(folder) / name).read_text() for name in ("output", "errors"))
    return subprocess.CompletedProcess([program.name, *texts], exit_code, output, errors)


def end_programs() -> None:
    """Ends what ``run_with_mxnet`` and ``run_load_test`` fork from; each starts anew when it is needed again."""
    while _programs:
        _programs.popitem()[1].end()


class _Program:
    """One that serves forks (``forked.serve_forks``): asked in lines of JSON, it answers each with an exit code."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", program],  # -P: beside it lies a requests.py
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


_programs: dict[Path, _Program] = {}


def _environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MXNET", "MME", "AWS_"))}
    return {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
