"""What session records (zygote/session_records.py) say of each model: memory, sleep, wake-ups. Nobody is held up."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mme.zygote.session_records import SessionRecord, SessionRecords, WorkerState


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
    """Adds session records up by model. What a session had counted at the last look is kept when it ends."""

    def __init__(self, records: SessionRecords | None) -> None:
        """``records``: None where workers are spawned, which have none."""
        self._records = records
        self._last: dict[int, tuple[int, int, int]] = {}  # by record: the model, its sleeps and wake-ups
        self._ended: dict[int, Sessions] = {}  # by model

    def read(self) -> dict[int, Sessions]:
        """By ``session_records.model_key``."""
        found: dict[int, Sessions] = {}
        processes: dict[int, bool] = {}
        for slot in range(0 if self._records is None else self._records.used_records):
            record = self._records[slot]  # type: ignore[index]
            model = record.model
            self._note_counters(slot, model, record.sleeps, record.wake_ups)
            state = record.state
            if not model or not state.has_loaded or not _is_current(record, processes):
                continue
            sessions = found.setdefault(model, Sessions())
            if state is WorkerState.ASLEEP:
                sessions.asleep += 1
            else:
                sessions.taken_mib += record.taken_mib
        for model, *counted in self._last.values():
            found.setdefault(model, Sessions()).count(*counted)
        for model, ended in self._ended.items():
            found.setdefault(model, Sessions()).count(ended.sleeps, ended.wake_ups)
        return found

    def _note_counters(self, slot: int, model: int, sleeps: int, wake_ups: int) -> None:
        last = self._last.get(slot)
        if last is None:
            if not sleeps:
                return  # as most
        elif last[0] != model or last[1] > sleeps or last[2] > wake_ups:  # another session has the record now
            self._ended.setdefault(last[0], Sessions()).count(*last[1:])
        self._last[slot] = (model, sleeps, wake_ups)


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
