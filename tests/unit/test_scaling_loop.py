"""The loop that has workers follow traffic, on memory as the front end writes it and pipes without a front end."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mme.capacity import scaling
from mme.front_end import COMMANDS, EVENTS
from mme.settings import Settings
from mme.supervisor import model_statistics, scaling_loop
from mme.supervisor.agent import Agent
from mme.supervisor.model_statistics import ModelStatistics
from mme.supervisor.scaling_loop import ScalingLoop

RECORD_BYTES, NAME_AT, ALL_BUSY_AT = 4096, 1024, 672
USUAL = {"generation": 1, "state": 1, "workers": 1, "wanted_workers": 1, "batch_size": 1}
BOUNDS = {"min_workers": 1, "max_workers": 2, "max_idle_s": 60}


class Clock:
    """In the place of the time module; a look takes no time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def thread_time(self) -> float:
        return 0.0


class Memory:
    """What the front end writes."""

    def __init__(self, descriptor: int) -> None:
        self._bytes = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._models: list[str] = []

    def model(self, name: str, **values: int) -> None:
        """A model's numbers, from now on."""
        if name not in self._models:
            self._models.append(name)
            self._header("used_records", len(self._models) + 1)
            encoded = name.encode()
            start = self._start(name)
            self._bytes[start + NAME_AT : start + NAME_AT + len(encoded)] = encoded
            values = {**USUAL, **BOUNDS, "name_bytes": len(encoded), **values}
        for field, value in values.items():
            at = ALL_BUSY_AT if field == "all_busy_ns" else 8 * model_statistics._NUMBERS.index(field)
            struct.pack_into("=q", self._bytes, self._start(name) + at, value)
        waiting = 8 * model_statistics._NUMBERS.index("waiting")
        numbers = (struct.unpack_from("=q", self._bytes, self._start(each) + waiting)[0] for each in self._models)
        self._header("waiting", sum(numbers))

    def _start(self, name: str) -> int:
        return RECORD_BYTES * (2 + self._models.index(name))  # after the header and the record of all others

    def _header(self, field: str, value: int) -> None:
        struct.pack_into("=q", self._bytes, 8 * model_statistics._HEADER.index(field), value)


class FrontEnd:
    """The other end of the pipes."""

    def __init__(self, folder: Path) -> None:
        self._commands = os.open(folder / COMMANDS, os.O_RDONLY | os.O_NONBLOCK)
        self._events = os.open(folder / EVENTS, os.O_WRONLY)

    def tell(self) -> None:
        os.write(self._events, b"\1")

    def commands(self) -> list[str]:
        """What it was told since the last call."""
        try:
            return os.read(self._commands, 65536).decode().splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self._commands)
        os.close(self._events)


class Fixture:
    """A loop with all that it sees and does."""

    def __init__(self, loop: ScalingLoop, clock: Clock, memory: Memory, front_end: FrontEnd) -> None:
        self.loop, self.clock, self.memory, self.front_end = loop, clock, memory, front_end
        self.looks = 0

    def run(self, duration_s: float) -> list[str]:
        """As the supervisor's loop, while time goes on. Returns what the front end was told."""
        end_s = self.clock.now_s + duration_s
        while (timeout_s := self.loop.timeout_s()) is not None and self.clock.now_s + timeout_s <= end_s:
            self.clock.now_s += timeout_s
            assert self.loop.is_due()
            self.loop.look()
            self.looks += 1
        self.clock.now_s = end_s
        return self.front_end.commands()

    def event(self) -> None:
        self.front_end.tell()
        self.loop.on_event()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fixture]:
    clock, agent, descriptor = Clock(), Agent(tmp_path), model_statistics.make_statistics(64)
    monkeypatch.setattr(scaling_loop, "time", clock)
    front_end = FrontEnd(tmp_path)
    loop = ScalingLoop(Settings(), agent, ModelStatistics(descriptor), cores=2)
    yield Fixture(loop, clock, Memory(descriptor), front_end)
    front_end.close()
    agent.close()
    os.close(descriptor)


def test_it_rests_until_there_is_an_event_and_a_second_after_the_last(running: Fixture) -> None:
    running.memory.model("a")
    assert running.loop.timeout_s() is None
    running.event()
    assert running.loop.timeout_s() == 0
    running.run(10)
    assert running.loop.timeout_s() is None
    assert running.looks == pytest.approx(scaling_loop.LOOK_ON_S / scaling.BUSY_LOOK_S, abs=2)


