"""Calls of the programs in scripts/, without the half second that each spends on a shell, setup and imports."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from tests.harness.forked import run_to_the_end

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# The last line of those that start a program of scripts/programs; lib/run sets up what the option says.
STARTS = re.compile(r'^exec "\$\(dirname "\$0"\)/lib/run" (--samples |--dev |)(\w+) "\$@"\n\Z', re.MULTILINE)
TIMEOUT_S = 120


def started_by(script: str) -> str | None:
    """The module in scripts/programs that ``scripts/SCRIPT`` starts; None where it is a program of its own."""
    found = STARTS.search((SCRIPTS / script).read_text())
    return found.group(2) if found else None


def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``./scripts/SCRIPT ARGUMENTS``: a fork of this process, which keeps the imports, runs what the script starts."""
    name = started_by(script)
    if name is None:
        return call_shell(script, *arguments)
    importlib.import_module(f"scripts.programs.{name}")
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if pid == 0:
            run_to_the_end(lambda: _run(name, arguments, output, errors))
        try:
            _, status = os.waitpid(pid, 0)
        except BaseException:  # the test's time is up
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([script, *arguments], os.waitstatus_to_exitcode(status), *texts)


def call_shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same as a user does it."""
    return subprocess.run([SCRIPTS / script, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)


def _run(name: str, arguments: tuple[str, ...], output: BinaryIO, errors: BinaryIO) -> None:
    """In the fork."""
    os.dup2(output.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = [f"{name}.py", *arguments]
    runpy.run_path(str(SCRIPTS / "programs" / f"{name}.py"), run_name="__main__")
