"""A signal that is to end a program ends it, whatever runs when it comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, signal, time
from scripts.programs.server_process import stop_on_signals

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0)  # here the handler raises, and Python ignores it

stop_on_signals()
try:
    Finalised()
    time.sleep(100)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_not_lost_while_an_object_is_finalised(name: str) -> None:
    program = [sys.executable, "-c", PROGRAM.format(name=name)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
