"""How a soak judges: what a killed worker excuses, what is told of a request without its right answer."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.soak import process_inspector
from benchmarks.soak.options import SoakOptions
from benchmarks.soak.record import INSTANT_S, Record
from benchmarks.soak.run import leaks, missing_sleeps
from benchmarks.soak.timeline import Timeline
from mme.settings import Settings


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path / "server.log")


def killed(record: Record, model: str = "a") -> tuple[float, float]:
    """Kills a worker; from when to when."""
    kill = record.begin_kill(model)
    record.end_kill(kill, 1)
    return kill.from_s, kill.to_s


@pytest.mark.parametrize("status", [500, 507])
def test_a_killed_worker_excuses_the_request_that_it_had_and_one_more(record: Record, status: int) -> None:
    from_s, to_s = killed(record)
    assert [record.excuses("a", status, from_s - 1, to_s + 1) for _ in range(3)] == [True, True, False]
    assert record.counts[f"excused: request 2 of a worker that was killed ({status})"] == 1


def test_each_kill_excuses_requests_of_its_own(record: Record) -> None:
    from_s, _ = killed(record)
    _, to_s = killed(record)
    assert [record.excuses("a", 500, from_s - 1, to_s + 1) for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("status", [0, 200, 400, 404, 503])
def test_a_killed_worker_excuses_no_other_answer(record: Record, status: int) -> None:
    from_s, to_s = killed(record)
    assert not record.excuses("a", status, from_s - 1, to_s + 1)


def test_a_kill_excuses_no_other_model_and_no_earlier_or_much_later_request(record: Record) -> None:
    from_s, to_s = killed(record)
    assert not record.excuses("b", 500, from_s - 1, to_s + 1)
    assert not record.excuses("a", 500, from_s - 2, from_s - 1)
    assert not record.excuses("a", 500, to_s + INSTANT_S + 0.1, to_s + 2)
    assert record.excuses("a", 500, to_s + INSTANT_S - 0.1, to_s + 2)


def test_a_kill_counts_from_before_it_is_done(record: Record) -> None:
    """The request may be answered before the one who kills knows that the worker is dead."""
    kill = record.begin_kill("a")
    assert record.was_killed("a", kill.from_s, time.monotonic())
    assert record.counts["workers killed"] == 0
    record.end_kill(kill, 1)
    assert record.counts["workers killed"] == 1


def test_a_kill_that_met_no_worker_excuses_nothing(record: Record) -> None:
    kill = record.begin_kill("a")
    record.end_kill(kill, None)
    assert not record.was_killed("a", kill.from_s, time.monotonic())
    assert not record.excuses("a", 500, kill.from_s, time.monotonic())


def test_kills_in_a_row_are_those_since_the_model_last_answered(record: Record) -> None:
    killed(record)
    record.answered("invoke", "b", 200, 0.1)
    record.answered("invoke", "a", 507, 0.1)
    record.answered("load", "a", 200, 0.1)
    killed(record)
    killed(record, "b")
    assert (record.kills_in_a_row("a"), record.kills_in_a_row("b"), record.kills_in_a_row("c")) == (2, 1, 0)
    record.answered("invoke", "a", 200, 0.1)
    assert record.kills_in_a_row("a") == 0


def test_a_violation_is_explained_by_what_happened_to_its_model(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    record = Record(log)
    log.write_text("a: long ago\n")
    record.timeline.note("a", "load answered 200")
    sent_s = time.monotonic()
    killed(record)
    log.write_text(log.read_text() + "a: worker process 1 was killed\nb: other\n")
    record.answered("invoke", "a", 503, 0.25)
    record.answered("invoke", "b", 200, 0.25)
    record.violates("answers", "a: 503", "a", sent_s)
    log.write_text(log.read_text() + "a: restarted\n")

    (violation,) = record.violations
    lines = [line.strip() for line in record.explain(violation)]
    assert lines[0] == "NOT MET: answers"
    assert lines[1].endswith(" a: 503")
    told = [line.partition("  ")[2] or line for line in lines[2:]]
    assert told == [
        "log | a: long ago",
        "load answered 200",
        "WORKER KILLED (process 1)",
        "log | a: worker process 1 was killed",
        "invoke answered 503 after 0.250 s",
        "log | a: restarted",
    ]


def test_what_concerns_every_model_is_told_of_each(record: Record) -> None:
    sent_s = time.monotonic()
    record.note_for_all("ZYGOTE KILLED (process 1)")
    record.answered("invoke", "a", 500, 0.1)
    record.violates("answers", "a: 500", "a", sent_s)
    (violation,) = record.violations
    assert "ZYGOTE KILLED" in record.explain(violation)[2]


def test_a_timeline_without_events_or_log_is_empty(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "none.log")
    assert timeline.around("a", 0.0, time.monotonic()) == []
    timeline.note("a", "load answered 200")
    (line,) = timeline.around("a", time.monotonic(), time.monotonic())
    assert line.endswith("  load answered 200")


def test_options_of_a_soak_are_read_and_frozen() -> None:
    options = SoakOptions.parse(["--minutes", "0.5", "--memory", "1g", "--busy-core"])
    assert (options.minutes, options.memory_mb, options.busy_core, options.native) == (0.5, 1024, True, False)
    with pytest.raises(AttributeError):
        options.minutes = 1.0  # type: ignore[misc]


def test_a_run_in_which_nobody_slept_or_woke_shows_nothing_and_says_so() -> None:
    slept, woke = {"models put to sleep": 3}, {"models woken": 2}
    (missing,) = missing_sleeps(slept, 600, Settings())
    assert missing.startswith("no models woken in 600 s: take more --models")
    assert len(missing_sleeps({}, 60, Settings())) == 2
    assert missing_sleeps(slept | woke, 600, Settings()) == []
    assert missing_sleeps({}, 30, Settings()) == [], "too short to show it"
    assert missing_sleeps({}, 600, Settings(overcommit=False)) == []
    assert missing_sleeps({}, 600, Settings(workers="spawn")) == []


def test_a_census_names_the_descriptors_of_each_process_and_what_is_left_is_told() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    client, accepted = socket.create_connection(listener.getsockname()), listener.accept()[0]
    program = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE, pass_fds=[client.fileno(), listener.fileno()])
    try:
        before = process_inspector.census(program.pid, set())
        held = before["held"]
        assert held["sleep: tcp socket in state 01"] == 1
        assert held["sleep: tcp socket in state 0A"] == 1
        assert held["sleep: pipe"] >= 1
        assert sum(held.values()) == before["descriptors"]
        assert before["process_bytes"]["sleep"] == before["memory_bytes"]
        changed = {"sleep: pipe": held["sleep: pipe"] + 2, "java: /dev/null": 1, "sleep: tcp socket in state 01": 0}
        grown = {**before, "held": {**held, **changed}, "descriptors": before["descriptors"] + 2}
        assert leaks(before, before) == []
        assert leaks(before, grown) == [
            f"{grown['descriptors']} descriptors, {before['descriptors']} at the start: "
            "+2 sleep: pipe, +1 java: /dev/null, -1 sleep: tcp socket in state 01"
        ]
    finally:
        program.kill()
        program.communicate()
        for each in (listener, client, accepted):
            each.close()
