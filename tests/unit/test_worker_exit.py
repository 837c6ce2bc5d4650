"""What the end of a worker means, as a table."""

from __future__ import annotations

import signal

import pytest

from mme.errors import Refusal
from mme.zygote.session_records import WorkerState
from mme.zygote.worker_exit import WorkerExit, classify_exit

SAID = Refusal(400, "the file is broken")
KILLED = "was killed, probably for lack of memory"


@pytest.mark.parametrize(
    ("code", "state", "expected"),
    [
        (0, WorkerState.STARTED, WorkerExit()),
        (0, WorkerState.READY, WorkerExit()),
        (1, WorkerState.READY, WorkerExit("ended with exit code 1", holds_memory=True)),
        (
            -signal.SIGKILL,
            WorkerState.READY,
            WorkerExit(KILLED, was_killed=True, was_idle=True, holds_memory=True),
        ),
        (-signal.SIGSEGV, WorkerState.READY, WorkerExit("crashed: SIGSEGV", was_idle=True, holds_memory=True)),
        (-signal.SIGKILL, WorkerState.ANSWERING, WorkerExit(KILLED, was_killed=True, holds_memory=True)),
        (-signal.SIGKILL, WorkerState.STARTED, WorkerExit(KILLED, was_killed=True)),
    ],
)
def test_an_exit_that_no_load_waits_for(code: int, state: WorkerState, expected: WorkerExit) -> None:
    assert classify_exit(code, state, "m") == expected


@pytest.mark.parametrize(
    ("code", "status", "message", "holds_memory"),
    [
        (0, 500, "ended with exit code 0 while it answered a request", False),
        (3, 500, "ended with exit code 3 while it answered a request", True),
        (-signal.SIGSEGV, 500, "crashed (SIGSEGV) while it answered a request", True),
        (-signal.SIGKILL, 507, "Out of resources", True),
    ],
)
def test_a_request_whose_worker_ends_is_answered_with_the_reason(
    code: int, status: int, message: str, holds_memory: bool
) -> None:
    ending = classify_exit(code, WorkerState.PREDICTING, "m")
    assert ending.request_error is not None and ending.refusal is None
    assert (ending.request_error.status, ending.holds_memory) == (status, holds_memory)
    assert message in ending.request_error.message
    assert ending.was_killed == (code == -signal.SIGKILL)
    assert classify_exit(code, WorkerState.PREDICTING, "m", given_up=True).request_error is None


@pytest.mark.parametrize(
    ("code", "recorded", "status", "message"),
    [
        (22, SAID, 400, "the file is broken"),
        (-signal.SIGKILL, None, 507, "was killed while it loaded, probably for lack of memory"),
        (-signal.SIGSEGV, None, 500, "crashed (SIGSEGV) while it loaded"),
        (3, None, 500, "ended with exit code 3 while it loaded"),
    ],
)
def test_a_load_whose_worker_ends_is_refused_with_its_reason(
    code: int, recorded: Refusal | None, status: int, message: str
) -> None:
    refusal = classify_exit(code, WorkerState.LOADING, "m", refusal=recorded).refusal
    assert refusal is not None
    assert refusal.status == status
    assert message in refusal.message


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (WorkerState.LOADING, "took longer than 5 s to load. Give it longer with option.model_loading_timeout"),
        (WorkerState.PREDICTING, "took longer than 5 s to answer. Give it longer with option.predict_timeout"),
    ],
)
def test_who_took_too_long_is_told_how_long_it_had(state: WorkerState, message: str) -> None:
    ending = classify_exit(-signal.SIGALRM, state, "m", limit_s=5)
    refusal = ending.refusal or ending.request_error
    assert refusal is not None and refusal.status == 500
    assert message in refusal.message
    own = classify_exit(-signal.SIGALRM, state, "m")  # an alarm of the model's
    refusal = own.refusal or own.request_error
    assert refusal is not None and "crashed (SIGALRM)" in refusal.message


def test_nobody_is_answered_for_a_worker_that_was_ended_on_purpose() -> None:
    for state in WorkerState:
        was_idle = state is WorkerState.READY
        assert classify_exit(-signal.SIGKILL, state, "m", ended_by_us=True) == WorkerExit(was_idle=was_idle)


def test_a_load_that_the_front_end_gave_up_on_is_answered_to_nobody() -> None:
    ending = classify_exit(-signal.SIGKILL, WorkerState.LOADING, "m", given_up=True)
    assert (ending.refusal, ending.was_killed, ending.holds_memory) == (None, False, False)
    assert ending.description == "was killed: the front end had given up on it"
