"""The page that a zygote, its workers and the supervisor share: what each worker is at, and when to turn away.

0 … 65535            a byte per worker: its ``State``; 0 where there is no worker
65536 … 65539        0 while all is well; in a drain, 1 + the requests that each worker is to answer yet
65540 … 327683       four bytes per worker, little-endian: MiB that its model took, once it is loaded
"""

from __future__ import annotations

import mmap
import os

MOST_WORKERS = 65536
_TURN_AWAY_BYTES = 4
_TAKEN = MOST_WORKERS + _TURN_AWAY_BYTES
_TAKEN_BYTES = 4
SHARED_BYTES = _TAKEN + MOST_WORKERS * _TAKEN_BYTES


class State:
    """What a worker is at."""

    STARTED, LOADING, READY, PREDICTING = range(4)


def make_shared() -> int:
    """A descriptor of the page, all zeros."""
    descriptor = os.memfd_create("mme-workers", os.MFD_CLOEXEC)
    os.truncate(descriptor, SHARED_BYTES)
    return descriptor


def map_shared(descriptor: int) -> memoryview:
    """The page itself; it stays when the descriptor is closed."""
    return memoryview(mmap.mmap(descriptor, SHARED_BYTES))


def is_any_busy(page: memoryview) -> bool:
    """Whether a worker loads its model or works on a request."""
    return _is_any(page, State.LOADING, State.PREDICTING)


def is_any_loaded(page: memoryview) -> bool:
    """Whether a worker has its model."""
    return _is_any(page, State.READY, State.PREDICTING)


def _is_any(page: memoryview, *wanted: int) -> bool:
    states = bytes(page[:MOST_WORKERS])
    return any(states.find(state) >= 0 for state in wanted)


def taken_by(page: memoryview, slot: int) -> memoryview:
    """Where worker ``slot`` says what its model took; ``taken_mib`` reads it."""
    start = _TAKEN + slot * _TAKEN_BYTES
    return page[start : start + _TAKEN_BYTES]


def taken_mib(page: memoryview, slot: int) -> int:
    """What the model of worker ``slot`` took; 0 where it has not been loaded."""
    return int.from_bytes(taken_by(page, slot), "little")


class DrainQuota:
    """When a worker is to answer 503: never, until the server drains; then to all but so many requests."""

    def __init__(self, page: memoryview) -> None:
        self._word = page[MOST_WORKERS : MOST_WORKERS + _TURN_AWAY_BYTES]
        self._answered = 0

    def after(self, requests: int) -> None:
        """Called by the supervisor: each worker is to answer so many more."""
        self._word[:] = (1 + requests).to_bytes(4, "little")

    def is_exceeded_by(self, requests: int) -> bool:
        """Called by a worker with the number of requests in a batch: whether they come too late."""
        allowed = int.from_bytes(self._word, "little")
        if not allowed:
            return False
        too_late = self._answered >= allowed - 1
        self._answered += requests
        return too_late
