"""Between two requests: a session waits, has its heap trimmed, and falls asleep if it is to.

A session sleeps where it has had no request for ``MME_SLEEP_AFTER_S``, or where another model needs its memory
(``sleepers.py``). Its process ends; its template keeps the connection, and forks another one when the front end sends
the next request. None is lost, whenever it comes:

    1. nothing of it has been read, and nothing can be read: only this process reads, and it looks once more;
    2. it writes ASLEEP into its record, reads no more, and ends;
    3. what arrives from here on stays in the kernel's buffer, which lives as long as the template's copy of the
       connection. The template looks at that as soon as it has seen the end of the process.

A session whose template has died does not sleep: with its process the connection would end.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import time
from types import FrameType

from mme.zygote.heap import IdleTrim
from mme.zygote.session_records import SessionRecord, WorkerState
from mme.zygote.sleepers import SLEEP_SIGNAL


class FallsAsleep(Exception):
    """The session's record says so from now on; nothing is to be read any more."""


class _Asked(Exception):
    """The signal came while the process waited."""


class Idle:
    """How one session waits. ``template`` is the process that would wake it."""

    def __init__(
        self,
        connection: socket.socket,
        record: SessionRecord,
        trim: IdleTrim,
        *,
        template: int,
        sleep_after_s: int | None = None,
    ) -> None:
        self._record = record
        self._trim = trim
        self._template = template
        self._sleep_after_ns = math.inf if sleep_after_s is None else sleep_after_s * 1e9
        self._requests = select.poll()
        self._requests.register(connection, select.POLLIN | select.POLLRDHUP)
        self._waits = False

    def expect_signal(self) -> None:
        """Others may ask this session to sleep from now on. In the main thread."""
        signal.signal(SLEEP_SIGNAL, self._on_signal)
        signal.siginterrupt(SLEEP_SIGNAL, False)  # a request's own system calls go on

    def wait(self) -> None:
        """Returns when the connection can be read or has ended. Raises ``FallsAsleep``."""
        while True:
            self._sleep_if_wanted()
            timeout_ms = self._timeout_ms()
            try:
                if self._poll(timeout_ms):
                    return
            except _Asked:
                continue
            if not self._is_due():
                self._trim.trim()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._waits:
            self._waits = False
            raise _Asked

    def _poll(self, timeout_ms: int | None) -> bool:
        try:
            self._waits = True
            if self._record.sleep_wanted:  # written before the signal could end the wait
                raise _Asked
            return bool(self._requests.poll(timeout_ms))
        finally:
            self._waits = False

    def _timeout_ms(self) -> int | None:
        """Until the heap is to be trimmed, or the session is to sleep, whichever is first; None: neither."""
        trim_ms = self._trim.wait_ms()
        if math.isinf(self._sleep_after_ns) or not self._may_sleep():
            return trim_ms
        sleep_ms = max(0, math.ceil((self._record.used_ns + self._sleep_after_ns - time.monotonic_ns()) / 1e6))
        return sleep_ms if trim_ms is None else min(trim_ms, sleep_ms)

    def _is_due(self) -> bool:
        """Whether it has had no request for long enough."""
        return time.monotonic_ns() - self._record.used_ns >= self._sleep_after_ns and self._may_sleep()

    def _may_sleep(self) -> bool:
        record = self._record
        return record.state is WorkerState.READY and not record.never_sleeps and os.getppid() == self._template

    def _sleep_if_wanted(self) -> None:
        wanted = self._record.sleep_wanted
        if not wanted and not self._is_due():
            return
        falls_asleep = self._may_sleep() and not self._requests.poll(0)
        if falls_asleep:
            self._record.state = WorkerState.ASLEEP
        self._record.sleep_wanted = 0  # last: who has asked waits until it is decided (Sleepers)
        if falls_asleep:
            raise FallsAsleep
