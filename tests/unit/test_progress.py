"""Progress bars: on a terminal they are seen, in a log they leave nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import threading
from scripts.programs.progress import REFRESH_S, bytes_bar, steps_bar, waiting
with steps_bar("training", 4, "epochs") as bar:
    for _ in range(4):
        bar.update()
        bar.refresh()
with bytes_bar("packing", 2_000_000, 500_000) as bar:
    bar.update(1_500_000)
    bar.refresh()
with waiting("creating the endpoint"):
    threading.Event().wait(1 + 2 * REFRESH_S)
"""


def test_a_terminal_sees_what_is_done_of_what() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen([sys.executable, "-P", "-c", WORK], cwd=ROOT, stderr=theirs)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # the terminal's other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0
    text = seen.decode()
    assert "training: 100%" in text
    assert "4/4" in text
    assert "packing:  25%" in text, "what was there before counts as done"
    assert "2.00M/2.00M" in text
    assert "creating the endpoint 00:00" in text
    assert "creating the endpoint 00:01" in text


def test_a_log_stays_empty() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", WORK], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
