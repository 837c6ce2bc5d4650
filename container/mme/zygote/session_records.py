"""What a zygote, its workers and the supervisor know in common: one record per session, in shared memory.

``_SharedRecords`` is the layout: a header, what sessions that are over had counted (``ended_sessions.py``), then an
array of ``SessionRecord``. A template claims records, gives each of its sessions one and reads it when the session
ends; the session writes it; the supervisor looks at all of them. All templates of a server's life share them; ``claim``
and what ended sessions had counted are locked, for each field has one writer at a time. A record that nobody has used
yet costs no memory. One that was used keeps what it says until the next session takes it, whoever has died meanwhile.
"""

from __future__ import annotations

import ctypes
import enum
import fcntl
import hashlib
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mme.capacity.process_memory import ProcessId
from mme.errors import LONGEST_REFUSAL_BYTES, Refusal
from mme.zygote import ended_sessions
from mme.zygote.ended_sessions import EndedSessions

MOST_SESSIONS = 65536


class WorkerState(enum.IntEnum):
    """What a session is at. ``STARTED`` is also that of a record that no session has."""

    STARTED = 0
    LOADING = 1
    READY = 2
    PREDICTING = 3  # a request is with the handler
    ANSWERING = 4  # the answer is being sent
    ASLEEP = 5  # the model is loaded, without a process: what the front end sends next wakes it
    WAKING = 6  # it is loaded once more, until the request that waits is begun

    @property
    def has_loaded(self) -> bool:
        """Whether the front end has been told that the model is loaded."""
        return self >= WorkerState.READY


_BUSY = (WorkerState.LOADING, WorkerState.PREDICTING, WorkerState.ANSWERING, WorkerState.WAKING)


class SessionRecord(ctypes.Structure):
    """One session. All but ``clear`` is called by the session itself; the zygote reads."""

    _fields_ = [
        ("_state", ctypes.c_uint8),
        ("refusal_status", ctypes.c_uint16),  # 0: the load was not refused
        ("taken_mib", ctypes.c_uint32),  # by the model, once it is loaded
        ("limit_s", ctypes.c_uint32),  # how long what it is at may take; 0: only as long as the front end waits
        ("owner", ctypes.c_uint32),  # the template that has the record; 0: nobody ever had it
        ("pid", ctypes.c_uint32),  # the worker process of the session; 0: there is none
        ("start_ticks", ctypes.c_uint64),  # of that process (/proc/PID/stat): tells it from a later one
        ("model", ctypes.c_uint64),  # model_key of its name
        ("requests", ctypes.c_uint64),
        ("client_errors", ctypes.c_uint64),  # answered 4xx
        ("server_errors", ctypes.c_uint64),  # answered 5xx but 507
        ("memory_errors", ctypes.c_uint64),  # answered 507
        ("busy_ns", ctypes.c_uint64),  # spent on requests
        ("last_request_ns", ctypes.c_uint64),  # its end, in time.monotonic_ns()
        # ---- sleep (idle.py, sleepers.py) ----
        ("batch_size", ctypes.c_uint32),  # as the load said
        ("gpu", ctypes.c_int32),  # as the load said; -1: none
        ("never_sleeps", ctypes.c_uint8),  # the model says so, or nobody would wake it
        ("sleep_wanted", ctypes.c_uint8),  # somebody needs its memory; the session has the last word
        ("is_lost", ctypes.c_uint8),  # its files are not those that were loaded: it is to be unloaded
        ("files_until_ns", ctypes.c_uint64),  # see LoadedFiles
        ("files_digest", ctypes.c_uint64),
        ("loaded_pages", ctypes.c_uint32),  # anonymous memory of the process, once the model was loaded
        ("used_ns", ctypes.c_uint64),  # when it was last loaded, woken or used, in time.monotonic_ns()
        ("waking_since_ns", ctypes.c_uint64),  # when the last wake-up began
        ("last_wake_up_ns", ctypes.c_uint64),  # how long it took
        ("sleeps", ctypes.c_uint64),
        ("wake_ups", ctypes.c_uint64),
        ("_refusal_message", ctypes.c_char * LONGEST_REFUSAL_BYTES),  # UTF-8, filled up with zeros
    ]
    _state: int
    refusal_status: int
    taken_mib: int
    limit_s: int
    owner: int
    pid: int
    start_ticks: int
    model: int
    requests: int
    client_errors: int
    server_errors: int
    memory_errors: int
    busy_ns: int
    last_request_ns: int
    batch_size: int
    gpu: int
    never_sleeps: int
    sleep_wanted: int
    is_lost: int
    files_until_ns: int
    files_digest: int
    loaded_pages: int
    used_ns: int
    waking_since_ns: int
    last_wake_up_ns: int
    sleeps: int
    wake_ups: int
    _refusal_message: bytes

    @property
    def state(self) -> WorkerState:
        return WorkerState(self._state)

    @state.setter
    def state(self, state: WorkerState) -> None:
        self._state = state

    @property
    def refusal(self) -> Refusal | None:
        """Why the load was refused; None where it was not."""
        if not self.refusal_status:
            return None
        return Refusal(self.refusal_status, self._refusal_message.decode(errors="replace"))

    @refusal.setter
    def refusal(self, refusal: Refusal) -> None:
        self._refusal_message = refusal.message.encode()
        self.refusal_status = refusal.status  # last: who reads it finds the message complete

    def count(self, status: int, busy_ns: int) -> None:
        """A request has been answered with ``status``, after ``busy_ns``."""
        self.requests += 1
        if status == 507:
            self.memory_errors += 1
        elif status >= 500:
            self.server_errors += 1
        elif status >= 400:
            self.client_errors += 1
        self.busy_ns += busy_ns
        self.last_request_ns = self.used_ns = time.monotonic_ns()

    def begin_wake_up(self) -> None:
        """Called by the template, before it forks."""
        self.waking_since_ns = time.monotonic_ns()
        self.pid = self.sleep_wanted = 0
        self.state = WorkerState.WAKING

    def count_wake_up(self) -> None:
        """The model is loaded once more."""
        self.wake_ups += 1
        self.used_ns = time.monotonic_ns()
        self.last_wake_up_ns = self.used_ns - self.waking_since_ns

    def enter(self) -> None:
        """Called by the worker process, first of all: it is this session's."""
        process = ProcessId.of(os.getpid())
        if process is not None:
            self.pid, self.start_ticks = process.pid, process.start_ticks

    def is_process_alive(self) -> bool:
        """Whether the session's worker process runs, as far as it has said so."""
        return bool(self.pid) and ProcessId(self.pid, self.start_ticks).is_alive()

    def clear(self) -> None:
        """For the next session."""
        owner = self.owner
        ctypes.memset(ctypes.byref(self), 0, ctypes.sizeof(self))
        self.owner = owner


