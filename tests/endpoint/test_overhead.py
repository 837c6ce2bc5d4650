"""The benchmarks of the local endpoint, as ./scripts/bench runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ci
@pytest.mark.parametrize("how", [[], ["--auth"]])
def test_what_the_front_adds_to_a_warm_invocation_is_measured(tmp_path: Path, how: list[str]) -> None:
    output = tmp_path / "result.json"
    bench = [sys.executable, "-P", "-m", "scripts.programs.bench", "endpoint_overhead"]
    done = subprocess.run(
        [*bench, *how, "--rounds", "1", "--block", "20", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (target,) = json.loads(output.read_text())["targets"]
    assert target["limit"] == (2.5 if "--auth" in how else 1.5), target
    assert isinstance(target["value"], float), target


@pytest.mark.ci
def test_many_clients_on_many_models_get_right_answers_and_are_counted(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    bench = [sys.executable, "-P", "-m", "scripts.programs.bench", "endpoint_clients"]
    done = subprocess.run(
        [*bench, "--clients", "8", "--models", "10", "--seconds", "2", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    (row,), (target,) = found["rows"], found["targets"]
    assert row["asked"] == 10 and row["counted"] == row["calls"] > 10
    assert target["value"] == 0
