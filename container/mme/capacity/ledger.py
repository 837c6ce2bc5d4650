"""What the processes of one server know in common about loads: those under way, and what earlier ones took.

A JSON file in the server's private folder, replaced as a whole under a lock, so that a process may be killed at any
moment. Entries of processes that have died vanish by themselves when it is next opened.

    {"loading": {"<key>": {"model": …, "pid": …, "start_ticks": …, "need_bytes": …, "anonymous_before_bytes": …}},
     "learnt": {"<identity of the artifact>": bytes}}
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

# The oldest are forgotten beyond this; 60 bytes each.
MOST_LEARNT = 5_000


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
    """The ledger's content while it is open."""

    loading: dict[str, Loading] = field(default_factory=dict)
    learnt: dict[str, int] = field(default_factory=dict)

    def outstanding_bytes(self, *, without: str = "") -> int:
        """What all loads under way will still take, but for the one called ``without``."""
        return sum(load.outstanding_bytes() for key, load in self.loading.items() if key != without)

    def learn(self, identity: str, taken_bytes: int) -> None:
        """Remembers what the artifact took."""
        self.learnt.pop(identity, None)
        self.learnt[identity] = taken_bytes
        while len(self.learnt) > MOST_LEARNT:
            del self.learnt[next(iter(self.learnt))]


class Ledger:
    """The file. Several processes, and several objects in one process, may use it at the same time."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "admission.json"
        self._lock = folder / "admission.lock"

    @contextmanager
    def open(self) -> Iterator[Book]:
        """The book for this process alone; what is changed in it is kept when the block ends, also by an exception.

        A file system that is full loses the change and nothing else.
        """
        # opened anew each time: a lock goes with the open file, which a forked child would share
        with self._lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            book = self._read()
            before = self._text(book)
            book.loading = {key: load for key, load in book.loading.items() if load.is_alive()}
            try:
                yield book
            finally:
                text = self._text(book)
                if text != before:
                    self._write(text)

    def _read(self) -> Book:
        try:
            content = json.loads(self._file.read_bytes())
            return Book({key: Loading(**load) for key, load in content["loading"].items()}, content["learnt"])
        except FileNotFoundError:
            return Book()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%s); starting it anew", self._file, error)
            return Book()

    @staticmethod
    def _text(book: Book) -> str:
        return json.dumps({"loading": {key: asdict(load) for key, load in book.loading.items()}, "learnt": book.learnt})

    def _write(self, text: str) -> None:
        temporary = self._file.with_suffix(".new")
        try:
            temporary.write_text(text)
            os.replace(temporary, self._file)  # noqa: PTH105
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._file, error)


def new_key() -> str:
    """A name for a load that no other has."""
    return uuid.uuid4().hex[:12]
