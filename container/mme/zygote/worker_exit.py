"""What the end of a worker process means: for the load or the request that it was at, and for what comes after."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from mme.errors import InsufficientMemory, MmeError, ModelRefused, Refusal
from mme.zygote.session import EXIT_NO_MEMORY, EXIT_REFUSED
from mme.zygote.session_records import WorkerState

_NO_MEMORY = Refusal(InsufficientMemory.status, "There is not enough memory for the model; the log has the figures.")
_NOT_ALLOWED = Refusal(ModelRefused.status, "The model may not be loaded; the log says why.")
_BY_EXIT_CODE = {EXIT_NO_MEMORY: _NO_MEMORY, EXIT_REFUSED: _NOT_ALLOWED}


@dataclass(frozen=True)
class WorkerExit:
    """The end of a worker process with one session."""

    description: str | None  # for the log; None where there is nothing to say
    was_killed: bool  # by SIGKILL, and not by us: by the kernel for lack of memory, as far as can be told
    refusal: Refusal | None  # that its load is to be answered with
    request_ran_out_of_memory: bool  # the request that it was at is to be answered 507
    holds_memory: bool  # what the model took is to be held for the worker that takes its place


def classify_exit(code: int, state: WorkerState, *, ended_by_us: bool, refusal: Refusal | None = None) -> WorkerExit:
    """Reads an exit: ``code`` is negative for a signal, ``state`` and ``refusal`` are those of the session's record."""
    if ended_by_us:
        return WorkerExit(None, False, None, False, False)
    was_killed = code == -signal.SIGKILL
    return WorkerExit(
        description=_describe(code),
        was_killed=was_killed,
        refusal=_refusal(code, refusal) if state == WorkerState.LOADING else None,
        request_ran_out_of_memory=was_killed and state == WorkerState.PREDICTING,
        holds_memory=state >= WorkerState.READY and code != 0,  # 0: the front end has hung up
    )


def _refusal(code: int, recorded: Refusal | None) -> Refusal | None:
    if code == 0 or code == -signal.SIGIO:  # the front end has hung up: there is nobody to answer
        return None
    if recorded is not None:
        return recorded
    if code == -signal.SIGKILL:
        return Refusal(
            InsufficientMemory.status, "The kernel killed the worker while it loaded the model, for lack of memory."
        )
    if code in _BY_EXIT_CODE:
        return _BY_EXIT_CODE[code]
    ending = f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    return Refusal(MmeError.status, f"The worker {ending} while it loaded the model; the log says more.")


def _describe(code: int) -> str | None:
    if code == 0:
        return None
    if code > 0:
        return f"ended with exit code {code}"
    if -code == signal.SIGIO:
        return "was killed: the front end had given up on it"
    if -code == signal.SIGKILL:
        return "was killed, probably for lack of memory"
    return f"crashed: {signal.Signals(-code).name}"
