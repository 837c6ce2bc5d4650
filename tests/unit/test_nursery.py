"""Sessions that sleep: those that are asked at once wake in order, one for each core."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Hashable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mme.zygote.event_loop import EventLoop
from mme.zygote.model_slot import SessionHandle
from mme.zygote.nursery import Nursery
from mme.zygote.session_records import WorkerState

CORES = 2


class FakeLoop:
    """Calls what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], None]] = {}
        self.later: Callable[[], None] | None = None

    def watch(self, descriptor: int, handler: Callable[[], None], events: int) -> None:
        self.watched[descriptor] = handler

    def is_watched(self, descriptor: int) -> bool:
        return descriptor in self.watched

    def unwatch(self, descriptor: int) -> None:
        del self.watched[descriptor]

    def after(self, delay_s: float, key: Hashable, handler: Callable[[], None]) -> None:
        self.later = handler

    def look_again(self) -> None:
        handler, self.later = self.later, None
        assert handler is not None
        handler()


class Sleeper:
    """A session whose front end can send a request."""

    def __init__(self) -> None:
        self.front_end, self.connection = socket.socketpair()
        self.model = SimpleNamespace(guarded=lambda handler: handler)
        self.record = SimpleNamespace(state=WorkerState.ASLEEP)
        self.worker: object | None = None

    def is_hung_up(self) -> bool:
        return False


@pytest.fixture
def sleepers() -> Iterator[list[Sleeper]]:
    made = [Sleeper() for _ in range(5)]
    yield made
    for each in made:
        each.front_end.close()
        each.connection.close()


def test_as_many_wake_at_once_as_there_are_cores_in_the_order_in_which_they_were_asked(
    sleepers: list[Sleeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
    woken: list[int] = []

    def wake(session: Any) -> None:
        woken.append(sleepers.index(session))
        session.record.state, session.worker = WorkerState.WAKING, object()

    loop = FakeLoop()
    nursery = Nursery(cast(EventLoop, loop), wake=wake, end=lambda _: pytest.fail("it has not hung up"))
    for each in sleepers:
        nursery.add(cast(SessionHandle, each))
    for number in (3, 0, 4, 1, 2):
        loop.watched[sleepers[number].connection.fileno()]()
    assert woken == [3, 0]
    loop.look_again()
    assert woken == [3, 0], "both still load"
    sleepers[0].record.state = WorkerState.PREDICTING
    loop.look_again()
    assert woken == [3, 0, 4]
    sleepers[3].worker = None  # it has failed
    sleepers[4].record.state = WorkerState.PREDICTING
    loop.look_again()
    assert woken == [3, 0, 4, 1, 2]
    assert loop.later is None
