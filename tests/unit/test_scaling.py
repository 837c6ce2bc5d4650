"""The policy by which workers follow traffic: single decisions, and its properties over simulated traffic."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mme.capacity import scaling
from mme.capacity.scaling import Change, Decision, Limits, ModelSample, decide
from mme.settings import Settings
from tests.harness.simulated_traffic import LOAD_S, SimulatedModel, SimulatedServer, model_with

LIMITS = Limits(workers_per_model=4, extra_workers=4)


def sample(name: str = "m", **values: Any) -> ModelSample:
    usual: dict[str, Any] = {"workers": 1, "loaded": 1, "busy": 1, "waiting": 0, "all_busy_s": 0.0, "most_workers": 8}
    usual.update(values)
    usual.setdefault("loaded", usual["workers"])
    return ModelSample(name=name, **usual)


def decide_repeatedly(*samples: ModelSample, for_s: float, limits: Limits = LIMITS) -> Decision:
    """The first decision with changes while the samples stay the same for a time; else the last."""
    memory: scaling.Memory = {}
    now_s, decision = 0.0, Decision()
    while now_s <= for_s + 1e-9:
        decision = decide(samples, limits, memory, now_s)
        if decision.changes:
            return decision
        memory = decision.memory
        now_s += scaling.BUSY_LOOK_S
    return decision


def wanted(decision: Decision) -> dict[str, int]:
    return {each.name: each.workers for each in decision.changes}


# ---- single decisions ----


def test_a_queue_above_twice_the_batch_size_gets_a_worker_soon() -> None:
    assert wanted(decide_repeatedly(sample(waiting=9, batch_size=4), for_s=scaling.HEAVY_HOLD_S)) == {"m": 2}
    assert not decide_repeatedly(sample(waiting=8, batch_size=4), for_s=scaling.HEAVY_HOLD_S).changes


def test_requests_that_go_on_waiting_for_busy_workers_get_a_worker() -> None:
    assert wanted(decide_repeatedly(sample(waiting=1), for_s=scaling.HOLD_S)) == {"m": 2}
    assert not decide_repeatedly(sample(waiting=1), for_s=scaling.HOLD_S - 0.1).changes


@pytest.mark.parametrize(
    "idle", [{"waiting": 0}, {"busy": 1, "workers": 2, "loaded": 2, "waiting": 2}], ids=["nothing waits", "one is idle"]
)
def test_a_model_whose_workers_suffice_gets_none(idle: dict[str, Any]) -> None:
    assert not decide_repeatedly(sample(**idle), for_s=3).changes


def test_a_single_sample_decides_nothing() -> None:
    assert not decide([sample(waiting=100)], LIMITS, {}, 5.0).changes
    memory = decide([sample(waiting=100)], LIMITS, {}, 5.0).memory
    assert decide([sample(waiting=100)], LIMITS, memory, 1e6).look_again_s == scaling.BUSY_LOOK_S


def test_the_next_worker_comes_when_the_last_one_serves() -> None:
    assert not decide_repeatedly(sample(workers=2, loaded=1, waiting=50), for_s=3).changes


def test_those_come_first_that_keep_most_waiting() -> None:
    models = [sample("a", waiting=5), sample("b", waiting=50), sample("c", waiting=20)]
    decision = decide_repeatedly(*models, for_s=1, limits=Limits(4, 2))
    assert wanted(decision) == {"b": 2, "c": 2}


def test_a_model_has_no_more_than_its_most_or_the_servers() -> None:
    assert not decide_repeatedly(sample(workers=2, busy=2, loaded=2, waiting=50, most_workers=2), for_s=3).changes
    assert not decide_repeatedly(sample(workers=4, busy=4, loaded=4, waiting=50), for_s=3).changes


def test_a_model_below_its_least_gets_workers_without_traffic() -> None:
    assert wanted(decide([sample(busy=0, least_workers=3)], Limits(1, 1), {}, 5.0)) == {"m": 2}


def test_half_of_what_was_not_needed_goes_after_the_idle_time() -> None:
    idle = sample(workers=4, loaded=4, busy=0, max_idle_s=10.0, all_busy_s=100.0)
    memory = decide([sample(workers=4, loaded=4, busy=4)], LIMITS, {}, 90.0).memory
    before = decide([idle], LIMITS, memory, 109.0)
    assert not before.changes
    assert before.look_again_s == pytest.approx(1.0)
    assert wanted(decide([idle], LIMITS, before.memory, 110.0)) == {"m": 2}


def test_nothing_goes_that_is_busy() -> None:
    busy = sample(workers=4, loaded=4, busy=3, max_idle_s=10.0)
    memory = decide([busy], LIMITS, {}, 0.0).memory
    assert wanted(decide([busy], LIMITS, memory, 1000.0)) == {"m": 3}


def test_no_more_idle_workers_go_early_than_models_are_blocked() -> None:
    idle = [
        sample(name, workers=2, loaded=2, busy=0, all_busy_s=all_busy_s, max_idle_s=1e6)
        for name, all_busy_s in (("a", 2.0), ("b", 1.0), ("c", 3.0))
    ]
    memory = decide(idle, Limits(4, 3), {}, 0.0).memory
    for hot, changed in ((["x"], {"b": 1, "x": 2}), (["x", "y"], {"a": 1, "b": 1, "x": 2, "y": 2})):
        models, noted, now_s = [*idle, *(sample(name, waiting=50) for name in hot)], memory, 10.0
        for _ in range(20):
            decision = decide(models, Limits(4, 3), noted, now_s)
            if decision.changes:
                break
            noted, now_s = decision.memory, now_s + scaling.BUSY_LOOK_S
        assert wanted(decision) == changed, "who waits takes at once what is given back"


def test_idle_workers_go_early_where_another_model_is_blocked() -> None:
    idle = sample("idle", workers=3, loaded=3, busy=0, all_busy_s=0.0, max_idle_s=1e6)
    memory = decide([idle], Limits(4, 2), {}, 0.0).memory
    hot = sample("hot", waiting=50)
    now_s = 10.0
    for _ in range(20):
        decision = decide([idle, hot], Limits(4, 2), memory, now_s)
        if decision.changes:
            break
        memory, now_s = decision.memory, now_s + scaling.BUSY_LOOK_S
    assert wanted(decision) == {"idle": 2, "hot": 2}


def test_a_refused_worker_is_asked_for_again_after_twice_as_long_each_time() -> None:
    hot = sample(waiting=50)
    memory: scaling.Memory = {}
    asked_s = []
    for step in range(2000):
        now_s = step * scaling.BUSY_LOOK_S
        decision = decide([hot], LIMITS, memory, now_s)
        memory = decision.memory
        if decision.changes:
            asked_s.append(now_s)
    pauses_s = [after - before for before, after in itertools.pairwise(asked_s)]
    assert pauses_s[:5] == pytest.approx([1, 2, 4, 8, 16], abs=scaling.ANSWERED_S + 0.1)
    assert max(pauses_s) < scaling.LONGEST_WAIT_S + 1


def test_the_bounds_follow_the_cores() -> None:
    assert Limits.of(Settings(), 2) == Limits(2, 2)
    assert Limits.of(Settings(workers_per_core=1.5), 3) == Limits(4, 4)
    assert Limits.of(Settings(), 0.5) == Limits(1, 1)


# ---- simulated traffic ----

NAMES = [f"m{number}" for number in range(6)]
TRAFFIC = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(NAMES), st.integers(0, 12), max_size=6),  # clients
        st.sampled_from([0.0, 0.02, 0.2, 1.0]),  # that think for so long
        st.floats(0.5, 6.0),  # and for how long that lasts
    ),
    min_size=1,
    max_size=5,
)
MODELS = st.fixed_dictionaries(
    {
        name: st.builds(
            lambda name, service_s, least, most, batch_size: model_with(
                name, service_s=service_s, least=least, most=max(least, most), batch_size=batch_size
            ),
            st.just(name),
            st.sampled_from([0.02, 0.05, 0.4]),
            st.integers(1, 2),
            st.integers(1, 6),
            st.sampled_from([1, 1, 4]),
        )
        for name in NAMES
    }
)
CORES = st.integers(1, 6)
MOST_EXTRA_S = 60.0  # in which a server without traffic has got rid of all that it does not need


def assert_bounds(server: SimulatedServer, decision: Decision) -> None:
    models, limits = server.models, server.limits
    changes = {each.name: each.workers for each in decision.changes}
    after = {name: changes.get(name, model.count) for name, model in models.items()}
    for name, model in models.items():
        assert model.least <= after[name] <= max(model.least, min(model.most, limits.workers_per_model))
        assert after[name] >= model.busy, "a busy worker is taken"
    assert sum(max(0, after[name] - model.least) for name, model in models.items()) <= limits.extra_workers


@settings(max_examples=20, deadline=None)
@given(models=MODELS, traffic=TRAFFIC, cores=CORES, spare_workers=st.integers(0, 8), seed=st.integers(0, 1000))
def test_whatever_the_traffic_the_bounds_hold_everybody_is_answered_and_idle_workers_go(
    models: dict[str, SimulatedModel], traffic: list, cores: int, spare_workers: int, seed: int
) -> None:
    least = sum(model.least for model in models.values())
    server = SimulatedServer(models, Limits(cores, cores), cores=cores, memory_workers=least + spare_workers, seed=seed)
    server.check = assert_bounds
    for clients, think_s, duration_s in traffic:
        server.set_clients(clients, think_s)
        server.run(duration_s)
    server.set_clients({})
    server.run_until(lambda: all(not model.under_way for model in models.values()), timeout_s=120)
    server.run(MOST_EXTRA_S)
    assert {name: model.count for name, model in models.items()} == {name: each.least for name, each in models.items()}
    decisions = server.decisions
    server.run(20)
    assert server.decisions == decisions, "a server without traffic is looked at"


@settings(max_examples=15, deadline=None)
@given(
    clients=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 12), max_size=6),
    think_s=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    cores=CORES,
    seed=st.integers(0, 1000),
)
def test_under_constant_traffic_the_number_of_workers_settles(
    clients: dict[str, int], think_s: float, cores: int, seed: int
) -> None:
    models = {name: model_with(name, max_idle_s=5.0) for name in NAMES}
    server = SimulatedServer(models, Limits(cores, cores), cores=cores, seed=seed)
    server.check = assert_bounds
    server.set_clients(clients, think_s)
    server.run(60)
    # Chance may show a need once in a while that lasts for an idle time: up and down again, and not more often.
    for model in models.values():
        late = [each_s for each_s in (*model.ups_s, *model.downs_s) if each_s > server.now_s - 40]
        assert len(late) <= 40 / model.max_idle_s, late
        for down_s in model.downs_s:
            up_s = max((up_s for up_s in model.ups_s if up_s <= down_s), default=-math.inf)
            assert down_s - up_s >= scaling.CONTENDED_IDLE_S, "taken as soon as it came"


@settings(max_examples=15, deadline=None)
@given(clients=st.integers(3, 12), cores=st.integers(2, 6), seed=st.integers(0, 1000))
def test_one_hot_model_gets_all_cores_and_keeps_them(clients: int, cores: int, seed: int) -> None:
    models = {name: SimulatedModel(name) for name in NAMES}
    server = SimulatedServer(models, Limits(cores, cores), cores=cores, seed=seed)
    server.set_clients({"m0": clients})
    most = min(cores, clients)
    server.run_until(lambda: len(models["m0"].workers) >= most, timeout_s=most * (scaling.HOLD_S + LOAD_S + 0.2) + 1)
    since_s = server.now_s
    server.run(60)
    assert not server.changes_s(since_s + 1), "no flapping"


def test_batches_need_fewer_workers() -> None:
    for batch_size, workers in ((16, {1, 2}), (1, {4})):
        model = model_with("m0", batch_size=batch_size)
        server = SimulatedServer({"m0": model}, Limits(4, 4), cores=4, seed=1)
        server.set_clients({"m0": 12}, think_s=0.2)
        server.run(20)
        assert model.count in workers, batch_size


@settings(max_examples=5, deadline=None)
@given(clients=st.lists(st.integers(3, 12), min_size=6, max_size=6), cores=st.integers(2, 4), seed=st.integers(0, 1000))
def test_of_more_saturated_models_than_workers_none_starves_and_none_flaps(
    clients: list[int], cores: int, seed: int
) -> None:
    models = {name: SimulatedModel(name) for name in NAMES}
    server = SimulatedServer(models, Limits(cores, cores), cores=cores, seed=seed)
    server.check = assert_bounds
    server.set_clients(dict(zip(NAMES, clients, strict=True)))
    server.run(10)
    since_s, before = server.now_s, {name: model.answered for name, model in models.items()}
    server.run(20)
    assert not server.changes_s(since_s), "who has a further worker and needs it keeps it: all cores are busy"
    assert server.workers == len(models) + cores
    one_workers_part = 20 / SimulatedModel("").service_s * cores / server.workers
    for name, model in models.items():
        assert model.answered - before[name] >= 0.7 * model.count * one_workers_part, "each of its workers has its part"


def test_who_waits_longest_in_vain_gets_the_next_worker_that_is_given_back() -> None:
    models = {name: SimulatedModel(name) for name in NAMES}
    server = SimulatedServer(models, Limits(2, 2), cores=2, seed=1)
    busy = {"m0": 4, "m1": 4}
    server.set_clients(busy)
    server.run(5)
    server.set_clients({**busy, "m4": 5, "m5": 12})
    server.run(20)
    assert [models[name].count for name in ("m0", "m1", "m4", "m5")] == [2, 2, 1, 1]
    server.set_clients({"m1": 4, "m4": 5, "m5": 12})
    server.run_until(lambda: len(models["m5"].workers) == 2, timeout_s=2 * scaling.CONTENDED_IDLE_S + LOAD_S + 1)
    assert (models["m0"].count, models["m4"].count) == (1, 1)


@settings(max_examples=15, deadline=None)
@given(first=st.integers(4, 12), second=st.integers(4, 12), cores=st.integers(2, 6), seed=st.integers(0, 1000))
def test_workers_move_with_the_hot_model(first: int, second: int, cores: int, seed: int) -> None:
    models = {name: model_with(name, max_idle_s=600.0) for name in NAMES}
    server = SimulatedServer(models, Limits(cores, cores), cores=cores, seed=seed)
    server.check = assert_bounds
    server.set_clients({"m0": first})
    server.run(10)
    assert models["m0"].count == min(cores, first)
    server.set_clients({"m1": second})
    server.run(20)
    assert models["m1"].count == min(cores, second)


def test_a_burst_has_its_second_worker_within_a_fraction_of_a_second() -> None:
    models = {name: SimulatedModel(name) for name in NAMES}
    server = SimulatedServer(models, Limits(2, 2), cores=2, seed=1)
    server.run(5)
    server.set_clients({"m0": 8})
    assert server.run_until(lambda: len(models["m0"].workers) == 2, timeout_s=5) < 0.2 + LOAD_S


def test_memory_that_ends_goes_to_the_model_that_needs_it() -> None:
    models = {name: model_with(name, max_idle_s=math.inf) for name in NAMES}
    server = SimulatedServer(models, Limits(4, 4), cores=4, memory_workers=len(NAMES) + 2, seed=1)
    server.set_clients({"m0": 8})
    server.run(10)
    assert models["m0"].count == 3
    server.set_clients({"m1": 8})
    server.run(20)
    assert models["m1"].count >= 2
    assert all(model.count >= 1 for model in models.values())


def test_a_change_names_its_model() -> None:
    assert Change(sample("a"), 2).name == "a"
