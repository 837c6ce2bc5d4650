"""Who sleeps for whom: the policy by itself, in simulated traffic, and as admission acts on it."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mme.capacity import admission as admission_module
from mme.capacity.admission import Admission, Reservation
from mme.capacity.memory import MIB, MemorySample
from mme.capacity.overcommit import AwakeSession, Plan, plan
from mme.errors import InsufficientMemory
from mme.settings import Settings
from tests.harness.declared_memory import maker_of_models
from tests.harness.waiting import wait_until

OWN = 1


def session(
    key: int, taken: int = 10, used_ns: int = 0, *, idle: bool = True, model: int | None = None
) -> AwakeSession:
    return AwakeSession(key, key if model is None else model, taken, used_ns, idle)


# ---- the policy ----


@pytest.mark.parametrize(
    ("sessions", "missing", "expected"),
    [
        ([session(2, used_ns=5), session(3, used_ns=4), session(4, used_ns=6)], 10, (3,)),
        ([session(2, used_ns=5), session(3, used_ns=4), session(4, used_ns=6)], 11, (3, 2)),
        ([session(2, used_ns=5), session(3, used_ns=4, idle=False)], 10, (2,)),
        ([session(2, idle=False), session(3, idle=False)], 10, ()),  # they are waited for
        ([session(2, used_ns=1), session(3, idle=False)], 20, (2,)),
        ([session(2, model=OWN), session(3)], 10, (3,)),  # no sibling
        ([session(2)], 0, ()),
    ],
)
def test_the_least_recently_used_sleep_and_no_more_than_are_needed(
    sessions: list[AwakeSession], missing: int, expected: tuple[int, ...]
) -> None:
    found = plan(sessions, missing, OWN)
    assert tuple(each.key for each in found.sleepers) == expected
    assert not found.is_hopeless


@pytest.mark.parametrize("sessions", [[], [session(2)], [session(2), session(3, model=OWN)]])
def test_nobody_sleeps_for_what_all_together_cannot_give(sessions: list[AwakeSession]) -> None:
    assert plan(sessions, 11, OWN) == Plan((), is_hopeless=True)
    assert not plan(sessions, 11, OWN, soon_bytes=11).is_hopeless, "a load under way may sleep later"


sessions_of_any_kind = st.lists(
    st.builds(
        AwakeSession,
        key=st.integers(0, 50),
        model=st.integers(0, 20),
        taken_bytes=st.integers(0, 100),
        used_ns=st.integers(0, 1000),
        is_idle=st.booleans(),
    ),
    unique_by=lambda each: each.key,
)


@given(sessions_of_any_kind, st.integers(0, 2000))
def test_whoever_sleeps_is_idle_is_another_model_and_was_used_before_all_who_do_not(
    sessions: list[AwakeSession], missing: int
) -> None:
    found = plan(sessions, missing, OWN)
    chosen = list(found.sleepers)
    assert all(each.is_idle and each.model != OWN for each in chosen)
    spared = [each for each in sessions if each.is_idle and each.model != OWN and each not in chosen]
    if found.is_hopeless:
        assert not chosen
        return
    assert all(one.used_ns <= other.used_ns for one in chosen for other in spared)
    freed = sum(each.taken_bytes for each in chosen)
    assert freed >= missing or not spared
    assert not chosen or freed - chosen[-1].taken_bytes < missing, "one less would have been enough"


# ---- traffic ----


@dataclass
class Model:
    """One model of a simulated server, with one session."""

    size: int
    state: str = "asleep"  # waking, busy, idle
    used: int = 0
    until: int = 0  # it has answered
    has_answered: bool = True  # since it was woken
    wake_ups: int = 0


@dataclass
class Fleet:
    """A server with ``capacity``; time goes in steps. Requests of a model that works wait for it."""

    sizes: Sequence[int]
    capacity: int
    now: int = 0
    answered: int = 0
    refused: int = 0
    queue: deque[int] = field(default_factory=deque)  # models that wait for room

    def __post_init__(self) -> None:
        self.models = [Model(size) for size in self.sizes]
        self.waiting = [0] * len(self.models)  # requests

    def used(self) -> int:
        return sum(each.size for each in self.models if each.state != "asleep")

    def request(self, at: int) -> None:
        self.waiting[at] += 1
        if self.models[at].state == "asleep" and at not in self.queue:
            self.queue.append(at)

    def step(self) -> None:
        self.now += 1
        for at, model in enumerate(self.models):
            if model.state in ("busy", "waking") and model.until <= self.now:
                if model.state == "busy":
                    self.answered += 1
                    model.has_answered, model.used, model.state = True, self.now, "idle"
                if self.waiting[at]:
                    self.waiting[at] -= 1
                    model.state, model.until = "busy", self.now + 2
            elif model.state == "idle" and self.waiting[at]:
                self.waiting[at] -= 1
                model.state, model.until = "busy", self.now + 2
        self.admit()
        assert self.used() <= self.capacity

    def admit(self) -> None:
        """As ``Admission._wait_for_room``: the first of the queue alone."""
        while self.queue:
            at = self.queue[0]
            model = self.models[at]
            missing = self.used() + model.size - self.capacity
            if missing > 0:
                found = plan(self.awake(), missing, at)
                if found.is_hopeless:
                    self.queue.popleft()
                    self.refused += self.waiting[at]
                    self.waiting[at] = 0
                    continue
                self.put_to_sleep(found.sleepers)
                if self.used() + model.size > self.capacity:
                    return  # the next step looks again
            self.queue.popleft()
            model.state, model.until, model.used, model.has_answered = "waking", self.now + 3, self.now, False
            model.wake_ups += 1

    def awake(self) -> list[AwakeSession]:
        return [
            AwakeSession(at, at, each.size, each.used, each.state == "idle")
            for at, each in enumerate(self.models)
            if each.state != "asleep"
        ]

    def put_to_sleep(self, sleepers: Iterable[AwakeSession]) -> None:
        for sleeper in sleepers:
            model = self.models[sleeper.key]
            assert model.state == "idle", "a busy model was put to sleep"
            assert model.has_answered, "a model was put to sleep before it had done what it was woken for"
            model.state = "asleep"
            if self.waiting[sleeper.key]:  # it came at the same time: the front end's next bytes wake it
                self.queue.append(sleeper.key)

    def run_until_quiet(self, most_steps: int) -> None:
        for _ in range(most_steps):
            self.step()
            if not any(self.waiting) and all(each.state in ("asleep", "idle") for each in self.models):
                return
        raise AssertionError(f"requests still wait after {most_steps} steps: {self.waiting}")


traffic = st.lists(st.lists(st.integers(0, 11), max_size=3), max_size=60)


@settings(deadline=None)
@given(st.lists(st.integers(1, 10), min_size=12, max_size=12), st.integers(10, 60), traffic)
def test_every_request_is_answered_in_the_end_however_little_memory_there_is(
    sizes: list[int], capacity: int, requests: list[list[int]]
) -> None:
    fleet = Fleet(sizes, capacity)
    for models in requests:
        for at in models:
            fleet.request(at)
        fleet.step()
    asked = sum(map(len, requests))
    fleet.run_until_quiet(200 + 20 * asked)
    assert (fleet.answered, fleet.refused) == (asked, 0)
    assert sum(each.wake_ups for each in fleet.models) <= asked, "who wakes answers at least once"


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=12, max_size=12),
    st.integers(0, 11),
    st.lists(st.integers(0, 11), min_size=20, max_size=200),
)
def test_models_in_use_that_fit_together_stay_awake(sizes: list[int], first: int, requests: list[int]) -> None:
    """Hysteresis: what was used once since they were all asked is never exchanged for another of them."""
    capacity = 25
    in_use, total = [], 0
    for at in [*range(first, 12), *range(first)]:
        if total + sizes[at] <= capacity:
            in_use.append(at)
            total += sizes[at]
    fleet = Fleet(sizes, capacity)
    for at in range(12):  # all were awake at some time
        fleet.request(at)
        fleet.run_until_quiet(1000)
    for at in in_use:
        fleet.request(at)
        fleet.run_until_quiet(1000)
    before = [each.wake_ups for each in fleet.models]
    for at in requests:
        fleet.request(in_use[at % len(in_use)])
        fleet.step()
    fleet.run_until_quiet(5000)
    assert [each.wake_ups for each in fleet.models] == before


@pytest.mark.parametrize("exponent", [1.1, 1.5])
def test_under_zipf_traffic_the_hot_ones_stay_awake(exponent: float) -> None:
    """Of four times as many as fit: nearly as many warm answers as if the hottest that fit never slept."""
    models, capacity, requests = 80, 20, 1600
    weights = [1 / rank**exponent for rank in range(1, models + 1)]
    most_warm = sum(weights[:capacity]) / sum(weights)
    fleet, chance = Fleet([1] * models, capacity), random.Random(1)
    before: list[int] = []
    for number in range(requests):
        if number == requests // 4:  # it has settled
            before = [each.wake_ups for each in fleet.models]
        fleet.request(chance.choices(range(models), weights)[0])
        for _ in range(6):  # until it is answered
            fleet.step()
    wake_ups = [each.wake_ups - earlier for each, earlier in zip(fleet.models, before, strict=True)]
    asked = requests - requests // 4
    assert (fleet.answered, fleet.refused) == (requests, 0)
    assert 1 - sum(wake_ups) / asked >= most_warm - 0.13
    assert wake_ups[0] == 0, "the hottest never sleeps"
    assert sum(wake_ups[:3]) <= 0.02 * asked, "the next ones hardly ever"


@given(st.permutations(range(11)))
def test_a_large_model_gets_its_room_although_small_ones_keep_coming(requests: list[int]) -> None:
    fleet = Fleet([2] * 11 + [20], capacity=20)
    for at in requests[:5]:
        fleet.request(at)
        fleet.step()
    fleet.request(11)
    for at in requests[5:]:
        fleet.request(at)
        fleet.step()
    assert fleet.models[11].wake_ups == 1, "it waits for what was awake before it, and for nobody who came later"
    fleet.run_until_quiet(3000)
    assert fleet.answered == 12


def test_a_model_that_does_not_fit_at_all_is_refused_and_nobody_sleeps_for_it() -> None:
    fleet = Fleet([5, 5, 30], capacity=20)
    for at in (0, 1, 2):
        fleet.request(at)
        fleet.run_until_quiet(100)
    assert (fleet.answered, fleet.refused) == (2, 1)
    assert [each.state for each in fleet.models] == ["idle", "idle", "asleep"]


# ---- admission ----


class Memory:
    """1,000 MiB, of which the neighbours take some."""

    def __init__(self, neighbours: FakeNeighbours) -> None:
        self._neighbours = neighbours
        self.more_mib = 0

    def read(self) -> MemorySample:
        used = self.more_mib * MIB + sum(each.taken_bytes for each in self._neighbours.sessions)
        return MemorySample(1000 * MIB, used, 1000 * MIB, "the test")


LOADED = 500 * MIB  # no load takes more


class FakeNeighbours:
    """Sessions without processes; they sleep at once."""

    model = OWN

    def __init__(self) -> None:
        self.sessions: list[AwakeSession] = []
        self.slept: list[int] = []
        self.stubborn: set[int] = set()

    def awake(self, *, exactly: bool = False) -> list[AwakeSession]:
        """Unless ``exactly``, it is not known what requests have taken."""
        return [each if exactly else replace(each, taken_bytes=min(each.taken_bytes, LOADED)) for each in self.sessions]

    def put_to_sleep(self, sessions: Sequence[AwakeSession]) -> list[AwakeSession]:
        for each in sessions:
            if each.key not in self.stubborn:
                self.sessions.remove(each)
                self.slept.append(each.key)
        return [each for each in sessions if each.key in self.stubborn]


@pytest.fixture
def neighbours() -> FakeNeighbours:
    return FakeNeighbours()


@pytest.fixture
def memory(neighbours: FakeNeighbours) -> Memory:
    return Memory(neighbours)


@pytest.fixture
def admission(tmp_path: Path, memory: Memory) -> Admission:
    (tmp_path / "runtime").mkdir()
    return Admission(Settings(memory_reserve_mb=100), tmp_path / "runtime", server_pid=1, memory=memory)


@pytest.fixture
def declaring(tmp_path: Path) -> Callable[[int], Path]:
    return maker_of_models(tmp_path)


def test_a_load_that_does_not_fit_puts_the_least_recently_used_to_sleep(
    admission: Admission, declaring: Callable[[int], Path], neighbours: FakeNeighbours
) -> None:
    neighbours.sessions = [session(at, 200 * MIB, used_ns=10 - at) for at in range(2, 6)]
    reservation = admission.admit("m", declaring(250), neighbours=neighbours)
    assert neighbours.slept == [5]
    reservation.release()
    with pytest.raises(InsufficientMemory):
        admission.admit("m", declaring(950), neighbours=neighbours)
    assert neighbours.slept == [5], "nobody sleeps in vain"
    with pytest.raises(InsufficientMemory):
        admission.admit("m", declaring(400))  # where MME_OVERCOMMIT is off there are no neighbours


def test_a_load_that_has_taken_more_than_expected_puts_others_to_sleep_before_it_is_undone(
    admission: Admission, declaring: Callable[[int], Path], neighbours: FakeNeighbours, memory: Memory
) -> None:
    neighbours.sessions = [session(2, 200 * MIB, used_ns=2), session(3, 200 * MIB, used_ns=1)]
    with admission.loading("m", declaring(10), neighbours=neighbours, bounded=False):
        memory.more_mib = 600
    assert neighbours.slept == [3]
    neighbours.sessions = []
    with (
        pytest.raises(InsufficientMemory, match="undone after its load"),
        admission.loading("m", declaring(10), neighbours=neighbours, bounded=False),
    ):
        memory.more_mib = 950
    assert neighbours.slept == [3]


def test_what_requests_have_taken_counts_before_a_load_is_refused(
    admission: Admission, declaring: Callable[[int], Path], neighbours: FakeNeighbours
) -> None:
    neighbours.sessions = [session(2, 900 * MIB)]
    admission.admit("m", declaring(700), neighbours=neighbours).release()
    assert neighbours.slept == [2]


def test_who_has_room_made_for_it_does_not_wait_any_longer(
    admission: Admission,
    declaring: Callable[[int], Path],
    neighbours: FakeNeighbours,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission_module.time, "sleep", lambda _: pytest.fail("it waits"))
    neighbours.sessions = [session(at, 200 * MIB) for at in range(2, 6)]
    admission.admit("m", declaring(350), neighbours=neighbours).release()
    assert len(neighbours.slept) == 2


def test_a_session_that_does_not_react_is_passed_over(
    admission: Admission, declaring: Callable[[int], Path], neighbours: FakeNeighbours
) -> None:
    neighbours.sessions = [session(at, 200 * MIB, used_ns=at) for at in range(2, 6)]
    neighbours.stubborn = {2}
    admission.admit("m", declaring(250), neighbours=neighbours).release()
    assert neighbours.slept == [3]


def waiting(admission: Admission) -> int:
    with admission._reservations.open() as table:
        return sum(each.waits for each in table.loading.values())


def test_busy_models_are_waited_for_and_loads_get_room_in_their_order(
    admission: Admission, declaring: Callable[[int], Path], neighbours: FakeNeighbours
) -> None:
    busy = session(2, 800 * MIB, idle=False)
    neighbours.sessions = [busy]
    order: list[int] = []

    def load(need_mib: int) -> None:
        reservation = admission.admit("m", declaring(need_mib), neighbours=neighbours)
        order.append(need_mib)
        reservation.release()

    threads = []
    for count, need_mib in enumerate([860, 50, 870], start=1):  # the second one would fit at once, none beside another
        threads.append(threading.Thread(target=load, args=[need_mib]))
        threads[-1].start()
        wait_until(lambda count=count: waiting(admission) == count, "it waits")  # type: ignore[misc]
    assert order == []
    neighbours.sessions = [session(2, 800 * MIB)]
    for thread in threads:
        thread.join(30)
    assert order == [860, 50, 870]
    assert neighbours.slept == [2]


@pytest.mark.parametrize("kept_mib", [100, None])
def test_a_worker_that_comes_back_waits_behind_nobody(
    admission: Admission, declaring: Callable[[int], Path], neighbours: FakeNeighbours, kept_mib: int | None
) -> None:
    neighbours.sessions = [session(2, 800 * MIB, idle=False)]
    go_on = threading.Event()

    def load() -> None:
        admission.admit("large", declaring(500), neighbours=neighbours).release()
        go_on.set()

    waits = threading.Thread(target=load)
    waits.start()
    wait_until(lambda: waiting(admission) == 1, "it waits")
    if kept_mib is not None:
        admission.keep("m", kept_mib * MIB)
    admission.admit("m", declaring(50), neighbours=neighbours, replaces=kept_mib is None).release()
    assert not go_on.is_set()
    neighbours.sessions = []
    waits.join(30)
    assert go_on.is_set()


def test_what_is_kept_for_a_worker_is_not_in_its_way_while_it_waits(
    admission: Admission, declaring: Callable[[int], Path], neighbours: FakeNeighbours
) -> None:
    neighbours.sessions = [session(2, 800 * MIB, idle=False)]
    admission.keep("m", 500 * MIB)
    came: list[Reservation] = []
    worker = threading.Thread(
        target=lambda: came.append(admission.admit("m", declaring(500), neighbours=neighbours, replaces=True))
    )
    worker.start()
    wait_until(lambda: waiting(admission) == 1, "it waits")
    neighbours.sessions = [session(2, 400 * MIB, idle=False)]  # 600 are free: enough once, not for both
    worker.join(30)
    assert came
    with admission._reservations.open() as table:
        assert [each.need_bytes for each in table.loading.values()] == [500 * MIB], "what was kept is taken"


def test_a_load_that_waits_in_vain_is_refused(
    admission: Admission,
    declaring: Callable[[int], Path],
    neighbours: FakeNeighbours,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission_module, "MOST_WAIT_S", 0.1)
    neighbours.sessions = [session(2, 800 * MIB, idle=False)]
    with pytest.raises(InsufficientMemory, match="'m' is refused: it needs 500 MiB"):
        admission.admit("m", declaring(500), neighbours=neighbours)
    admission.admit("m", declaring(50), neighbours=neighbours)
