"""What ends containers after a local endpoint that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from local_endpoint.hosting import janitor

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
OBEDIENT = "import signal; print(flush=True); signal.pause()"


def start(program: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_a_group_that_has_ended_gets_no_second_signal_which_might_reach_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[int, int]] = []
    killpg = os.killpg

    def noted(group: int, number: int) -> None:
        if number:
            sent.append((group, number))
        killpg(group, number)

    monkeypatch.setattr(os, "killpg", noted)
    monkeypatch.setattr(janitor, "GRACE_S", 0.5)
    with start(STUBBORN) as stubborn, start(OBEDIENT) as obedient:
        reapers = [threading.Thread(target=each.wait) for each in (stubborn, obedient)]
        for reaper in reapers:
            reaper.start()
        janitor.end_groups({stubborn.pid, obedient.pid})
        for reaper in reapers:
            reaper.join()
    assert [obedient.returncode, stubborn.returncode] == [-signal.SIGTERM, -signal.SIGKILL]
    assert (stubborn.pid, signal.SIGKILL) in sent
    assert (obedient.pid, signal.SIGKILL) not in sent
