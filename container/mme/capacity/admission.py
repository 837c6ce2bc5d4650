"""May this model be loaded now? Answered before anything of it is read, so that the kernel never has to kill.

    free      what the tightest limit leaves (memory.py)
    promised  what loads under way were admitted with and have not taken yet (reservations.py)
    need      what this load will take: declared, learnt or estimated (footprint.py)
    reserve   what loads leave to requests: MME_MEMORY_RESERVE_MB (policy.py)

A load is admitted if ``free - promised - need >= reserve``. When it is done, what it took can be seen in ``free``
itself; if the reserve is broken then, the load is undone. Either way the answer is 507: the platform unloads something
and tries again.

Before that, models that have no request are put to sleep (``overcommit.py``), where the load has ``neighbours``. Loads
that wait for that stand in a queue, and a load that comes later goes behind them.

``Admission`` works in any process of the server: in the worker that is to load (``with admission.loading(...)``), or in
the process that forks workers (``admit``, then ``Reservation.hand_over`` to the child, which settles).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from mme.capacity.footprint import Artifact, Need, need_of, survey
from mme.capacity.kernel_limits import KernelLimits
from mme.capacity.memory import MIB, KernelMemory, MemoryReader, MemorySample, SystemMemory
from mme.capacity.overcommit import Neighbours, plan
from mme.capacity.policy import FLOOR_SHARE, Decision, decide, load_growth_bytes, reserve_bytes
from mme.capacity.process_memory import ProcessId, anonymous_bytes
from mme.capacity.reservations import Loading, Reservations, ReservationTable, new_key
from mme.capacity.rlimit import SAMPLE_NUMBERS, RequestLimit, limited_growth
from mme.capacity.shared_numbers import SharedNumbers
from mme.errors import InsufficientMemory, InsufficientResources
from mme.runtime_dir import in_memory
from mme.settings import Settings

logger = logging.getLogger(__name__)

# How long the memory of a worker that has died is kept: MMS is given 30 s to bring a model back (MMS-7).
KEPT_S = 30.0
# Processes that hold descriptors for each model, by what they are called; None where the number is not known.
Holders = Sequence[tuple[str, int | None]]

# Pages that a forked worker copies by writing to them do not show in its anonymous memory, which it seems to hold from
# the start. Measured in forked MXNet workers, from a tiny model to VGG-11: 6 to 20 MiB.
COPIED_ON_WRITE_BYTES = 16 * MIB

# How long a load waits for models that are busy to have room made for it.
MOST_WAIT_S = 10.0
# How often it looks whether it has its room, or its turn: this for each load that is before it.
_LOOK_S = 0.005


class Admission:
    """Decides about memory for every load.

    ``runtime_dir`` is the server's private folder, the same for all its processes.

    ``server_pid`` is the process that all others of this server descend from. A worker with a loaded model calls
    ``request_limit.renew()`` before each request.
    """

    def __init__(
        self, settings: Settings, runtime_dir: Path, *, server_pid: int, memory: MemoryReader | None = None
    ) -> None:
        self._settings = settings
        self._server_pid = server_pid
        self._memory = memory or SystemMemory(settings, runtime_dir, server_pid=server_pid)
        self._kernel_limits = KernelLimits()
        self._reservations = Reservations(in_memory(runtime_dir))
        # Asks for the kernel's limits alone: MME_MEMORY_LIMIT_MB takes too long to look after while a request waits.
        shared = SharedNumbers(in_memory(runtime_dir) / "free", SAMPLE_NUMBERS)
        self.request_limit = RequestLimit(settings, KernelMemory(), shared)

    @contextmanager
    def loading(
        self,
        model_name: str,
        model_dir: Path,
        *,
        holders: Holders = (),
        bounded: bool = True,
        replaces: bool = False,
        artifact: Artifact | None = None,
        neighbours: Neighbours | None = None,
        request_waits: bool = False,
    ) -> Iterator[Reservation]:
        """Around a load in this process: admits it, and settles it when the block has ended well.

        Inside, an allocation that would endanger others fails (rlimit.py), if ``bounded``. Raises
        ``InsufficientMemory`` before the block, or after it: then the model is to be dropped. ``ModelLoadError`` for
        a declaration in serving.properties that is no number. ``holders`` are the processes that hold descriptors for
        each model, by what they are called. ``replaces``: the model is loaded already, and this worker comes in the
        place of one that has died. ``artifact``: the files of ``model_dir``, where they have been looked at.
        ``neighbours`` may be put to sleep to make room. ``request_waits``: what the model needs beyond its load is
        taken by a request that comes next; the model was loaded before, and took it then.
        """
        reservation = self.admit(
            model_name, model_dir, holders, replaces=replaces, artifact=artifact, neighbours=neighbours
        )
        reservation.request_waits = request_waits
        with _settled(reservation), limited_growth(reservation.growth_bytes) if bounded else nullcontext():
            try:
                yield reservation
            except MemoryError as error:
                # one of ours says what happened, any other where
                trace = not isinstance(error, InsufficientMemory)
                message = f"model {model_name!r} did not load: {str(error) or 'out of memory'}; {reservation}"
                logger.error("%s (507)", message, exc_info=trace)
                raise reservation.verdict.error(message, reservation.need.need_bytes) from error

    def admit(
        self,
        model_name: str,
        model_dir: Path,
        holders: Holders = (),
        *,
        replaces: bool = False,
        artifact: Artifact | None = None,
        neighbours: Neighbours | None = None,
    ) -> Reservation:
        """Admits a load in this process, or in a child that takes the reservation over; raises as ``loading``."""
        self._check_kernel_limits(model_name, holders)
        artifact = artifact or survey(model_dir)
        need = need_of(model_dir, artifact, self._reservations.learnt_bytes(artifact.identity))
        key = new_key()
        with self._reservations.open() as table:
            kept = table.take_kept(model_name)
            # What it replaces has been admitted once; that the reserve has been used since must not end it, nor that
            # nobody was there to keep its memory, nor that others wait for more than it needs.
            comes_back = bool(kept) or replaces
            verdict = self._judge(table, need.need_bytes, _reserve_share(comes_back))
            place = 0 if neighbours is None or comes_back else table.place_in_queue(key)
            load = _loading(model_name, _own_process(), need.need_bytes)
            if verdict.decision.admitted and not place:
                table.loading[key] = load
                return Reservation(self, key, model_name, need, verdict, artifact, comes_back, neighbours)
            table.loading.update(kept)
            if neighbours is not None:
                table.loading[key] = replace(load, waits=True)
        if neighbours is not None:
            waiting = Reservation(self, key, model_name, need, verdict, artifact, comes_back, neighbours)
            try:
                verdict = self._wait_for_room(waiting, neighbours, place)
            except BaseException:
                self._release(key)
                raise
            if verdict.decision.admitted:
                return replace(waiting, verdict=verdict)
        message = (
            f"model {model_name!r} is refused: it needs {need}, and {verdict}. Unload other models, use a larger "
            "instance, or declare required_memory_mb in the model's serving.properties if it needs less."
        )
        logger.warning("%s", message)
        raise verdict.error(message, need.need_bytes)

    def _wait_for_room(self, waiting: Reservation, neighbours: Neighbours, place: int) -> _Verdict:
        """The last verdict on a load that stands in the queue, at ``place`` just now; it is out of that then."""
        verdict = waiting.verdict
        deadline_s = time.monotonic() + MOST_WAIT_S
        stubborn: set[int] = set()  # do not react
        while time.monotonic() < deadline_s:
            asked = place == 0 and self._put_to_sleep(neighbours, verdict, stubborn)
            if asked is None:
                break
            if not asked:
                time.sleep(_LOOK_S * max(place, 1))
            with self._reservations.open() as table:
                place = 0 if waiting.comes_back else table.place_in_queue(waiting.key)
                if place == 0:
                    kept = table.take_kept(waiting.model)
                    verdict = self._judge(table, waiting.need.need_bytes, waiting.reserve_share)
                    if verdict.decision.admitted:
                        table.loading[waiting.key] = _loading(waiting.model, _own_process(), waiting.need.need_bytes)
                        return verdict
                    table.loading.update(kept)
        self._release(waiting.key)
        return replace(verdict, decision=Decision(False, verdict.decision.missing_bytes))

    @staticmethod
    def _put_to_sleep(neighbours: Neighbours, verdict: _Verdict, stubborn: set[int]) -> bool | None:
        """Whether some have gone to sleep; None where there is no hope that what ``verdict`` misses becomes free."""
        for exactly in (False, True):
            awake = [each for each in neighbours.awake(exactly=exactly) if each.key not in stubborn]
            missing_bytes = verdict.decision.missing_bytes
            found = plan(awake, missing_bytes, neighbours.model, soon_bytes=verdict.promised_bytes)
            if not found.is_hopeless:
                break
        else:
            return None
        unmoved = {each.key for each in neighbours.put_to_sleep(found.sleepers)} if found.sleepers else set()
        stubborn.update(unmoved)
        return len(unmoved) < len(found.sleepers)

    def _check_kernel_limits(self, model_name: str, holders: Holders) -> None:
        tight = self._kernel_limits.too_tight(holders)
        if tight is not None:
            message = f"model {model_name!r} is refused for lack of {tight}"
            logger.warning("%s", message)
            raise InsufficientResources(message)

    def keep(self, model_name: str, taken_bytes: int) -> str:
        """A worker has died: what it took is kept for the next one of its model, which may also use of the reserve.

        For ``KEPT_S``, whoever dies meanwhile but the server, or until ``forget`` is called with what is returned.
        Raises ``OSError``, also where another process has the table just now: the caller has no time to wait.
        """
        server = ProcessId.of(self._server_pid) or _own_process()
        load = Loading(model_name, server.pid, server.start_ticks, taken_bytes, 0, time.monotonic() + KEPT_S)
        with self._reservations.open(wait=False) as table:
            return table.keep(load)

    def forget(self, key: str) -> None:
        """Nothing is kept any more, if no worker has come for it. Raises as ``keep``."""
        with self._reservations.open(wait=False) as table:
            table.loading.pop(key, None)

    def describe(self) -> str:
        """What is free now, and of which limit."""
        with self._reservations.open(wait=False) as table:
            return str(self._judge(table, 0, 1.0))

    def room_bytes(self) -> int:
        """What is free beyond the reserve and what loads under way will take. Raises as ``keep``."""
        with self._reservations.open(wait=False) as table:
            verdict = self._judge(table, 0, 1.0)
        return max(0, verdict.bytes_beyond(verdict.reserve_bytes))

    def is_memory_short(self) -> bool:
        """Is less free than the reserve, with what loads under way will take? Raises as ``keep``."""
        with self._reservations.open(wait=False) as table:
            return not self._judge(table, 0, 1.0).decision.admitted

    def _judge(self, table: ReservationTable, need_bytes: int, reserve_share: float) -> _Verdict:
        sample = self._memory.read()
        whole_reserve = reserve_bytes(self._settings, sample)
        reserve = int(whole_reserve * reserve_share)
        promised = table.most_outstanding_bytes()
        decision = decide(sample, promised_bytes=promised, need_bytes=need_bytes, reserve_bytes=reserve)
        if not decision.admitted and promised:
            promised = table.outstanding_bytes()
            decision = decide(sample, promised_bytes=promised, need_bytes=need_bytes, reserve_bytes=reserve)
        return _Verdict(decision, sample, promised, len(table.loading), reserve, whole_reserve)

    def _hand_over(self, key: str, pid: int) -> None:
        child = ProcessId.of(pid)
        with self._reservations.open() as table:
            load = table.loading.pop(key, None)
            if load and child:
                table.loading[key] = _loading(load.model, child, load.need_bytes)

    def _settle(self, reservation: Reservation, taken_bytes: int | None) -> int:
        with self._reservations.open() as table:
            load = table.loading.pop(reservation.key, None)
            if taken_bytes is None:
                before = load.anonymous_before_bytes if load else 0
                pid = load.pid if load else os.getpid()
                grown_bytes = anonymous_bytes(pid) - before - reservation.unused_bytes
                taken_bytes = max(0, grown_bytes) + COPIED_ON_WRITE_BYTES
            rest_bytes = max(0, reservation.need.need_bytes - taken_bytes) if reservation.request_waits else 0
            verdict = self._judge(table, rest_bytes, reservation.reserve_share)
        if not verdict.decision.admitted and reservation.neighbours is not None:
            verdict = self._restore_reserve(reservation, rest_bytes, reservation.neighbours)
        if self._settings.memory_limit_mb is None:  # else it is not of the kernel's limits alone
            reservation.settled_sample = verdict.sample
        if not reservation.request_waits:
            self._reservations.learn(reservation.artifact.identity, taken_bytes)
        if verdict.decision.admitted:
            logger.debug("model %r took %s of %s; %s", reservation.model, _mib(taken_bytes), reservation.need, verdict)
            return taken_bytes
        message = (
            f"model {reservation.model!r} is undone after its load: it took {_mib(taken_bytes)} where "
            f"{reservation.need} were expected, and {verdict}. Unload other models, or use a larger instance."
        )
        logger.warning("%s", message)
        raise verdict.error(message, taken_bytes)

    def _restore_reserve(self, reservation: Reservation, rest_bytes: int, neighbours: Neighbours) -> _Verdict:
        """The load is done, and has taken more than was expected: others sleep, as long as that helps."""
        deadline_s = time.monotonic() + MOST_WAIT_S
        stubborn: set[int] = set()
        while True:
            with self._reservations.open() as table:
                verdict = self._judge(table, rest_bytes, reservation.reserve_share)
            if verdict.decision.admitted or time.monotonic() >= deadline_s:
                return verdict
            asked = self._put_to_sleep(neighbours, verdict, stubborn)
            if asked is None:
                return verdict
            if not asked:
                time.sleep(_LOOK_S)

    def _release(self, key: str) -> None:
        with self._reservations.open() as table:
            table.loading.pop(key, None)


@dataclass
class Reservation:
    """The right to load one model. It must be settled or released; the death of the loading process releases it."""

    admission: Admission
    key: str
    model: str
    need: Need
    verdict: _Verdict  # why it was admitted
    artifact: Artifact
    comes_back: bool  # in the place of a worker that has died
    neighbours: Neighbours | None = None  # that may be put to sleep for it
    request_waits: bool = False  # a part of what it needs is taken after the load
    unused_bytes: int = 0  # that the load has taken and the model does not keep: they are given back soon
    taken_bytes: int = 0  # known once it is settled
    settled_sample: MemorySample | None = None  # what was free then, by the kernel's limits

    @property
    def growth_bytes(self) -> int:
        """The most that the load may allocate, whatever was expected (rlimit.limited_growth)."""
        return self.verdict.growth_bytes

    @property
    def leaves_room(self) -> bool:
        """Whether another load like this one would have been admitted beside it."""
        return self.verdict.bytes_beyond(self.verdict.whole_reserve_bytes) >= 2 * self.need.need_bytes

    @property
    def reserve_share(self) -> float:
        """How much of the reserve it leaves alone."""
        return _reserve_share(self.comes_back)

    def __str__(self) -> str:
        return f"it was admitted with {self.need}, when {self.verdict}"

    def hand_over(self, pid: int) -> None:
        """The load goes on in child ``pid``; called right after the fork."""
        self.admission._hand_over(self.key, pid)

    def settle(self, taken_bytes: int | None = None) -> None:
        """The model is loaded and has taken so much (default: what the loading process grew by).

        Raises ``InsufficientMemory`` if the reserve is broken now: the load is to be undone.
        """
        self.taken_bytes = self.admission._settle(self, taken_bytes)

    def release(self) -> None:
        """The load failed. May be called again, and after ``settle``."""
        self.admission._release(self.key)


def _reserve_share(comes_back: bool) -> float:
    return FLOOR_SHARE if comes_back else 1.0


@contextmanager
def _settled(reservation: Reservation) -> Iterator[None]:
    try:
        yield
    except BaseException:
        reservation.release()
        raise
    reservation.settle()


@dataclass(frozen=True)
class _Verdict:
    """A decision with all that it was made from, in bytes; as text, the part of a message that explains it."""

    decision: Decision
    sample: MemorySample
    promised_bytes: int
    loads: int
    reserve_bytes: int  # what is left alone
    whole_reserve_bytes: int

    @property
    def growth_bytes(self) -> int:
        """The most that the load may allocate, whatever was expected."""
        return load_growth_bytes(
            self.sample, promised_bytes=self.promised_bytes, reserve_bytes=self.whole_reserve_bytes
        )

    def error(self, message: str, need_bytes: int) -> InsufficientMemory:
        """``message`` with its figures."""
        free_bytes = max(0, self.bytes_beyond(self.reserve_bytes))
        return InsufficientMemory(
            message, need_bytes=need_bytes, free_bytes=free_bytes, limit_bytes=self.sample.limit_bytes
        )

    def bytes_beyond(self, reserve_bytes: int) -> int:
        """What is free beyond such a reserve, and promised to nobody; below 0 where that is used."""
        return self.sample.free_bytes - self.promised_bytes - reserve_bytes

    def __str__(self) -> str:
        promised = f" less {_mib(self.promised_bytes)} promised to {self.loads} load(s) under way" if self.loads else ""
        missing = "" if self.decision.admitted else f"; {_whole_mib(self.decision.missing_bytes)} are missing"
        return (
            f"free are {_mib(self.sample.free_bytes)}{promised}, of which {_mib(self.reserve_bytes)} are reserved for "
            f"requests (limit {_mib(self.sample.limit_bytes)}: {self.sample.source}){missing}"
        )


def _loading(model_name: str, process: ProcessId, need_bytes: int) -> Loading:
    return Loading(model_name, process.pid, process.start_ticks, need_bytes, anonymous_bytes(process.pid))


def _own_process() -> ProcessId:
    own = ProcessId.of(os.getpid())
    if own is None:
        raise OSError("/proc does not show this process")
    return own


def _mib(size_bytes: int) -> str:
    return f"{size_bytes // MIB} MiB"


def _whole_mib(size_bytes: int) -> str:
    """Rounded up: nobody is told that nothing is missing."""
    return _mib(size_bytes + MIB - 1)
