"""Ctrl-C, also for programs that a shell's script started in the background: those inherit SIGINT as ignored."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.endpoint.program import ROOT, Program

# what a script's shell does for a job that it starts with &
IGNORING = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")


def test_the_local_endpoint_ends_on_sigint_however_it_was_started(tmp_path: Path) -> None:
    program = Program(tmp_path, before=IGNORING)
    try:
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(30) == 0
    finally:
        program.kill()


def test_programs_that_stop_on_signals_stop_on_sigint_however_they_were_started() -> None:
    """As ``serve``, ``quickstart`` and ``soak`` do."""
    code = (
        "import signal\n"
        "from scripts.programs.server_process import stop_on_signals\n"
        "stop_on_signals()\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    signal.pause()\n"
        "except KeyboardInterrupt:\n"
        "    print('left in order')\n"
    )
    process = subprocess.Popen([*IGNORING, sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[0] == "left in order\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
