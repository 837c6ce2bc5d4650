"""What SageMaker does with a container's memory: load on demand; on 507 unload what was used longest ago, try again.

Never is a model unloaded while a request to it is in flight. Tries are bounded in time, as SageMaker's are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.connection import Answer, Connection
from benchmarks.servers import Server
from benchmarks.soak.record import Record

# SageMaker goes on trying to load a model for so long.
LOAD_DEADLINE_S = 360.0
# Without anything to unload, how long to wait until a request may have ended.
_NOTHING_IDLE_S = 0.25

ONLY_507_AFTER_ROOM = "every 507 is followed by success after unloading"
LOADS = "a healthy model loads"
UNLOADS = "a loaded model unloads"
NO_HANG = "nothing hangs"


class GaveUp(Exception):
    """A model could not be loaded; the record says why."""


@dataclass
class _Slot:
    """What the platform knows of one model. ``busy``: somebody loads or unloads it just now."""

    loaded: bool = False
    busy: bool = False
    in_flight: int = 0
    used_at_s: float = 0.0
    loads: int = 0


class Platform:
    """Shared by all clients; each brings a connection of its own."""

    def __init__(self, server: Server, names: Sequence[str], record: Record) -> None:
        self._server = server
        self._record = record
        self._slots = {name: _Slot() for name in names}
        self._changed = threading.Condition()

    @contextmanager
    def using(self, name: str, connection: Connection) -> Iterator[None]:
        """Inside, the model is loaded and stays. Raises ``GaveUp``."""
        slot = self._slots[name]
        if self._enter(name, slot):
            try:
                self._load(name, connection)
            except BaseException:
                self._leave_busy(slot, loaded=False)
                raise
            self._leave_busy(slot, loaded=True, in_flight=1)
        try:
            yield
        finally:
            with self._changed:
                slot.in_flight -= 1
                slot.used_at_s = time.monotonic()
                self._changed.notify_all()

    def loads(self, name: str) -> int:
        """How often the model has been loaded: to be given to ``restore``."""
        return self._slots[name].loads

    def restore(self, name: str, loads: int, connection: Connection) -> None:
        """Inside ``using``: the server has dropped the model by itself. Loads it again, unless somebody has since."""
        slot = self._slots[name]
        with self._changed:
            self._wait_while_busy(name, slot)
            if slot.loads != loads:
                return
            slot.busy = True
        loaded = False
        try:
            self._load(name, connection)
            loaded = True
        finally:
            self._leave_busy(slot, loaded=loaded)

    def loaded(self) -> list[str]:
        """The models that are loaded."""
        with self._changed:
            return [name for name, slot in self._slots.items() if slot.loaded]

    def make_room(self, connection: Connection) -> bool:
        """Unloads the model that was used longest ago and has no request in flight; False where there is none."""
        with self._changed:
            idle = [name for name, slot in self._slots.items() if slot.loaded and not slot.busy and not slot.in_flight]
            if not idle:
                self._changed.wait(_NOTHING_IDLE_S)
                return False
            victim = min(idle, key=lambda name: self._slots[name].used_at_s)
            slot = self._slots[victim]
            slot.busy, slot.loaded = True, False
        try:
            self._unload(victim, connection)
        finally:
            self._leave_busy(slot, loaded=False)
        return True

    def unload_all(self, connection: Connection) -> None:
        """Unloads everything; called when nobody else uses the platform any more."""
        while self.loaded():
            self.make_room(connection)

    def load_alone(self, name: str, url: str, connection: Connection) -> Answer:
        """Loads what is no model of the platform's, making room where that is asked for; the answer that is no 507."""
        deadline_s = time.monotonic() + LOAD_DEADLINE_S
        while True:
            answer = self._call("load broken", name, lambda: connection.load(name, url))
            if answer.status != 507 or time.monotonic() > deadline_s:
                return answer
            self._record.count("507 to broken artifacts")
            self.make_room(connection)

    # ---- one model at a time ----

    def _enter(self, name: str, slot: _Slot) -> bool:
        """Counts a request in, or returns True where the caller is to load the model first."""
        with self._changed:
            self._wait_while_busy(name, slot)
            if slot.loaded:
                slot.in_flight += 1
                return False
            slot.busy = True
            return True

    def _wait_while_busy(self, name: str, slot: _Slot) -> None:
        deadline_s = time.monotonic() + LOAD_DEADLINE_S
        while slot.busy:
            if not self._changed.wait(deadline_s - time.monotonic()) and time.monotonic() > deadline_s:
                self._record.violates(NO_HANG, f"{name} was not loaded within {LOAD_DEADLINE_S:.0f} s")
                raise GaveUp(name)

    def _leave_busy(self, slot: _Slot, *, loaded: bool, in_flight: int = 0) -> None:
        with self._changed:
            slot.busy, slot.loaded = False, loaded
            slot.loads += loaded
            slot.in_flight += in_flight
            slot.used_at_s = time.monotonic()
            self._changed.notify_all()

    def _load(self, name: str, connection: Connection) -> None:
        started_s = time.monotonic()
        refusals = 0
        while True:
            tried_s = time.monotonic()
            answer = self._call("load", name, lambda: connection.load(name, self._server.model_url(name)))
            if answer.status == 200:
                break
            late = time.monotonic() > started_s + LOAD_DEADLINE_S
            if answer.status == 507 and not late:
                refusals += 1
                if self.make_room(connection):
                    self._record.count("unloaded on 507")
                continue
            if answer.status >= 500 and self._record.was_killed(name, tried_s, time.monotonic()) and not late:
                self._record.count("loads whose worker was killed")
                continue
            requirement = ONLY_507_AFTER_ROOM if refusals else LOADS
            said = f"load of {name} after {refusals} refusals: {_said(answer)}"
            self._record.violates(requirement, said, name, tried_s)
            raise GaveUp(name)
        if refusals:
            self._record.count("loads that were refused at first and then done")
            self._record.count("refusals of these loads", refusals)

    def _unload(self, name: str, connection: Connection) -> None:
        answer = self._call("unload", name, lambda: connection.unload(name))
        if answer.status != 200:
            self._record.violates(UNLOADS, f"unload of {name}: {_said(answer)}")

    def _call(self, call: str, name: str, do: Callable[[], Answer]) -> Answer:
        return timed(self._record, call, name, do)


def timed(record: Record, call: str, name: str, do: Callable[[], Answer]) -> Answer:
    """Performs a call and records how it was answered; status 0 where it was not."""
    started_s = time.monotonic()
    try:
        answer = do()
    except TimeoutError:
        elapsed_s = time.monotonic() - started_s
        record.violates(NO_HANG, f"{call} of {name}: no answer within {elapsed_s:.0f} s", name, started_s)
        answer = Answer(0, b"no answer", elapsed_s)
    except OSError as error:
        answer = Answer(0, str(error).encode(), time.monotonic() - started_s)
    record.answered(call, name, answer.status, time.monotonic() - started_s)
    return answer


def _said(answer: Answer) -> str:
    return f"{answer.status} {answer.body[:200].decode(errors='replace')}"
