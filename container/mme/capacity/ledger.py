"""What the processes of one server know in common about loads: those under way, and what earlier ones took.

Files in the server's private folder, each replaced as a whole, so that a process may be killed at any moment:

    loading.json     {"<key>": {"model": …, "pid": …, "start_ticks": …, "need_bytes": …, "anonymous_before_bytes": …}},
                     read and written under the lock loading.lock; entries of processes that have died vanish
    learnt/<slot>    "<identity of the artifact> <bytes>"; the slot is the start of the identity, and the last to be
                     learnt has it, so that the folder does not grow for ever
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mme.capacity.process_memory import ProcessId, anonymous_bytes

logger = logging.getLogger(__name__)

# Dead entries are looked for when they matter, or when there are more than this.
_MANY_LOADS = 500
_SLOT_DIGITS = 3  # of 16: 4096 slots


@dataclass(frozen=True)
class Loading:
    """A load under way in process ``pid``, which held ``anonymous_before_bytes`` when it began."""

    model: str
    pid: int
    start_ticks: int
    need_bytes: int
    anonymous_before_bytes: int

    def is_alive(self) -> bool:
        """Whether the process that loads still runs."""
        return ProcessId(self.pid, self.start_ticks).is_alive()

    def outstanding_bytes(self) -> int:
        """What the load will take beyond what it has taken already."""
        return max(0, self.need_bytes - max(0, anonymous_bytes(self.pid) - self.anonymous_before_bytes))


@dataclass
class Book:
    """The loads under way, by key, while the ledger is open."""

    loading: dict[str, Loading] = field(default_factory=dict)

    def most_outstanding_bytes(self) -> int:
        """At least what ``outstanding_bytes`` says, for nothing: looking at each process takes its time."""
        return sum(load.need_bytes for load in self.loading.values())

    def outstanding_bytes(self) -> int:
        """What all loads under way will still take; those of processes that have died are removed."""
        self.loading = {key: load for key, load in self.loading.items() if load.is_alive()}
        return sum(load.outstanding_bytes() for load in self.loading.values())


class Ledger:
    """The files. Several processes, and several objects in one process, may use them at the same time."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "loading.json"
        self._lock = folder / "loading.lock"
        self._learnt = folder / "learnt"
        # made while there is room for them
        self._lock.touch()
        self._learnt.mkdir(exist_ok=True)

    # ---- loads under way ----

    @contextmanager
    def open(self) -> Iterator[Book]:
        """The book for this process alone; what is changed in it is kept when the block ends, also by an exception.

        A file system that is full loses the change and nothing else.
        """
        # opened anew each time: a lock goes with the open file, which a forked child would share
        with self._lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = self._read()
            before = dict(book.loading)
            try:
                if len(before) > _MANY_LOADS:
                    book.outstanding_bytes()
                yield book
            finally:
                if book.loading != before:
                    _replace(self._file, json.dumps({key: asdict(load) for key, load in book.loading.items()}))

    def _read(self) -> Book:
        try:
            return Book({key: Loading(**load) for key, load in json.loads(self._file.read_bytes()).items()})
        except FileNotFoundError:
            return Book()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%s); starting it anew", self._file, error)
            return Book()

    # ---- what loads took ----

    def learn(self, identity: str, taken_bytes: int) -> None:
        """Remembers what the artifact took."""
        _replace(self._learnt / identity[:_SLOT_DIGITS], f"{identity} {taken_bytes}")

    def learnt_bytes(self, identity: str) -> int | None:
        """What the artifact took when it was last loaded; None if that is not known (any more)."""
        try:
            known, taken = (self._learnt / identity[:_SLOT_DIGITS]).read_text().split()
            return int(taken) if known == identity else None
        except (OSError, ValueError):
            return None


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
