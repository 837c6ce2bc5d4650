"""Ends workers whose template has died and which the front end has given up, be it during a load or a request.

The template had the only other copy of the connection (``hang_up.py``), so nobody sees the front end hang up on them.
It does so once they have taken longer than it waits. A load or request that begins after the template's death has that
limit itself (``OrphanLimit``); one that was under way has not, for the worker may be anywhere, in a loop or deep in
C++. So the root looks at the records of all sessions, now and then, once a template has died.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from mme.capacity.process_memory import ProcessId
from mme.zygote.hang_up import WORKING
from mme.zygote.processes import kill_group
from mme.zygote.session_records import SessionRecord, SessionRecords, WorkerState

logger = logging.getLogger("mme.zygote")

_LONGEST_LOOK_S = 5.0
_LOOKS_PER_LIMIT = 4


@dataclass(frozen=True)
class _Work:
    """One load or request of one worker process."""

    pid: int
    start_ticks: int
    state: WorkerState
    requests: int  # before it


class Orphans:
    """``end_given_up`` is to be called every ``look_s``."""

    def __init__(self, records: SessionRecords, limit_s: float) -> None:
        """``limit_s``: how long the front end waits for an answer."""
        self._records = records
        self._limit_s = limit_s
        self.look_s = min(limit_s / _LOOKS_PER_LIMIT, _LONGEST_LOOK_S)
        self._seen_s: dict[_Work, float] = {}  # since when

    def end_given_up(self) -> None:
        """Ends those that have been at the same load or request for ``limit_s``, and what their handlers started."""
        now_s = time.monotonic()
        under_way = {
            _Work(record.pid, record.start_ticks, record.state, record.requests)
            for _, record in self._records.in_state(*WORKING)
            if _is_orphan(record)
        }
        self._seen_s = {work: self._seen_s.get(work, now_s) for work in under_way}
        for work, since_s in self._seen_s.items():
            if now_s - since_s >= self._limit_s:
                logger.error("worker %d is killed: the front end has given up, its template is dead", work.pid)
                kill_group(work.pid)


def _is_orphan(record: SessionRecord) -> bool:
    """Whether nobody else would end its worker. One with a limit of its own (``TimeLimits``) is ended by the kernel."""
    return not record.limit_s and ProcessId.of(record.owner) is None and record.is_process_alive()
