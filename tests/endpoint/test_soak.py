"""The soak of the local endpoint, as ./scripts/soak --endpoint runs it, and what it excuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak.endpoint import Record

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ci
def test_a_short_soak_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    output, log = tmp_path / "result.json", tmp_path / "endpoint.log"
    soak = [sys.executable, "-P", "-m", "scripts.programs.soak", "--endpoint", "--minutes", "0.3"]
    done = subprocess.run(
        [*soak, "--output", str(output), "--log", str(log)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()[-5000:]
    (row,) = json.loads(output.read_text())["rows"]
    assert row["counts"]["right answers"] > 0
    assert row["counts"]["invocations in CloudWatch"] == row["counts"]["invocations"]


def test_an_error_is_excused_around_a_kill_of_the_same_endpoint_only() -> None:
    record = Record()
    record.killed("many")
    at_s = record.kills[0].at_s
    assert record.excuses("many", "ServiceUnavailable", at_s - 1, at_s + 1)
    assert record.excuses("many", "ModelNotReadyException", at_s + 60, at_s + 61)
    assert record.excuses("many", "ModelError", at_s - 1, at_s + 1)
    assert not record.excuses("many", "ModelError", at_s + 2, at_s + 3)
    assert not record.excuses("chain", "ServiceUnavailable", at_s - 1, at_s + 1)
    assert not record.excuses("many", "ServiceUnavailable", at_s - 2, at_s - 1)
    assert not record.excuses("many", "InternalFailure", at_s - 1, at_s + 1)


def test_nothing_is_excused_once_the_endpoint_is_whole_again() -> None:
    record = Record()
    kill = record.killed("many")
    record.is_whole("many", kill.at_s + 1, kill.at_s + 1)  # a look before the kill was done tells nothing
    assert record.broken() == {"many"}
    kill.done_s = kill.at_s + 1
    record.is_whole("many", kill.at_s + 3, kill.at_s + 4)
    assert record.broken() == set()
    for code in ("ServiceUnavailable", "ModelNotReadyException"):
        assert record.excuses("many", code, kill.at_s + 3, kill.at_s + 70)
        assert not record.excuses("many", code, kill.at_s + 5, kill.at_s + 6)
