"""The first thing that a newcomer runs: training, the endpoint's whole life, and the commands it prints, for real."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.ports import free_port
from tests.harness.server import MARK, marked_processes
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "scripts" / "quickstart"
MODELS = ("digits_mlp", "digits_lenet")
ALL_MODELS = {*MODELS, "digits_mlp_v2", *(f"digits_small_{number:02}" for number in range(1, 11))}
CALLS = 100
# It says its version and nothing else.
JAVA_THAT_FAILS = """\
#!/bin/sh
[ "$1" = -version ] && echo 'openjdk version "17.0.1"' >&2 && exit
echo Java fails on purpose >&2
exit 3
"""


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

    def has_said(self, what: str) -> bool:
        """Whether it printed ``what``; fails the test where it ended before."""
        assert self.process.poll() is None, self.text()
        return what in self.text()

    def survivors(self) -> list[str]:
        return [f"{each.pid} {' '.join(each.cmdline())}" for each in marked_processes(self.mark)]

    def assert_nothing_survives(self) -> None:
        survivors = self.survivors()
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


class Ended(NamedTuple):
    """A run to its end, and where it kept what it trained."""

    text: str
    cache: Path


class Visit(NamedTuple):
    """A run that was left up: what it printed, what each printed command answered, and how Ctrl-C ended it."""

    text: str
    commands: dict[str, str]
    answers: dict[str, str]
    exit_code: int
    survivors: list[str]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """``--once`` where nothing was trained yet. It ends well and leaves nothing, or no test here has a ground."""
    cache = tmp_path_factory.mktemp("quickstart") / "cache"
    with quickstart(cache, "--once") as run:
        assert run.exit_code() == 0, run.text()
        run.assert_nothing_survives()
    return Ended(run.text(), cache)


@pytest.fixture(scope="module")
def visit(first_run: Ended) -> Visit:
    """What README's reader does: runs it, calls each printed command, deletes the endpoint, presses Ctrl-C."""
    with quickstart(first_run.cache) as run:
        wait_until(lambda: run.has_said("Pictures of all ten digits"), "the quickstart leaves its endpoint up", 120)
        text = run.text()
        printed = re.findall(r"^  (\S.*)$", text.partition("By hand, in another terminal:")[2], re.MULTILINE)
        # every printed line has its place here: another one fails the test until it is tried, too
        names = ["cd", "export", "list_models", "invoke", "boto3", "aws", "endpoint"]
        names += ["ping", "models", "container", "unload", "load"]
        commands = dict(zip(names, printed, strict=True))
        setting = f"{commands.pop('cd')}; {commands.pop('export')}"
        answers = {name: shell(f"{setting}; {command}") for name, command in commands.items() if name != "load"}
        answers["models after unload"] = shell(commands["models"])
        answers["load"] = shell(commands["load"])
        answers["models after load"] = shell(commands["models"])
        # a visitor may tidy up; the clean-up then meets an endpoint, configuration and model that are gone
        shell(f"{setting}; ./scripts/delete_endpoint --name digits --all")
        os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
        exit_code = run.exit_code(40)
        return Visit(run.text(), commands, answers, exit_code, run.survivors())


