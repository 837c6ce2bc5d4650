"""When the process for metrics is started, and what it is told, without one."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mme.settings import Settings
from mme.supervisor import metrics_handle
from mme.supervisor.metrics_handle import MetricsHandle

KILLED = int(signal.SIGKILL)  # as of os.waitpid


class Fixture:
    """A handle whose processes are numbers, and the clock that it looks at."""

    def __init__(self, handle: MetricsHandle) -> None:
        self.handle = handle
        self.now_s = 1000.0
        self.started: list[str] = []  # as which each was started
        self.cannot_start = False

    def monotonic(self) -> float:
        return self.now_s

    def start_module(self, module: str, arguments: list[str], settings: Settings, **_: Any) -> int:
        if self.cannot_start:
            raise OSError("no process can be started")
        self.started.append(arguments[4])
        return len(self.started)

    def run(self, duration_s: float) -> int:
        """As the supervisor's loop, while time goes on. Returns how many were started."""
        before = len(self.started)
        end_s = self.now_s + duration_s
        while (timeout_s := self.handle.timeout_s()) is not None and self.now_s + timeout_s <= end_s:
            assert timeout_s > 0, "a loop without a pause"
            self.now_s += timeout_s
            assert self.handle.is_due()
            self.handle.start()
            if self.handle.pid is not None:
                self.handle.on_exit(KILLED)
        self.now_s = end_s
        return len(self.started) - before


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emf: bool) -> Iterator[Fixture]:
    fixture = Fixture(MetricsHandle(Settings(emf=emf), tmp_path, 0))
    monkeypatch.setattr(metrics_handle, "time", fixture)
    monkeypatch.setattr(metrics_handle, "start_module", fixture.start_module)
    yield fixture
    for listener in fixture.handle._listeners:
        listener.close()


@pytest.mark.parametrize("emf", [True])
def test_one_that_keeps_dying_is_started_again_after_longer_and_longer_pauses(running: Fixture) -> None:
    running.handle.front_end_serves(None)
    running.handle.on_exit(KILLED)
    assert running.run(1 + 2 + 4 + 8 + 16 + 32) == 6
    assert running.run(600) == 10  # each minute
    assert running.started == ["first", *["again"] * 16]


@pytest.mark.parametrize("emf", [True])
def test_one_that_has_lived_is_started_at_once_and_pauses_begin_anew(running: Fixture) -> None:
    running.handle.front_end_serves(None)
    running.handle.on_exit(KILLED)
    assert running.run(1 + 2 + 4) == 3
    running.handle.start()
    running.now_s += 20
    running.handle.on_exit(KILLED)
    assert running.handle.pid == len(running.started) == 6
    running.handle.on_exit(KILLED)
    assert running.run(1) == 1


@pytest.mark.parametrize("emf", [True])
def test_one_that_could_not_be_started_was_not_the_first(running: Fixture) -> None:
    running.cannot_start = True
    running.handle.front_end_serves(None)
    assert running.run(1 + 2) == 0
    running.cannot_start = False
    assert running.run(4) == 1
    assert running.started == ["first"]


@pytest.mark.parametrize("emf", [False])
def test_without_lines_of_the_log_only_who_asks_starts_one(running: Fixture) -> None:
    running.handle.front_end_serves(None)
    assert running.started == []
    port = int((running.handle._runtime_dir / metrics_handle.PORT_FILE).read_text())
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        assert select.select(running.handle.descriptors(), [], [], 30)[0]
        running.handle.start()
        running.handle.on_exit(KILLED)
        assert connection.recv(1) == b""  # turned away
    assert not select.select(running.handle.descriptors(), [], [], 0)[0]
    assert running.run(600) == 0
    assert running.started == ["first"]
