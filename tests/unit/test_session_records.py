"""The records that the zygote, its workers and the supervisor share, seen from several processes."""

from __future__ import annotations

import os

import pytest

from mme.errors import InsufficientMemory, ModelLoadError, ModelRefused, Refusal, public_message
from mme.zygote import ended_sessions
from mme.zygote.session_records import MOST_SESSIONS, SessionRecords, WorkerState, make_shared


@pytest.fixture
def descriptor() -> int:
    return make_shared()


@pytest.fixture
def records(descriptor: int) -> SessionRecords:
    return SessionRecords(descriptor)


def test_what_a_forked_session_writes_is_read_here_and_by_who_opens_it_anew(
    descriptor: int, records: SessionRecords
) -> None:
    record = records.take(3)
    pid = os.fork()
    if pid == 0:
        record.state = WorkerState.PREDICTING
        record.taken_mib = 2**32 - 1
        record.refusal = Refusal(507, "too large: 70 MiB – of 50")
        record.count(200, 5)
        record.count(404, 5)
        record.count(500, 5)
        record.count(507, 5)
        os._exit(0)
    os.waitpid(pid, 0)
    supervisor = SessionRecords(descriptor)
    os.close(descriptor)
    for seen in (records[3], supervisor[3]):
        assert (seen.state, seen.taken_mib) == (WorkerState.PREDICTING, 2**32 - 1)
        assert seen.refusal == Refusal(507, "too large: 70 MiB – of 50")
        assert (seen.requests, seen.client_errors, seen.server_errors, seen.memory_errors) == (4, 1, 1, 1)
        assert seen.busy_ns == 20
        assert seen.last_request_ns > 0
    assert (records[2].state, records[2].refusal, records[4].refusal) == (WorkerState.STARTED, None, None)


def test_a_record_is_empty_for_the_next_session(records: SessionRecords) -> None:
    record = records.take(0)
    record.refusal, record.requests, record.state = Refusal(400, "no"), 7, WorkerState.READY
    record = records.take(0)
    assert (record.refusal, record.requests, record.state) == (None, 0, WorkerState.STARTED)


def test_what_sessions_that_are_over_have_counted_is_kept_by_model(
    descriptor: int, records: SessionRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_template = SessionRecords(descriptor)
    for each, slot, model, sleeps in (
        (records, 0, 7, 2),
        (other_template, 1, 8, 3),
        (other_template, 2, 7, 4),
        (records, 0, 9, 0),
        (records, 3, 8, 1),
    ):
        record = each.take(slot)
        record.model, record.sleeps, record.wake_ups = model, sleeps, sleeps - 1
    for slot in range(4):
        records.take(slot)
    assert sorted(other_template.ended.counters()) == [(0, 0, 0), (7, 6, 4), (8, 4, 2)]
    assert other_template.ended.version == 2 * 4, "once for each that had slept"
    monkeypatch.setattr(ended_sessions, "MOST_MODELS", 3)
    record = records.take(0)
    record.model, record.sleeps, record.wake_ups = 10, 1, 1
    records.take(0)
    assert sorted(records.ended.counters()) == [(0, 1, 1), (7, 6, 4), (8, 4, 2)], "there is no place for another"


def test_a_template_that_was_killed_while_it_added_leaves_no_trace_of_that(records: SessionRecords) -> None:
    with records.ended.changing():
        assert records.ended.version == 1
    records.ended.changing().__enter__()  # and no more
    assert records.ended.version % 2 == 1
    record = records.take(0)
    record.model, record.sleeps = 7, 1
    records.take(0)
    assert records.ended.version % 2 == 0


@pytest.mark.parametrize("slot", [0, 7, MOST_SESSIONS - 1])
def test_any_session_is_busy_while_it_loads_and_predicts_and_loaded_until_it_ends(
    records: SessionRecords, slot: int
) -> None:
    record = records.take(slot)
    seen = {}
    for state in WorkerState:
        record.state = state
        seen[state.name] = records.is_any_busy(), records.is_any_loaded()
    assert seen == {
        "STARTED": (False, False),
        "LOADING": (True, False),
        "READY": (False, True),
        "PREDICTING": (True, True),
        "ANSWERING": (True, True),
        "ASLEEP": (False, True),
        "WAKING": (True, True),
    }


def test_records_that_nobody_used_cost_no_memory(descriptor: int, records: SessionRecords) -> None:
    records.take(10).state = WorkerState.READY
    assert records.is_any_loaded()
    assert not records.is_any_busy()
    assert os.stat(descriptor).st_blocks * 512 < 64 * 1024


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (ModelRefused("not from there"), Refusal(400, "not from there")),
        (ModelLoadError("a-symbol.json is missing"), Refusal(500, "a-symbol.json is missing")),
        (InsufficientMemory("70 MiB are missing"), Refusal(507, "70 MiB are missing")),
        (MemoryError(), Refusal(507, "MemoryError")),
        (KeyError("width"), Refusal(500, "KeyError: 'width'")),
        (SystemExit(3), Refusal(500, "SystemExit: 3")),
        (RuntimeError("first\nsecond\nStack trace:\n  [bt] 1 /opt/lib.so"), Refusal(500, "RuntimeError: first second")),
    ],
)
def test_an_error_becomes_the_refusal_of_its_status(error: BaseException, refusal: Refusal) -> None:
    assert Refusal.of(error) == refusal


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/opt/ml/models/a/model: it is empty", "the model's folder: it is empty"),
        ("/opt/ml/models/a/model/code/x.py, line 3", "code/x.py, line 3"),
        ("[Errno 2] No such file: '/opt/ml/models/a/model/my vocab.txt'", "[Errno 2] No such file: 'my vocab.txt'"),
        ("cannot open /home/me/secret/labels.txt", "cannot open …/labels.txt"),
        ("cannot open '/home/me/my secret/labels.txt'", "cannot open '…/labels.txt'"),
        ("/opt/ml/models/b/model/labels.txt", "…/labels.txt"),
        ("takes application/json or text/csv", "takes application/json or text/csv"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("3 / 4 of a/b", "3 / 4 of a/b"),
    ],
)
def test_a_refusal_shows_no_path_outside_the_models_folder(message: str, shown: str) -> None:
    assert public_message(message, "/opt/ml/models/a/model") == shown


@pytest.mark.parametrize("character", ["a", "é", "日", "🙂"])
def test_a_refusal_is_cut_between_characters_at_1000_bytes(records: SessionRecords, character: str) -> None:
    record = records.take(0)
    record.refusal = Refusal(500, character * 5000)
    refusal = record.refusal
    assert refusal is not None
    assert 990 <= len(refusal.message.encode()) <= 1000
    assert refusal.message == character * (len(refusal.message) - 1) + "…"
