"""What every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from xdist.remote import Producer

from tests.harness import parallel
from tests.harness.docker import image

__all__ = ["image", "shared"]

# The test process imports MXNet as a worker does; read by MXNet at its import.
os.environ.setdefault("MXNET_ENGINE_TYPE", "NaiveEngine")
os.environ.setdefault("MXNET_SUBGRAPH_BACKEND", "NONE")

# Ignored signals are inherited: what tests start in the background of a script, or with nohup, would not listen.
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real trained models and photos that stands beside some checkouts."""
    if not (SHARED / "models").is_dir():
        pytest.skip("needs the trained models in ../shared, which is not here")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first."""
    parallel.arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> parallel.Groups:
    """Where tests run side by side (``--numprocesses``)."""
    return parallel.Groups(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have to show, at the end."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    for text in parallel.shown(reports):
        terminalreporter.write_line(text)
