"""The first thing that a newcomer runs: training, the endpoint's whole life, and the commands it prints, for real."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness.marked_process import MarkedProcess
from tests.harness.ports import free_port
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "scripts" / "quickstart"
MODELS = ("digits_mlp", "digits_lenet", "digits_onnx", "digits_xgboost")
ALL_MODELS = {*MODELS, "digits_mlp_v2", *(f"digits_small_{number:02}" for number in range(1, 11))}
CALLS = 100
STORY_TIMEOUT_S = 300.0  # about 15 where the machine has nothing else to do
pytestmark = [pytest.mark.ci, pytest.mark.timeout(500)]  # trains
# It says its version and nothing else.
JAVA_THAT_FAILS = """\
#!/bin/sh
[ "$1" = -version ] && echo 'openjdk version "17.0.1"' >&2 && exit
echo Java fails on purpose >&2
exit 3
"""


class Run(MarkedProcess):
    """A quickstart on a port of its own."""

    def __init__(self, cache: Path, *arguments: str, **environment: str) -> None:
        self.port = free_port()
        super().__init__(cache.parent / f"quickstart-{self.port}.out")
        command: list[str | Path] = [QUICKSTART, "--cache", cache, "--port", str(self.port), *arguments]
        self.spawn(command, environment={**os.environ, **environment})

    def has_said(self, what: str) -> bool:
        """Whether it printed ``what``; fails the test where it ended before."""
        return self.has(lambda: what in self.log())


@contextmanager
def quickstart(cache: Path, *arguments: str, **environment: str) -> Iterator[Run]:
    """A running quickstart of which nothing is left afterwards, whatever happens in between."""
    run = Run(cache, *arguments, **environment)
    try:
        yield run
    finally:
        run.kill()


class Visit(NamedTuple):
    """A run that was left up: what it printed, what each printed command answered, and how Ctrl-C ended it."""

    text: str
    commands: dict[str, str]
    answers: dict[str, str]
    exit_code: int
    survivors: list[str]
    cache: Path


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """What README's reader does: runs it where nothing was trained yet, calls each printed command, presses Ctrl-C."""
    cache = tmp_path_factory.mktemp("quickstart") / "cache"
    with quickstart(cache) as run:
        wait_until(lambda: run.has_said("Pictures of all ten digits"), run.log_tail, STORY_TIMEOUT_S)
        text = run.log()
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
        exit_code = run.interrupt_group(timeout_s=40)
        survivors = [" ".join(each.cmdline()) for each in run.survivors()]
        return Visit(run.log(), commands, answers, exit_code, survivors, cache)


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


def test_it_trains_four_models_that_are_right_nearly_always(visit: Visit) -> None:
    accuracies = re.findall(
        r"^  (\w+) +(?:MXNet|ONNX|XGBoost) +([\d.]+)% of 450 held-out pictures right$", visit.text, re.MULTILINE
    )
    assert [name for name, _ in accuracies] == list(MODELS)
    assert all(float(percent) >= 95 for _, percent in accuracies), visit.text


def test_it_uploads_and_deploys(visit: Visit) -> None:
    for name in (*MODELS, "digits_mlp_v2"):
        assert re.search(rf"^  {name}\.tar\.gz +-> s3://digits-models/zoo/{name}\.tar\.gz ", visit.text, re.MULTILINE)
    assert "  digits_small_01.tar.gz … digits_small_10.tar.gz -> s3://digits-models/zoo/\n" in visit.text
    assert re.search(r"^  endpoint digits, 2 instances: InService after [\d.]+ s$", visit.text, re.MULTILINE)


def test_each_model_answers_with_the_five_best_and_the_second_call_is_quicker(visit: Visit) -> None:
    calls = r"^  (\w+)\.tar\.gz \(\w+, an? [\w ]+\): first call (\d+) ms \(download, load, answer\), second (\d+) ms$"
    timed = re.findall(calls, visit.text, re.MULTILINE)
    assert [name for name, _, _ in timed] == list(MODELS)
    assert all(int(second) < int(first) for _, first, second in timed), timed
    answers = re.findall(r"^    probability=([\d.]+), class=(\d) \w+$", visit.text, re.MULTILINE)
    assert len(answers) == 20, visit.text
    for first in range(0, 20, 5):  # five a model, best first
        assert answers[first][1] == "7", visit.text
        probabilities = [float(probability) for probability, _ in answers[first : first + 5]]
        assert probabilities == sorted(probabilities, reverse=True)
    assert "  the truth: 7\n" in visit.text


