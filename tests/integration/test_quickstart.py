"""The first thing that a newcomer runs: training, serving, and the commands it prints, for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.ports import free_port
from tests.harness.server import MARK, marked_processes
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "scripts" / "quickstart"
MODELS = ("digits_mlp", "digits_lenet")
# What README promises of a run that finds everything fetched and trained.
LATER_RUN_LIMIT_S = 20


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart") / "cache"


class Run:
    """A quickstart in a session of its own, found again by a mark in its environment."""

    def __init__(self, cache: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        self.mark = uuid.uuid4().hex
        command = [str(QUICKSTART), "--cache", str(cache), "--port", str(self.port), *arguments]
        self.output = cache.parent / f"{self.mark}.out"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def exit_code(self, timeout_s: float = 120) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not within {timeout_s} s:\n{self.text()}") from None

    def assert_nothing_survives(self) -> None:
        survivors = [f"{each.pid} {' '.join(each.cmdline())}" for each in marked_processes(self.mark)]
        assert not survivors, f"still alive: {survivors}\n{self.text()}"


@contextmanager
def quickstart(cache: Path, *arguments: str, **environment: str) -> Iterator[Run]:
    """A running quickstart of which nothing is left afterwards, whatever happens in between."""
    run = Run(cache, *arguments, **environment)
    try:
        yield run
    finally:
        for each in marked_processes(run.mark):
            each.kill()
        run.process.wait()


def left_up(run: Run) -> list[str]:
    """Waits until the quickstart leaves its server up, and returns the commands that it prints."""

    def invited() -> bool:
        assert run.process.poll() is None, run.text()
        return "Pictures of all ten digits" in run.text()

    wait_until(invited, "the quickstart leaves the server up", timeout_s=120)
    return re.findall(r"^  (curl .*)$", run.text(), re.MULTILINE)


def shell(command: str) -> str:
    done = subprocess.run(["bash", "-c", command.replace("curl", "curl -sS", 1)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_once_trains_serves_shows_everything_and_stops(cache: Path) -> None:
    with quickstart(cache, "--once") as run:
        assert run.exit_code() == 0, run.text()
        run.assert_nothing_survives()
    text = run.text()
    accuracies = re.findall(r"^  (\w+) +([\d.]+)% of 450 held-out pictures right$", text, re.MULTILINE)
    assert [name for name, _ in accuracies] == list(MODELS)
    assert all(float(percent) >= 95 for _, percent in accuracies), text
    opaque = re.findall(r"^  (\w+)\.tar\.gz +loaded as ([0-9a-f]{32}) in \d+ ms$", text, re.MULTILINE)
    assert [name for name, _ in opaque] == list(MODELS)
    for _, name in opaque:  # listed with the path that SageMaker would give
        assert f"  {name}  ml/models/{name}/model" in text
    answers = re.findall(r"^    probability=([\d.]+), class=(\d) \w+$", text, re.MULTILINE)
    assert len(answers) == 10, text
    for first in (0, 5):  # five a model, best first
        assert answers[first][1] == "7", text
        probabilities = [float(probability) for probability, _ in answers[first : first + 5]]
        assert probabilities == sorted(probabilities, reverse=True)
    assert re.search(r"digits_mlp\.tar\.gz is gone; invoked again, the answer is 404 .*not found", text, re.IGNORECASE)


def test_a_later_run_trains_nothing_and_is_quick(cache: Path) -> None:
    with quickstart(cache, "--once") as first:
        assert first.exit_code() == 0, first.text()
    started_s = time.monotonic()
    with quickstart(cache, "--once") as run:
        assert run.exit_code() == 0, run.text()
    assert time.monotonic() - started_s < LATER_RUN_LIMIT_S
    assert run.text().count("(kept from before)") == 2


def test_the_commands_that_it_prints_work_and_ctrl_c_stops_all(cache: Path) -> None:
    with quickstart(cache) as run:
        listing, invocation, loading, unloading = left_up(run)
        listed = json.loads(shell(listing))["models"]
        assert len(listed) == 1
        best = json.loads(shell(invocation))
        assert len(best) == 5
        assert "class=7 seven" in best[0]
        shell(loading)
        assert len(json.loads(shell(listing))["models"]) == 2
        shell(unloading)
        remaining = json.loads(shell(listing))["models"]
        assert [each["modelName"] for each in remaining] == [
            json.loads(loading.partition("-d '")[2][:-1])["model_name"]
        ]

        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
        assert run.exit_code(40) == 0, run.text()
        assert "Stopping the server." in run.text()
        assert "Traceback" not in run.text()
        run.assert_nothing_survives()


def without_measurements(text: str) -> list[str]:
    """Lines with numbers that differ from run to run made equal, and without what README leaves out at its "…"."""
    lines = [line.partition("…")[0].rstrip() for line in text.splitlines() if line]
    lines = [re.sub(r"class=\d \w+", "class=#", line) for line in lines]
    return [re.sub(r"[0-9a-f]{32}|127\.0\.0\.1:\d+|[\d.]+", "#", line) for line in lines]


def test_readme_shows_what_it_really_prints(cache: Path) -> None:
    with quickstart(cache) as run:
        left_up(run)
    printed = [line.replace(" (kept from before)", "") for line in without_measurements(run.text())]
    shown = (ROOT / "README.md").read_text().partition("$ ./scripts/quickstart\n")[2].partition("```")[0]
    remaining = iter(printed)
    for line in without_measurements(shown):  # in this order
        assert any(each.startswith(line) for each in remaining), f"README shows {line!r}; printed is:\n{run.text()}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_from_elsewhere_stops_the_server_too(cache: Path, number: signal.Signals) -> None:
    with quickstart(cache) as run:
        left_up(run)
        run.process.send_signal(number)
        run.exit_code(40)
        run.assert_nothing_survives()


def test_a_server_that_cannot_start_is_explained_with_its_log(cache: Path) -> None:
    with quickstart(cache, "--once", SAGEMAKER_MODEL_SERVER_VMARGS="-XX:NoSuchOption") as run:
        assert run.exit_code() == 1
        run.assert_nothing_survives()
    log = cache / f"server-{run.port}.log"
    assert f"The end of its log, {log}" in run.text()
    assert "SAGEMAKER_MODEL_SERVER_VMARGS" in run.text()
    assert "Traceback" not in run.text()


def test_training_that_was_interrupted_leaves_nothing_half_done(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with quickstart(cache, "--once") as run:
        wait_until(lambda: list(cache.glob(".training-*/*/ml/models/*/model/*.params")), "the first model is saved", 60)
        run.process.send_signal(signal.SIGTERM)
        assert run.exit_code(40) == 130
    assert [path.name for path in cache.iterdir()] == []