def test_a_model_that_keeps_requests_waiting_gets_a_worker(running: Fixture) -> None:
    running.memory.model("b")
    running.memory.model("a model", waiting=9, busy_workers=1)
    running.event()
    assert running.run(0.2) == ["0 scale 2 a model"]


def test_what_was_not_needed_is_taken_back_without_an_event(running: Fixture) -> None:
    running.memory.model("a", wanted_workers=2, workers=2, all_busy_ns=1000 * 10**9)
    running.event()
    assert running.run(59) == []
    looks = running.looks
    assert running.run(2) == ["0 scale 1 a"]
    assert running.looks < looks + 5


def test_a_worker_that_is_refused_is_asked_for_again_later(running: Fixture) -> None:
    running.memory.model("a", waiting=9, busy_workers=1)
    running.event()
    assert running.run(10) == ["0 scale 2 a"] * 4  # after 1, 2 and 4 s


def test_a_model_that_is_unloaded_is_forgotten(running: Fixture) -> None:
    running.memory.model("a", waiting=9, busy_workers=1)
    running.event()
    assert running.run(0.2) == ["0 scale 2 a"]
    running.memory.model("a", state=0, wanted_workers=0, waiting=0)
    assert running.run(60) == []
    assert running.loop.timeout_s() is None


def test_a_record_that_gets_another_name_is_another_model(running: Fixture) -> None:
    running.memory.model("a", waiting=9, busy_workers=1)
    running.event()
    running.run(0.05)
    running.memory.model("a", generation=2, name_bytes=0)
    assert running.run(0.05) == []


@pytest.mark.parametrize("event_s", [0.1, 0.5, 10], ids="an event each {} s".format)
@pytest.mark.parametrize("waiting", [0, 1], ids=["nothing waits", "requests wait"])
def test_looks_that_take_long_are_fewer(
    running: Fixture, monkeypatch: pytest.MonkeyPatch, event_s: float, waiting: int
) -> None:
    used_s = iter(range(10**6))
    monkeypatch.setattr(running.clock, "thread_time", lambda: next(used_s) * 0.005, raising=False)
    running.memory.model("a", waiting=waiting)
    for _ in range(round(10 / event_s)):
        running.event()
        running.run(event_s)
    most = 10 / (0.005 / scaling_loop.MOST_OF_A_CORE)
    assert 1 <= running.looks <= most + 2
    if waiting:
        assert running.looks >= most - 2


def test_a_look_that_was_short_holds_no_event_up(running: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with one model: 0.1 ms."""
    used_s = iter(range(10**6))
    monkeypatch.setattr(running.clock, "thread_time", lambda: next(used_s) * 0.0001, raising=False)
    running.memory.model("a")
    running.event()
    running.run(10)
    running.memory.model("a", waiting=9, busy_workers=1)
    running.event()
    assert running.run(0.1) == ["0 scale 2 a"]


def test_a_model_that_is_registered_during_a_look_disturbs_nobody(
    running: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_of = ModelStatistics.__len__

    def count_and_register_another(statistics: ModelStatistics) -> int:
        count = count_of(statistics)
        running.memory.model(f"model {count}")
        return count

    monkeypatch.setattr(ModelStatistics, "__len__", count_and_register_another)
    running.memory.model("a", waiting=9, busy_workers=1)
    running.event()
    assert running.run(0.2) == ["0 scale 2 a"]


def test_a_look_that_fails_is_logged_and_the_next_one_works(
    running: Fixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running.memory.model("a", waiting=9, busy_workers=1)
    running.event()
    numbers = running.loop._statistics._numbers
    monkeypatch.setattr(running.loop._statistics, "_numbers", numbers[:1])
    assert running.run(0.2) == []
    assert "looking at them failed" in caplog.text
    monkeypatch.setattr(running.loop._statistics, "_numbers", numbers)
    assert running.run(2) == ["0 scale 2 a"]


def test_a_sample_for_scaling_says_what_the_whole_sample_says(running: Fixture) -> None:
    names = [each for each in model_statistics.ScalingSample._fields if each not in ("name", "all_busy_ns")]
    values: dict[str, Any] = {name: 100 + number for number, name in enumerate(names)}
    running.memory.model("a", **values, all_busy_ns=7)
    statistics = running.loop._statistics
    assert statistics.scaling_sample(1)._asdict() == {"name": "a", **values, "all_busy_ns": 7}
    whole = statistics.sample(1)._asdict()
    assert {name: whole[name] for name in names if name != "state"} == {
        name: value for name, value in values.items() if name != "state"
    }
