"""What is known of one instance's models: where each is, who uses it, which was used last.

    ABSENT ──fetch──► ON_DISK ──POST /models──► LOADED ──DELETE──► ON_DISK ──remove──► ABSENT
    PREPARING covers fetch and load, UNLOADING the DELETE (and the removal where nothing is to be kept).
    LOAD_TIMED_OUT follows PREPARING where the container did not answer POST /models in time: it may have the model by
    now, or later. Such a model is loaded again when it is asked for, and may be evicted like one that is loaded.

A model that is absent and that nobody waits for has no entry, so that targets which do not exist leave nothing behind.
"""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from local_endpoint.storage.location import TargetModel


class State(enum.Enum):
    """Where a model is."""

    ABSENT = "absent"
    PREPARING = "preparing"
    ON_DISK = "on disk"
    LOAD_TIMED_OUT = "load timed out"
    LOADED = "loaded"
    UNLOADING = "unloading"


# From these a model is prepared when somebody asks for it.
TO_BE_PREPARED = (State.ABSENT, State.ON_DISK, State.LOAD_TIMED_OUT)
# In these the container has the model, or may have it.
EVICTABLE = (State.LOADED, State.LOAD_TIMED_OUT)


@dataclass
class Attempt:
    """One try to make a model ready; those who wait for it share its error."""

    error: Exception | None = None
    load_timed_out: bool = False


@dataclass
class Entry:
    """One model. Protected by the table's condition."""

    model: TargetModel
    state: State = State.ABSENT
    users: int = 0
    """Requests that are in flight or wait for it."""
    last_used: int = 0
    size_bytes: int = 0
    on_disk: bool = False
    attempt: Attempt = field(default_factory=Attempt)


class ModelTable:
    """The entries. Whatever changes one is to be called holding ``changed``, which the caller notifies."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.closed = False
        """The instance is ending: nothing new is begun, and nobody waits any more."""
        self.loaded_count = 0
        self.disk_bytes = 0
        self._entries: dict[str, Entry] = {}
        self._clock = itertools.count(1)

    def __len__(self) -> int:
        return len(self._entries)

    # ---- looking, from any thread ----

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def loaded(self) -> list[str]:
        """Targets of the loaded models, sorted."""
        with self.changed:
            return sorted(each.model.target for each in self.in_state(State.LOADED))

    def on_disk(self) -> list[str]:
        """Targets of the models whose artifacts are on disk, sorted."""
        with self.changed:
            return sorted(each.model.target for each in self._entries.values() if each.on_disk)

    # ---- holding ``changed`` ----

    def in_state(self, *states: State) -> list[Entry]:
        return [each for each in self._entries.values() if each.state in states]

    def entry(self, model: TargetModel) -> Entry:
        """Made where there is none."""
        return self._entries.setdefault(model.name, Entry(model))

    def acquire(self, entry: Entry) -> None:
        entry.users += 1

    def release(self, entry: Entry) -> None:
        entry.users -= 1
        self._forget_if_gone(entry)

    def mark_used(self, entry: Entry) -> None:
        """It is the last used of all now."""
        entry.last_used = next(self._clock)

    def set_state(self, entry: Entry, state: State) -> None:
        self.loaded_count += (state is State.LOADED) - (entry.state is State.LOADED)
        entry.state = state
        self._forget_if_gone(entry)

    def settle_unloaded(self, entry: Entry) -> None:
        """It is not loaded, nor on its way: ON_DISK or ABSENT."""
        self.set_state(entry, State.ON_DISK if entry.on_disk else State.ABSENT)

    def put_on_disk(self, entry: Entry, size_bytes: int) -> None:
        entry.on_disk = True
        entry.size_bytes = size_bytes
        self.disk_bytes += size_bytes

    def take_off_disk(self, entry: Entry) -> None:
        if entry.on_disk:
            entry.on_disk = False
            self.disk_bytes -= entry.size_bytes
            entry.size_bytes = 0

    def _forget_if_gone(self, entry: Entry) -> None:
        if entry.state is State.ABSENT and entry.users == 0 and not entry.on_disk:
            self._entries.pop(entry.model.name, None)


def least_recently_used(entries: Iterable[Entry]) -> Entry:
    return min(entries, key=lambda entry: entry.last_used)