def model_key(name: str) -> int:
    """What stands for a model's name in its sessions' records; never 0."""
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


class _SharedRecords(ctypes.Structure):
    _fields_ = [
        ("used_records", ctypes.c_uint32),  # records from here on have never been used
        ("ended", ctypes.c_uint64 * (ended_sessions.BYTES // 8)),
        ("sessions", SessionRecord * MOST_SESSIONS),
    ]
    used_records: int
    ended: ctypes.Array[ctypes.c_uint64]
    sessions: ctypes.Array[SessionRecord]


SHARED_BYTES = ctypes.sizeof(_SharedRecords)
_RECORD_BYTES = ctypes.sizeof(SessionRecord)
_FIRST_STATE = _SharedRecords.sessions.offset + SessionRecord._state.offset  # type: ignore[attr-defined]


def make_shared() -> int:
    """A descriptor of the shared memory, all zeros."""
    descriptor = os.memfd_create("mme-sessions", os.MFD_CLOEXEC)
    os.truncate(descriptor, SHARED_BYTES)
    return descriptor


class SessionRecords:
    """The shared memory behind a descriptor of ``make_shared``; it stays when the descriptor is closed."""

    def __init__(self, descriptor: int) -> None:
        """``descriptor`` has to stay open where ``claim`` or ``take`` is to be called."""
        self._descriptor = descriptor
        self._bytes = memoryview(mmap.mmap(descriptor, SHARED_BYTES))
        self._shared = _SharedRecords.from_buffer(self._bytes)
        self.ended = EndedSessions(memoryview(self._shared.ended))

    @property
    def used_records(self) -> int:
        """How many there are that some session has, or had."""
        return self._shared.used_records

    def __getitem__(self, slot: int) -> SessionRecord:
        return self._shared.sessions[slot]

    def claim(self, owner: int) -> int | None:
        """The number of a record that template ``owner`` has from now on; None where all are in use.

        Those of templates that have died are given away last: their workers may still serve.
        """
        with self._lock():
            slot = self._shared.used_records
            if slot < MOST_SESSIONS:
                self._shared.used_records = slot + 1
            else:
                slot = next((at for at in range(MOST_SESSIONS) if self._is_abandoned(self[at])), -1)
                if slot < 0:
                    return None
            self._keep_counters(self[slot])
            self[slot].clear()
            self[slot].owner = owner
            return slot

    def take(self, slot: int) -> SessionRecord:
        """Called by the template that has record ``slot``: empties it for a new session."""
        self._shared.used_records = max(self._shared.used_records, slot + 1)
        record = self[slot]
        if record.sleeps:  # as few have
            with self._lock():
                self._keep_counters(record)
        record.clear()
        return record

    def _keep_counters(self, record: SessionRecord) -> None:
        """What the last session has counted, by whatever it ended. Called with the lock."""
        if record.sleeps:
            with self.ended.changing():
                self.ended.add(record.model, record.sleeps, record.wake_ups)
                record.sleeps = record.wake_ups = 0

    def living(self) -> Iterator[SessionRecord]:
        """The records of sessions whose worker process still runs."""
        for slot in range(self._shared.used_records):
            record = self[slot]
            if record.is_process_alive():
                yield record

    @contextmanager
    def _lock(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)  # the kernel lets go of it if we die
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    @staticmethod
    def _is_abandoned(record: SessionRecord) -> bool:
        if record.is_process_alive():
            return False
        return ProcessId.of(record.owner) is None

    def is_any_busy(self) -> bool:
        """Whether a session loads its model or works on a request."""
        return self._is_any(*_BUSY)

    def is_any_loaded(self) -> bool:
        """Whether a session has its model."""
        return self._is_any(*(state for state in WorkerState if state.has_loaded))

    def _is_any(self, *wanted: WorkerState) -> bool:
        return any(self._is_current(record) for _, record in self.in_state(*wanted))

    def in_state(self, *wanted: WorkerState) -> Iterator[tuple[int, SessionRecord]]:
        """Number and record of all that say so; also those that dead workers, or dead templates, have left behind."""
        end = _FIRST_STATE + self._shared.used_records * _RECORD_BYTES
        states = bytes(self._bytes[_FIRST_STATE:end:_RECORD_BYTES])
        if any(states.find(state) >= 0 for state in wanted):
            for slot, state in enumerate(states):
                if state in wanted:
                    yield slot, self[slot]

    @staticmethod
    def _is_current(record: SessionRecord) -> bool:
        """A worker that was killed when its template was gone, too, has left its state behind."""
        if record.pid and record.state is not WorkerState.ASLEEP:
            return record.is_process_alive()
        return not record.owner or ProcessId.of(record.owner) is not None