def test_its_tally_has_all_fourteen_models_and_a_hundred_calls_most_of_them_right(visit: Visit) -> None:
    rows = re.findall(r"^  (\w+)(?:\.tar\.gz)? +(\d+) +(\d+)(?: +\d+ ms +\d+ ms)?$", visit.text, re.MULTILINE)
    calls = {name: int(count) for name, count, _ in rows}
    right = {name: int(count) for name, _, count in rows}
    assert set(calls) == ALL_MODELS - {"digits_mlp_v2"} | {"all"}
    assert calls.pop("all") == CALLS == sum(calls.values())
    # the worst of them gets 85 % right alone: 75 of 100 is more than four standard deviations below what they get
    assert CALLS >= right.pop("all") == sum(right.values()) >= 75


def test_the_new_version_answers_beside_the_old_one(visit: Visit) -> None:
    for name, which in (("digits_mlp", "as before"), ("digits_mlp_v2", "the new one")):
        line = rf"^  {name}\.tar\.gz +{which} +probability=[\d.]+, class=7 seven, in \d+ ms$"
        assert re.search(line, visit.text, re.MULTILINE), visit.text


def test_it_unloads_a_model_in_a_container_and_the_endpoint_loads_it_again(visit: Visit) -> None:
    listed = re.search(r"^  GET /models: (\d+) loaded\n    ([0-9a-f]{32})  digits_mlp\.tar\.gz$", visit.text, re.M)
    assert listed, visit.text
    assert 1 <= int(listed[1]) <= len(ALL_MODELS)
    name = listed[2]
    assert f"  DELETE /models/{name}: digits_mlp.tar.gz is gone\n" in visit.text
    assert f"  POST /models/{name}/invoke: 404 Model not found: {name}\n" in visit.text
    assert "  The endpoint, asked for it again, loads it again: answered in " in visit.text


def test_once_it_cleans_up_and_says_so(visit: Visit) -> None:
    with quickstart(visit.cache, "--once") as run:
        assert run.wait(STORY_TIMEOUT_S) == 0, run.log()
        run.assert_nothing_survives()
    assert re.search(r"^  all gone after [\d.]+ s\n\nDone: the endpoint is stopped\.$", run.log(), re.MULTILINE)
    assert "Traceback" not in run.log()


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


def test_ctrl_c_cleans_up_what_is_left_and_stops_all(visit: Visit) -> None:
    assert visit.exit_code == 0, visit.text
    assert re.search(r"^  all gone after [\d.]+ s\n\nThe endpoint is stopped\.$", visit.text, re.MULTILINE)
    assert "Traceback" not in visit.text
    assert not visit.survivors


def test_the_steps_that_readme_shows_are_those_of_the_run(visit: Visit) -> None:
    """By number and name: figures differ from run to run, and what a step prints may be worded anew."""
    step = re.compile(r"^(\d+\. [^:\n]+)", re.MULTILINE)
    shown = (ROOT / "README.md").read_text().partition("$ ./scripts/quickstart\n")[2].partition("```")[0]
    assert len(step.findall(shown)) >= 3
    assert set(step.findall(shown)) <= set(step.findall(visit.text)), visit.text


def test_a_later_run_trains_nothing_and_a_hang_up_in_the_middle_stops_every_container_too(visit: Visit) -> None:
    with quickstart(visit.cache) as run:
        wait_until(lambda: run.has_said("InService after"), run.log_tail, STORY_TIMEOUT_S)
        assert run.stop(signal.SIGHUP, timeout_s=40) == 130, run.log()
        assert run.log().count("(kept from before)") == 4
        assert "Traceback" not in run.log()
        run.assert_nothing_survives()


def test_an_endpoint_that_does_not_come_up_is_explained_with_its_log(visit: Visit, tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(JAVA_THAT_FAILS)
    java.chmod(0o755)
    with quickstart(visit.cache, "--once", JAVA_HOME=str(tmp_path)) as run:
        assert run.wait(STORY_TIMEOUT_S) == 1
        run.assert_nothing_survives()
    assert "endpoint digits does not come into service: The primary container" in run.log()
    log = visit.cache / f"quickstart-{run.port}.log"
    assert f"The end of the log, {log}" in run.log()
    assert "Java fails on purpose" in log.read_text()
    assert "Traceback" not in run.log()


def test_training_that_was_interrupted_leaves_nothing_half_done(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with quickstart(cache, "--once") as run:
        wait_until(lambda: list(cache.glob(".training-*/*/models/*/*.params")), run.log_tail, STORY_TIMEOUT_S)
        assert run.stop(timeout_s=40) == 130
    assert [path.name for path in cache.iterdir()] == []
