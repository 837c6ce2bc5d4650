"""Waiting for a condition that nobody announces."""

from __future__ import annotations

import threading
from collections.abc import Callable

POLL_S = 0.05


def wait_until(condition: Callable[[], bool], timeout_s: float, cancelled: threading.Event) -> bool:
    """Polls ``condition``; False when the time is over or ``cancelled`` is set first."""
    for _ in range(max(1, int(timeout_s / POLL_S))):
        if condition():
            return True
        if cancelled.wait(POLL_S):
            return False
    return condition()
