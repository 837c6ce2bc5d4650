"""What every test may use, and what happens around all of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.workermanage import WorkerController

from tests.harness import durations, parallel, programs, run
from tests.harness.docker import image
from tests.harness.server import ServerProcess

__all__ = ["default_server", "image", "shared"]

# The test process imports frameworks as a worker does; they read these at their import.
os.environ.setdefault("MXNET_ENGINE_TYPE", "NaiveEngine")
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would start a thread
# What containers of the local endpoint preload: each framework costs seconds of a processor.
os.environ.setdefault("MME_PRELOAD", "mxnet")

# Ignored signals are inherited: what tests start in the background of a script, or with nohup, would not listen.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# An example that takes long on a busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parents[2] / "shared"
RUN_FOLDER = pytest.StashKey[Path]()
LEFT_BEHIND = pytest.StashKey[list[str]]()
ALL = "--all"
# Why a test of this mark is not run without it.
WITH_ALL = {
    "ci": "fetches, packs, trains or waits for long: ./scripts/test --all, or -m ci",
    "docker": "builds the image, or runs it: ./scripts/test --all, or -m docker",
}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real trained models and photos that stands beside some checkouts."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs the trained models in ../shared, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def default_server() -> Iterator[ServerProcess]:
    """A server with nothing configured, for all tests that neither end it nor rely on being alone on it."""
    with ServerProcess() as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def servers_environment_stays() -> Iterator[None]:
    """What a module leaves in our environment would configure the servers of all modules after it."""
    before = _servers_environment()
    yield
    assert _servers_environment() == before


def _servers_environment() -> dict[str, str]:
    names = ("AWS_", "MME_", "MMS_", "SAGEMAKER_", "TMPDIR")
    return {name: value for name, value in os.environ.items() if name.startswith(names)}


# ---- which tests run, and in which order ----


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(ALL, action="store_true", help="also the tests marked ci and docker, as .ci/run does")


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``ci`` or ``docker`` wait for ``--all``, or for a ``-m`` that names their mark; unit tests are quick
    unless marked slow; what takes long comes first."""
    asked_for = WITH_ALL if config.getoption(ALL) else config.getoption("markexpr").split()
    waiting = [mark for mark in WITH_ALL if mark not in asked_for]
    for item in items:
        for mark in waiting:
            if item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=WITH_ALL[mark]))
        if parallel.is_quick(item):
            item.add_marker("quick")
    parallel.arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> parallel.Groups:
    """Where tests run in parallel (``--numprocesses``)."""
    return parallel.Groups(config, log)


# ---- the run's own folder, and what is left in the end ----


def pytest_configure(config: pytest.Config) -> None:
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        config.stash[RUN_FOLDER] = run.begin()
    else:
        run.join(Path(workerinput["run_folder"]))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """What a process of pytest-xdist is told."""
    node.workerinput["run_folder"] = str(node.config.stash[RUN_FOLDER])


@pytest.hookimpl(trylast=True)  # the processes of pytest-xdist have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    programs.end_programs()
    if RUN_FOLDER not in session.config.stash:
        return
    left = session.config.stash[LEFT_BEHIND] = run.end(session.config.stash[RUN_FOLDER])
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# ---- what the run cost ----


def pytest_runtestloop() -> None:
    durations.cpu_since_last_call_s()  # what came before the tests is not theirs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.cpu_s = durations.cpu_since_last_call_s()  # type: ignore[attr-defined]  # kept on its way between processes
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have to show, what the groups cost, and what was left behind."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    for text in parallel.shown(reports):
        terminalreporter.write_line(text)
    phases = [each for each in reports + terminalreporter.getreports("") if isinstance(each, pytest.TestReport)]
    costs = durations.by_group(phases, parallel.group_of)
    if len(costs) > 1:
        terminalreporter.section("slowest groups")
        for line in durations.table(costs):
            terminalreporter.write_line(line)
    left = terminalreporter.config.stash.get(LEFT_BEHIND, [])
    if left:
        terminalreporter.section("left behind by the tests, which fails the run", red=True)
        for line in left:
            terminalreporter.write_line(line)
