"""Waiting on a condition with a deadline: the only place where tests sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], what: str | Callable[[], str], timeout_s: float = 30.0, poll_s: float = 0.02
) -> T:
    """Returns the first true value of ``condition()``; fails the test with ``what`` after ``timeout_s``.

    ``what`` may be a function, for a text that is only known then (the tail of a log). Asks every ``poll_s``, or as
    seldom as keeps it below a fifth of a processor: what is waited for needs that.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        began_s = time.thread_time()
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(max(poll_s, 4 * (time.thread_time() - began_s)))
