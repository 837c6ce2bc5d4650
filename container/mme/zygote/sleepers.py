"""The other sessions of the server, and how to put them to sleep: by shared memory and a signal.

Who needs memory is a worker process of any template. It sees what all sessions are at in their records, writes
``sleep_wanted`` into those that it has chosen, and wakes their processes from waiting by ``SIGURG``, which a process
that does not know it ignores. Each looks for itself whether it has a request meanwhile (``idle.py``).
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mme.capacity.admission import COPIED_ON_WRITE_BYTES
from mme.capacity.memory import MIB
from mme.capacity.overcommit import AwakeSession
from mme.capacity.process_memory import ProcessId, anonymous_bytes
from mme.zygote.session_records import SessionRecord, SessionRecords, WorkerState

SLEEP_SIGNAL = signal.SIGURG
# A worker that waits looks at once; one that does not within this time hangs in code of its model.
_REACTS_S = 1.0
_POLL_S = 0.002
# So many of the least recently used: a look takes 30 µs, and one or two sleep for each load.
_LOOKED_AT = 8
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_AWAKE = tuple(state for state in WorkerState if state not in (WorkerState.STARTED, WorkerState.ASLEEP))


class Sleepers:
    """``mme.capacity.overcommit.Neighbours`` of the session with record ``slot``."""

    def __init__(self, records: SessionRecords, slot: int) -> None:
        self._records = records
        self._slot = slot
        self.model = records[slot].model

    def awake(self, *, exactly: bool = False) -> list[AwakeSession]:
        """All others that have a process, and may sleep now or later; those that would sleep first come first.

        Only of these it is looked at what they hold, unless ``exactly``; the others have taken so much at least.
        """
        found = []
        owners: dict[int, bool] = {}
        states = (*_AWAKE, WorkerState.ASLEEP) if exactly else _AWAKE  # one that falls asleep has a process still
        for slot, record in self._records.in_state(*states):
            owner = record.owner
            if slot == self._slot or record.never_sleeps or not record.pid:
                continue
            if owner not in owners:
                owners[owner] = ProcessId.of(owner) is not None
            if owners[owner]:  # else nobody would wake it
                is_idle = record.state in (WorkerState.READY, WorkerState.ASLEEP)
                found.append(AwakeSession(slot, record.model, _loaded_bytes(record), record.used_ns, is_idle))
        found.sort(key=lambda each: (not each.is_idle, each.used_ns))
        count = len(found) if exactly else _LOOKED_AT
        looked_at = [replace(each, taken_bytes=_held_bytes(self._records[each.key])) for each in found[:count]]
        return looked_at + found[count:]

    def put_to_sleep(self, sessions: Sequence[AwakeSession]) -> list[AwakeSession]:
        """See ``Neighbours``."""
        asked = [(each, self._records[each.key], self._records[each.key].pid) for each in sessions]
        for session, record, pid in asked:
            if self._is_still_idle(session, record, pid):
                record.sleep_wanted = 1
                os.kill(pid, SLEEP_SIGNAL)
        deadline_s = time.monotonic() + _REACTS_S
        with _Ends(pid for _, _, pid in asked) as ends:
            while True:
                asked = [each for each in asked if self._is_awaited(*each)]
                if not asked or time.monotonic() >= deadline_s:
                    return [session for session, record, _ in asked if record.state is WorkerState.READY]
                ends.wait(_POLL_S)

    @staticmethod
    def _is_still_idle(session: AwakeSession, record: SessionRecord, pid: int) -> bool:
        same = record.state is WorkerState.READY and record.used_ns == session.used_ns and record.pid == pid
        return same and record.is_process_alive()

    @staticmethod
    def _is_awaited(session: AwakeSession, record: SessionRecord, pid: int) -> bool:
        """Whether the process has neither gone, nor got a request."""
        if record.pid != pid or record.model != session.model:
            return False
        state = record.state
        is_on_its_way = state is WorkerState.ASLEEP or (state is WorkerState.READY and bool(record.sleep_wanted))
        return is_on_its_way and record.is_process_alive()


class _Ends:
    """The ends of processes: ``wait`` returns with the next one, or after a while."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors = []
        self._poll = select.poll()
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except OSError:  # it has ended, or the kernel has none
                continue
            self._descriptors.append(descriptor)
            self._poll.register(descriptor, select.POLLIN)

    def __enter__(self) -> _Ends:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def wait(self, timeout_s: float) -> None:
        for descriptor, _ in self._poll.poll(timeout_s * 1000):
            self._poll.unregister(descriptor)  # one end is told once


def _loaded_bytes(record: SessionRecord) -> int:
    """What the model took when it was loaded."""
    taken_bytes = record.taken_mib * MIB
    return max(taken_bytes, COPIED_ON_WRITE_BYTES) if record.loaded_pages else taken_bytes  # else it is being loaded


def _held_bytes(record: SessionRecord) -> int:
    """With what its requests have taken since."""
    loaded_bytes = _loaded_bytes(record)
    if not record.loaded_pages:
        return loaded_bytes
    return loaded_bytes + max(0, anonymous_bytes(record.pid) - record.loaded_pages * _PAGE_BYTES)
