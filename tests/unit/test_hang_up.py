"""Who ends when MMS hangs up, and who does not: the watcher, with processes that the test forks itself."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from mme.zygote.hang_up import HangUps, OrphanLimit, has_ended
from mme.zygote.session_records import SessionRecords, WorkerState, make_shared
from tests.harness.waiting import wait_until


@dataclass
class Worker:
    """A child process that never looks at its connection, as a handler deep in C++."""

    connection: socket.socket
    slot: int
    pid: int
    given_up: bool = False

    def give_up(self) -> None:
        self.given_up = True
        os.kill(self.pid, signal.SIGKILL)


class Parent:
    """What the zygote does: hands out connections and watches them."""

    def __init__(self) -> None:
        descriptor = make_shared()
        self.records = SessionRecords(descriptor)
        os.close(descriptor)
        self.hang_ups = HangUps(self.records)
        self.workers: list[Worker] = []
        self.front_ends: list[socket.socket] = []

    def start(self, state: WorkerState) -> tuple[Worker, socket.socket]:
        front_end, connection = socket.socketpair()
        slot = len(self.workers)
        self.records.take(slot).state = state
        closed, has_closed = os.pipe()
        pid = os.fork()
        if pid == 0:
            front_end.close()
            for other in self.front_ends:
                other.close()
            os.close(closed)
            os.close(has_closed)
            while True:
                time.sleep(1000)
        os.close(has_closed)
        os.read(closed, 1)  # until the worker holds no front end's side any more: it would keep the connection open
        os.close(closed)
        worker = Worker(connection, slot, pid)
        self.hang_ups.add(worker)
        self.workers.append(worker)
        self.front_ends.append(front_end)
        return worker, front_end

    def stop(self) -> None:
        for worker in self.workers:
            os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            worker.connection.close()
        for front_end in self.front_ends:
            front_end.close()


@pytest.fixture
def parent() -> Iterator[Parent]:
    running = Parent()
    yield running
    running.stop()


def handle(parent: Parent, until: Callable[[], bool]) -> None:
    def handled() -> bool:
        parent.hang_ups.handle()
        return until()

    wait_until(handled, "the parent has seen it")


@pytest.mark.parametrize("state", [WorkerState.LOADING, WorkerState.PREDICTING])
def test_a_worker_is_ended_when_the_front_end_hangs_up_on_its_work(parent: Parent, state: WorkerState) -> None:
    worker, front_end = parent.start(state)
    other, _ = parent.start(state)
    front_end.close()
    handle(parent, lambda: worker.given_up)
    assert not other.given_up


@pytest.mark.parametrize("state", [WorkerState.STARTED, WorkerState.READY])
def test_an_idle_worker_sees_the_end_itself(parent: Parent, state: WorkerState) -> None:
    idle, front_end = parent.start(state)
    busy, front_end_of_busy = parent.start(WorkerState.PREDICTING)
    front_end.close()
    front_end_of_busy.close()
    handle(parent, lambda: busy.given_up)
    assert not idle.given_up
    assert has_ended(idle.connection)


def test_bytes_wake_nobody_whenever_they_come(parent: Parent) -> None:
    worker, front_end = parent.start(WorkerState.PREDICTING)
    other, front_end_of_other = parent.start(WorkerState.PREDICTING)
    front_end.sendall(b"the request itself, of which the kernel tells late")
    front_end_of_other.close()
    handle(parent, lambda: other.given_up)
    assert not worker.given_up
    assert not has_ended(worker.connection)


def test_an_end_behind_unread_bytes_is_seen(parent: Parent) -> None:
    worker, front_end = parent.start(WorkerState.PREDICTING)
    front_end.sendall(b"a request")
    front_end.close()
    handle(parent, lambda: worker.given_up)
    assert has_ended(worker.connection)


def test_an_end_wakes_the_parent_once(parent: Parent) -> None:
    _, front_end = parent.start(WorkerState.READY)
    busy, front_end_of_busy = parent.start(WorkerState.PREDICTING)
    front_end.close()
    front_end_of_busy.close()
    handle(parent, lambda: busy.given_up)
    assert parent.hang_ups._epoll.poll(0) == []  # the idle one is still there; the parent must not spin until it ends


def test_a_removed_connection_is_not_watched_although_the_worker_has_a_copy(parent: Parent) -> None:
    worker, front_end = parent.start(WorkerState.PREDICTING)
    other, front_end_of_other = parent.start(WorkerState.PREDICTING)
    parent.hang_ups.remove(worker)
    parent.hang_ups.remove(worker)  # again: nothing happens
    front_end.close()
    front_end_of_other.close()
    handle(parent, lambda: other.given_up)
    assert not worker.given_up


@pytest.mark.parametrize("orphaned", [True, False])
def test_the_request_of_an_orphan_ends_within_the_limit(orphaned: bool) -> None:
    pid = os.fork()
    if pid == 0:
        with OrphanLimit(-1 if orphaned else os.getppid(), 0.05):
            if orphaned:
                while True:
                    pass
        time.sleep(0.1)
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGALRM if orphaned else 7)


def test_what_an_orphan_does_in_time_goes_on() -> None:
    pid = os.fork()
    if pid == 0:
        with OrphanLimit(-1, 0.05):
            pass
        time.sleep(0.1)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
