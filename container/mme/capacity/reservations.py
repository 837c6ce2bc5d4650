"""What the processes of one server know in common about loads: those under way, and what earlier ones took.

Files in the server's folder in memory (``runtime_dir.in_memory``: all loads wait for the one that writes). A process
may be killed at any moment:

    loading.json     {"<key>": {"model": …, "pid": …, "start_ticks": …, "need_bytes": …, "anonymous_before_bytes": …,
                     "until_s": …, "waits": …}}, read under the lock loading.lock, and replaced as a whole; entries of
                     processes that have died, or whose time has passed, vanish. Loads that wait for room stand in their
                     order
    learnt           a table of lines of 64 bytes, "<identity of the artifact> <bytes>"; the line is the start of the
                     identity, and the last to be learnt has it, so that the file does not grow for ever
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from mme.capacity.process_memory import ProcessId, anonymous_bytes

logger = logging.getLogger(__name__)

# Dead entries are looked for when they matter, or when there are more than this.
_MANY_LOADS = 500
_LINE_DIGITS = 3  # of 16: 4096 lines
_LINE_BYTES = 64
# How often, and at which distance, a lock is tried by who cannot wait for it.
_TRIES = 10
_TRY_S = 0.001
# Keys of what is kept for a worker that has died begin so.
_KEPT = "kept-"


@dataclass(frozen=True)
class Loading:
    """A load under way in process ``pid``, which held ``anonymous_before_bytes`` when it began.

    What is kept for the next worker of a model is one without end: it counts in full, until ``until_s``. One that
    ``waits`` has not been admitted yet: others are put to sleep for it.
    """

    model: str
    pid: int
    start_ticks: int
    need_bytes: int
    anonymous_before_bytes: int
    until_s: float | None = None  # time.monotonic(), which is the same for all processes of the machine
    waits: bool = False

    def is_alive(self) -> bool:
        """Whether it still counts: the process that loads runs, and its time has not passed."""
        if self.until_s is not None and time.monotonic() >= self.until_s:
            return False
        return ProcessId(self.pid, self.start_ticks).is_alive()

    def outstanding_bytes(self) -> int:
        """What the load will take beyond what it has taken already."""
        if self.until_s is not None:
            return self.need_bytes
        return max(0, self.need_bytes - max(0, anonymous_bytes(self.pid) - self.anonymous_before_bytes))


@dataclass
class ReservationTable:
    """The loads under way, by key, while the file of reservations is open."""

    loading: dict[str, Loading] = field(default_factory=dict)

    def keep(self, load: Loading) -> str:
        """Counts ``load`` among those under way until it is taken or has passed; returns its key."""
        key = _KEPT + new_key()
        self.loading[key] = load
        return key

    def take_kept(self, model: str) -> dict[str, Loading]:
        """Takes out what is kept for one worker of ``model``: an entry, or none."""
        for key, load in self.loading.items():
            if key.startswith(_KEPT) and load.model == model and load.is_alive():
                return {key: self.loading.pop(key)}
        return {}

    def place_in_queue(self, key: str) -> int:
        """How many loads that wait are before ``key``; before one that is not there, all are."""
        self._remove_dead()
        waiting = [each for each, load in self.loading.items() if load.waits]
        return waiting.index(key) if key in waiting else len(waiting)

    def admitted(self) -> list[Loading]:
        """The loads under way that do not wait."""
        return [load for load in self.loading.values() if not load.waits]

    def most_outstanding_bytes(self) -> int:
        """At least what ``outstanding_bytes`` says, for nothing: looking at each process takes its time."""
        return sum(load.need_bytes for load in self.admitted())

    def outstanding_bytes(self) -> int:
        """What all loads that were admitted will still take; those of processes that have died are removed."""
        self._remove_dead()
        return sum(load.outstanding_bytes() for load in self.admitted())

    def _remove_dead(self) -> None:
        self.loading = {key: load for key, load in self.loading.items() if load.is_alive()}


class Reservations:
    """The files. Several processes, and several objects in one process, may use them at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "loading.json"
        self._lock = folder / "loading.lock"
        self._learnt = folder / "learnt"
        # made while there is room for them
        self._lock.touch()
        self._learnt.touch()

    # ---- loads under way ----

    @contextmanager
    def open(self, *, wait: bool = True) -> Iterator[ReservationTable]:
        """The table for this process alone; what is changed in it is kept when the block ends, also by an exception.

        A file system that is full loses the change and nothing else. Who has it has it for about a millisecond; without
        ``wait`` this raises ``BlockingIOError`` where others have it for longer than a few of those.
        """
        # opened anew each time: a lock goes with the open file, which a forked child would share
        with self._open_lock() as lock:
            if wait:
                fcntl.flock(lock, fcntl.LOCK_EX)
            else:
                _lock_soon(lock.fileno())
            table = self._read()
            before = dict(table.loading)
            try:
                if len(before) > _MANY_LOADS:
                    table.outstanding_bytes()
                yield table
            finally:
                if table.loading != before:
                    _replace(self._file, json.dumps({key: asdict(load) for key, load in table.loading.items()}))

    def _open_lock(self) -> BinaryIO:
        try:
            return self._lock.open("ab")
        except FileNotFoundError:
            # Somebody has cleared the shared memory. systemd-logind does, when a user has logged out.
            logger.warning("%s was removed by somebody else; what it held is forgotten", self._folder)
            self._folder.resolve().mkdir(mode=0o700, exist_ok=True)
            return self._lock.open("ab")

    def _read(self) -> ReservationTable:
        try:
            return ReservationTable({key: Loading(**load) for key, load in json.loads(self._file.read_bytes()).items()})
        except FileNotFoundError:
            return ReservationTable()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%s); starting it anew", self._file, error)
            return ReservationTable()

    # ---- what loads took ----

    def learn(self, identity: str, taken_bytes: int) -> None:
        """Remembers what the artifact took. A file system that is full loses it."""
        line = f"{identity} {taken_bytes}".ljust(_LINE_BYTES - 1) + "\n"
        try:
            descriptor = os.open(self._learnt, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, line.encode(), _line_of(identity))
            finally:
                os.close(descriptor)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._learnt, error)

    def learnt_bytes(self, identity: str) -> int | None:
        """What the artifact took when it was last loaded; None if that is not known (any more)."""
        try:
            with self._learnt.open("rb", buffering=0) as table:
                table.seek(_line_of(identity))
                known, taken = table.read(_LINE_BYTES).split()
            return int(taken) if known == identity.encode() else None
        except (OSError, ValueError):
            return None


def _line_of(identity: str) -> int:
    return int(identity[:_LINE_DIGITS], 16) * _LINE_BYTES


def _lock_soon(descriptor: int) -> None:
    for _ in range(_TRIES):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_TRY_S)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def new_key() -> str:
    """A name for a load that no other has."""
    return uuid.uuid4().hex[:12]


def _replace(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, file)  # noqa: PTH105
    except OSError as error:
        logger.warning("%s cannot be written: %s", file, error)
