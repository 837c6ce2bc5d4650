"""The sessions of a template that sleep: waits for the request that wakes each of them.

ASLEEP   the template has the only copy of the connection, and watches it
waiting  it has a request, and others are just waking: a worker takes processor time and memory before it is
         admitted, so that one for each core loads at once, in the order in which they were asked. More would share the
         cores, and all end late
WAKING   a worker loads the model; the session is no sleeper any more
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable

from mme.zygote.event_loop import EventLoop
from mme.zygote.model_slot import SessionHandle
from mme.zygote.session_records import WorkerState

_WAKING_PER_CORE = 1
_LOOK_S = 0.005


class Nursery:
    """``wake`` is called for a session that has a request, ``end`` for one that the front end has hung up on."""

    def __init__(
        self, loop: EventLoop, *, wake: Callable[[SessionHandle], None], end: Callable[[SessionHandle], None]
    ) -> None:
        self._loop = loop
        self._wake = wake
        self._end = end
        self._most_waking = _WAKING_PER_CORE * len(os.sched_getaffinity(0))
        self._waiting: deque[SessionHandle] = deque()
        self._waking: list[SessionHandle] = []

    def add(self, session: SessionHandle) -> None:
        """It sleeps from now on. Its request may have come already."""
        handler = session.model.guarded(lambda: self._on_event(session))
        self._loop.watch(session.connection.fileno(), handler, select.EPOLLIN | select.EPOLLRDHUP)

    def remove(self, session: SessionHandle) -> None:
        """Before its connection is closed."""
        if self._loop.is_watched(session.connection.fileno()):
            self._loop.unwatch(session.connection.fileno())
        if session in self._waiting:
            self._waiting.remove(session)

    def _on_event(self, session: SessionHandle) -> None:
        if session.is_hung_up():
            self._end(session)
            return
        self._loop.unwatch(session.connection.fileno())
        self._waiting.append(session)
        self._wake_next()

    def _wake_next(self) -> None:
        self._waking = [each for each in self._waking if each.record.state is WorkerState.WAKING and each.worker]
        while self._waiting and len(self._waking) < self._most_waking:
            session = self._waiting.popleft()
            session.model.guarded(lambda session=session: self._wake_now(session))()  # type: ignore[misc]
        if self._waiting:
            self._loop.after(_LOOK_S, self, self._wake_next)

    def _wake_now(self, session: SessionHandle) -> None:
        if session.is_hung_up():
            self._end(session)
            return
        self._wake(session)
        if session.worker is not None:
            self._waking.append(session)
