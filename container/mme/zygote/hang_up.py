"""Ends a worker whose front end has hung up on it during a load or a request.

MMS closes a connection when it gives up waiting, unregisters the model, or dies. Between two requests the worker reads
the end itself. During one its handler may be anywhere, in a loop or deep in C++, so another process has to act: the
parent, which holds a descriptor of each connection that it handed out.

    parent      ``HangUps``: an epoll of those descriptors, for their end alone. Bytes of a request do not wake it.
    worker      writes its state, then looks whether the connection has ended (``has_ended``); only then it works.

So no end is missed: one that comes before the worker looks is seen by the worker, one that comes after it by the
parent, which finds the state written. A kill has this one cause.

If the parent has died, nobody else holds the connection, and nobody learns of its end while a handler is at work. The
worker then limits its requests to the time that the front end waits (``OrphanLimit``); what was under way when the
parent died is ended by the root (``orphans.py``).
"""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import Protocol

from mme.zygote.session_records import SessionRecords, WorkerState

WORKING = (WorkerState.LOADING, WorkerState.PREDICTING, WorkerState.WAKING)
_ENDED = select.EPOLLRDHUP  # EPOLLHUP and EPOLLERR are always told


class Watched(Protocol):
    """A worker, as its parent has it."""

    connection: socket.socket
    slot: int

    def give_up(self) -> None:
        """Kills the process and what it has started."""


class HangUps:
    """The connections that a process has handed out. Its ``fileno`` can be read when one of them has ended."""

    def __init__(self, records: SessionRecords) -> None:
        self._records = records
        self._epoll = select.epoll()
        self._workers: dict[int, Watched] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, worker: Watched) -> None:
        """Watches until the end of the connection, or until ``remove``."""
        descriptor = worker.connection.fileno()
        self._epoll.register(descriptor, _ENDED | select.EPOLLONESHOT)
        self._workers[descriptor] = worker

    def remove(self, worker: Watched) -> None:
        """Before the connection is closed: the worker's own copy of it would keep it in the epoll."""
        descriptor = worker.connection.fileno()
        if self._workers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def handle(self) -> None:
        """Gives up the workers that were at work; the others find the end of their connection themselves."""
        for descriptor, _ in self._epoll.poll(0):
            worker = self._workers.get(descriptor)
            if worker and self._records[worker.slot].state in WORKING:
                worker.give_up()


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed the connection; bytes that it sent before may still be there to read."""
    return bool(end_of(connection).poll(0))


def end_of(connection: socket.socket) -> select.poll:
    """What can be polled for the end of the connection, for who asks often; see ``has_ended``."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return poll


class OrphanLimit:
    """Around a load or a request: where the parent has died before it began, it may take ``limit_s`` at most.

    That is how long the front end waits. The kernel ends the process then (SIGALRM), wherever its handler is.
    """

    def __init__(self, parent: int, limit_s: float) -> None:
        self._parent = parent
        self._limit_s = limit_s

    def __enter__(self) -> None:
        if os.getppid() != self._parent:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._limit_s)

    def __exit__(self, *_: object) -> None:
        if os.getppid() != self._parent:
            signal.setitimer(signal.ITIMER_REAL, 0)