def shell(commands: str) -> str:
    """What bash prints for ``commands``; fails the test where one fails, an HTTP status of 400 and above included."""
    commands = commands.replace("curl ", "curl -sS --fail-with-body ", 1)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # the AWS CLI is in the venv
    done = subprocess.run(
        ["bash", "-euc", commands], capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
    return done.stdout


def first_json(text: str) -> list[str]:
    """The JSON that ``text`` begins with."""
    value: list[str] = json.JSONDecoder().raw_decode(text)[0]
    return value


def loaded_names(answer: str) -> set[str]:
    """The names in a container's list of models."""
    return {each["modelName"] for each in json.loads(answer)["models"]}


def test_it_trains_two_models_that_are_right_nearly_always(first_run: Ended) -> None:
    accuracies = re.findall(r"^  (\w+) +([\d.]+)% of 450 held-out pictures right$", first_run.text, re.MULTILINE)
    assert [name for name, _ in accuracies] == list(MODELS)
    assert all(float(percent) >= 95 for _, percent in accuracies), first_run.text


def test_it_uploads_and_deploys(first_run: Ended) -> None:
    for name in (*MODELS, "digits_mlp_v2"):
        assert re.search(
            rf"^  {name}\.tar\.gz +-> s3://digits-models/zoo/{name}\.tar\.gz ", first_run.text, re.MULTILINE
        )
    assert "  digits_small_01.tar.gz … digits_small_10.tar.gz -> s3://digits-models/zoo/\n" in first_run.text
    assert re.search(r"^  endpoint digits, 2 instances: InService after [\d.]+ s$", first_run.text, re.MULTILINE)


def test_both_models_answer_with_the_five_best_and_the_second_call_is_quicker(first_run: Ended) -> None:
    calls = r"^  (\w+)\.tar\.gz: first call (\d+) ms \(download, load, answer\), second (\d+) ms$"
    timed = re.findall(calls, first_run.text, re.MULTILINE)
    assert [name for name, _, _ in timed] == list(MODELS)
    assert all(int(second) < int(first) for _, first, second in timed), timed
    answers = re.findall(r"^    probability=([\d.]+), class=(\d) \w+$", first_run.text, re.MULTILINE)
    assert len(answers) == 10, first_run.text
    for first in (0, 5):  # five a model, best first
        assert answers[first][1] == "7", first_run.text
        probabilities = [float(probability) for probability, _ in answers[first : first + 5]]
        assert probabilities == sorted(probabilities, reverse=True)
    assert "  the truth: 7\n" in first_run.text


def test_its_tally_has_all_twelve_models_and_a_hundred_calls_most_of_them_right(first_run: Ended) -> None:
    rows = re.findall(r"^  (\w+)(?:\.tar\.gz)? +(\d+) +(\d+)(?: +\d+ ms +\d+ ms)?$", first_run.text, re.MULTILINE)
    calls = {name: int(count) for name, count, _ in rows}
    right = {name: int(count) for name, _, count in rows}
    assert set(calls) == ALL_MODELS - {"digits_mlp_v2"} | {"all"}
    assert calls.pop("all") == CALLS == sum(calls.values())
    # the worst of them gets 85 % right alone: 75 of 100 is more than four standard deviations below what they get
    assert CALLS >= right.pop("all") == sum(right.values()) >= 75


def test_the_new_version_answers_beside_the_old_one(first_run: Ended) -> None:
    for name, which in (("digits_mlp", "as before"), ("digits_mlp_v2", "the new one")):
        line = rf"^  {name}\.tar\.gz +{which} +probability=[\d.]+, class=7 seven, in \d+ ms$"
        assert re.search(line, first_run.text, re.MULTILINE), first_run.text


def test_it_unloads_a_model_in_a_container_and_the_endpoint_loads_it_again(first_run: Ended) -> None:
    listed = re.search(r"^  GET /models: (\d+) loaded\n    ([0-9a-f]{32})  digits_mlp\.tar\.gz$", first_run.text, re.M)
    assert listed, first_run.text
    assert 1 <= int(listed[1]) <= len(ALL_MODELS)
    name = listed[2]
    assert f"  DELETE /models/{name}: digits_mlp.tar.gz is gone\n" in first_run.text
    assert f"  POST /models/{name}/invoke: 404 Model not found: {name}\n" in first_run.text
    assert "  The endpoint, asked for it again, loads it again: answered in " in first_run.text


def test_once_it_cleans_up_and_says_so(first_run: Ended) -> None:
    assert re.search(r"^  all gone after [\d.]+ s\n\nDone: the endpoint is stopped\.$", first_run.text, re.MULTILINE)
    assert "Traceback" not in first_run.text


def test_the_printed_commands_list_and_invoke_through_the_endpoint(visit: Visit) -> None:
    listed = {line.split(".tar.gz")[0] for line in visit.answers["list_models"].splitlines()}
    assert listed == ALL_MODELS
    for name in ("invoke", "boto3", "aws", "endpoint"):
        best = first_json(visit.answers[name])
        assert len(best) == 5, name
        assert "class=7 seven" in best[0], name


def test_the_printed_commands_reach_one_of_its_containers(visit: Visit) -> None:
    assert json.loads(visit.answers["ping"]) == {"status": "Healthy"}
    best = first_json(visit.answers["container"])
    assert "class=7 seven" in best[0]
    unloaded = visit.commands["unload"].rpartition("/")[2]
    before = loaded_names(visit.answers["models"])
    assert unloaded in before
    assert loaded_names(visit.answers["models after unload"]) == before - {unloaded}
    assert loaded_names(visit.answers["models after load"]) == before
    loading = json.loads(shlex.split(visit.commands["load"])[-1])
    assert loading["model_name"] == unloaded


def test_a_later_run_trains_nothing(visit: Visit) -> None:
    assert visit.text.count("(kept from before)") == 2


def test_ctrl_c_cleans_up_what_is_left_and_stops_all(visit: Visit) -> None:
    assert visit.exit_code == 0, visit.text
    assert re.search(r"^  all gone after [\d.]+ s\n\nThe endpoint is stopped\.$", visit.text, re.MULTILINE)
    assert "Traceback" not in visit.text
    assert not visit.survivors


def without_measurements(text: str) -> list[str]:
    """Lines with what differs from run to run made equal, and without what README leaves out at its "…"."""
    lines = [line.partition("…")[0].rstrip() for line in text.splitlines() if line]
    lines = [re.sub(r"class=\d \w+", "class=#", line) for line in lines]
    lines = [re.sub(r"\b[0-9a-f]{16,32}\b|127\.0\.0\.1:\d+|[\d.]+", "#", line) for line in lines]
    return [re.sub(r"(?<=\S) +", " ", line) for line in lines]  # columns are as wide as their numbers


def test_readme_shows_what_it_really_prints(visit: Visit) -> None:
    printed = [line.replace(" (kept from before)", "") for line in without_measurements(visit.text)]
    shown = (ROOT / "README.md").read_text().partition("$ ./scripts/quickstart\n")[2].partition("```")[0]
    remaining = iter(printed)
    for line in without_measurements(shown):  # in this order
        assert any(each.startswith(line) for each in remaining), f"README shows {line!r}; printed is:\n{visit.text}"


def test_a_hang_up_in_the_middle_stops_every_container_too(first_run: Ended) -> None:
    with quickstart(first_run.cache) as run:
        wait_until(lambda: run.has_said("InService after"), "the endpoint is in service", 60)
        run.process.send_signal(signal.SIGHUP)
        assert run.exit_code(40) == 130, run.text()
        assert "Traceback" not in run.text()
        run.assert_nothing_survives()


def test_an_endpoint_that_does_not_come_up_is_explained_with_its_log(first_run: Ended, tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(JAVA_THAT_FAILS)
    java.chmod(0o755)
    with quickstart(first_run.cache, "--once", JAVA_HOME=str(tmp_path)) as run:
        assert run.exit_code() == 1
        run.assert_nothing_survives()
    assert "endpoint digits does not come into service: The primary container" in run.text()
    log = first_run.cache / f"quickstart-{run.port}.log"
    assert f"The end of the log, {log}" in run.text()
    assert "Java fails on purpose" in log.read_text()
    assert "Traceback" not in run.text()


def test_training_that_was_interrupted_leaves_nothing_half_done(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with quickstart(cache, "--once") as run:
        wait_until(lambda: list(cache.glob(".training-*/*/models/*/*.params")), "the first model is saved", 60)
        run.process.send_signal(signal.SIGTERM)
        assert run.exit_code(40) == 130
    assert [path.name for path in cache.iterdir()] == []
