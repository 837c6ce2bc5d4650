"""Which instance serves."""

from __future__ import annotations

from local_endpoint.hosting.router import Choice, Sample, choose

BUSY = 4


def sample(
    index: int,
    state: str = "",
    users: int = 0,
    in_flight: int | None = None,
    models: int = 0,
    takes_copy: bool = True,
) -> Sample:
    return Sample(
        index=index,
        has_model=state in ("ready", "coming"),
        is_ready=state == "ready",
        is_on_disk=state != "",
        takes_copy=takes_copy,
        model_users=users,
        in_flight=users if in_flight is None else in_flight,
        models=models,
    )


def test_a_model_that_nobody_has_goes_to_the_least_busy_instance() -> None:
    assert choose([sample(0, in_flight=3), sample(1, in_flight=1), sample(2, in_flight=2)], BUSY) == Choice(1)


def test_among_equally_busy_instances_the_one_with_fewest_models_gets_it() -> None:
    assert choose([sample(0, models=3), sample(1, models=2)], BUSY) == Choice(1)


def test_a_model_stays_with_the_instance_that_has_it() -> None:
    assert choose([sample(0), sample(1, "ready", users=3, in_flight=9)], BUSY) == Choice(1)


def test_when_that_one_is_busy_another_gets_a_copy_and_the_request_does_not_wait_for_it() -> None:
    assert choose([sample(0), sample(1, "ready", users=BUSY)], BUSY) == Choice(1, copy_to=0)


def test_only_one_copy_is_made_at_a_time() -> None:
    samples = [sample(0), sample(1, "ready", users=BUSY), sample(2, "coming")]
    assert choose(samples, BUSY) == Choice(1)


def test_a_model_on_its_way_is_waited_for_where_it_is_expected() -> None:
    assert choose([sample(0), sample(1, "coming", users=9)], BUSY) == Choice(1)


def test_of_several_that_have_the_model_the_least_busy_serves() -> None:
    assert choose([sample(0, "ready", users=3), sample(1, "ready", users=1)], BUSY) == Choice(1)


def test_no_copy_where_all_have_it() -> None:
    assert choose([sample(0, "ready", users=BUSY), sample(1, "ready", users=BUSY + 1)], BUSY) == Choice(0)


def test_a_model_that_is_on_the_disk_of_an_instance_is_loaded_there_again() -> None:
    assert choose([sample(0), sample(1, "on disk", in_flight=BUSY - 1, models=9)], BUSY) == Choice(1)


def test_unless_that_one_has_much_more_to_do() -> None:
    assert choose([sample(0), sample(1, "on disk", in_flight=BUSY)], BUSY) == Choice(0)


def test_a_copy_goes_where_the_model_is_on_the_disk() -> None:
    samples = [sample(0), sample(1, "ready", users=BUSY), sample(2, "on disk", in_flight=1)]
    assert choose(samples, BUSY) == Choice(1, copy_to=2)


def test_no_copy_goes_where_the_last_one_failed_a_moment_ago() -> None:
    samples = [sample(0, takes_copy=False), sample(1, "ready", users=BUSY), sample(2, models=5)]
    assert choose(samples, BUSY) == Choice(1, copy_to=2)
    assert choose(samples[:2], BUSY) == Choice(1)


def test_a_model_that_nobody_has_is_loaded_also_where_a_copy_failed() -> None:
    assert choose([sample(0, takes_copy=False)], BUSY) == Choice(0)
