"""What session records (zygote/session_records.py) say of each model: memory, sleep, wake-ups. Nobody is held up."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mme.zygote.session_records import SessionRecord, SessionRecords, WorkerState

# A template moves counters in a few microseconds; one that was killed meanwhile does not hold up a scrape.
_READS = 5


@dataclass
class Sessions:
    """Those of one model, added up."""

    taken_mib: int = 0
    asleep: int = 0
    sleeps: int = 0
    wake_ups: int = 0

    def count(self, sleeps: int, wake_ups: int) -> None:
        """Adds what one session has counted."""
        self.sleeps += sleeps
        self.wake_ups += wake_ups


class SessionReader:
    """Adds session records up by model, with what sessions that are over have counted. It remembers nothing."""

    def __init__(self, records: SessionRecords | None) -> None:
        """``records``: None where workers are spawned, which have none."""
        self._records = records

    def read(self) -> dict[int, Sessions]:
        """By ``session_records.model_key``; 0 are models that no counters are kept for."""
        if self._records is None:
            return {}
        found: dict[int, Sessions] = {}
        for _ in range(_READS):
            version = self._records.ended.version
            found = self._read_once(self._records)
            if version % 2 == 0 and self._records.ended.version == version:
                break
        return found

    @staticmethod
    def _read_once(records: SessionRecords) -> dict[int, Sessions]:
        found: dict[int, Sessions] = {}
        processes: dict[int, bool] = {}
        for model, *counted in records.ended.counters():
            found.setdefault(model, Sessions()).count(*counted)
        for slot in range(records.used_records):
            record = records[slot]
            model, state = record.model, record.state
            if record.sleeps:  # whether or not it goes on
                found.setdefault(model, Sessions()).count(record.sleeps, record.wake_ups)
            if not model or not state.has_loaded or not _is_current(record, processes):
                continue
            sessions = found.setdefault(model, Sessions())
            if state is WorkerState.ASLEEP:
                sessions.asleep += 1
            else:
                sessions.taken_mib += record.taken_mib
        return found


def _is_current(record: SessionRecord, processes: dict[int, bool]) -> bool:
    """Whether the session goes on: a worker that is killed leaves its record as it was. A sleeper has none."""
    pid = record.owner if record.state is WorkerState.ASLEEP or not record.pid else record.pid
    if pid not in processes:
        processes[pid] = _is_process(pid)
    return processes[pid]


def _is_process(pid: int) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
