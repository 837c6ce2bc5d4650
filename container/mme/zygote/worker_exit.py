"""What the end of a worker process means: for the load or the request that it was at, and for what comes after."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from mme.errors import InsufficientMemory, MmeError, Refusal
from mme.zygote.session_records import WorkerState


@dataclass(frozen=True)
class WorkerExit:
    """The end of a worker process with one session."""

    description: str | None = None  # for the log; None where there is nothing to say
    was_killed: bool = False  # by SIGKILL, not by us: by the kernel for lack of memory, as far as can be told
    refusal: Refusal | None = None  # that its load is to be answered with
    request_error: Refusal | None = None  # that the request that it was at is to be answered with
    was_idle: bool = False  # it was killed between requests: one that it was sent has not been begun
    holds_memory: bool = False  # what the model took is to be held for the worker that takes its place


def classify_exit(
    code: int,
    state: WorkerState,
    model: str,
    *,
    ended_by_us: bool = False,
    given_up: bool = False,
    refusal: Refusal | None = None,
    limit_s: int = 0,
) -> WorkerExit:
    """Reads an exit. ``code`` is negative for a signal; the session's record has ``state``, ``refusal``, ``limit_s``.

    A session that was to wake has a ``refusal`` where its process could say why it did not.

    ``ended_by_us``: the model was unregistered, or its launcher killed. ``given_up``: the front end had hung up on it.
    """
    was_idle = state is WorkerState.READY and code < 0
    if ended_by_us:
        return WorkerExit(was_idle=was_idle)
    was_killed = code == -signal.SIGKILL and not given_up
    load_failed = state is WorkerState.LOADING and not given_up
    return WorkerExit(
        description="was killed: the front end had given up on it" if given_up else _describe(code),
        was_killed=was_killed,
        refusal=(refusal or _refusal_of_exit(model, code, limit_s)) if load_failed else None,
        request_error=None if given_up else _error_of_request(model, code, state, refusal, limit_s),
        was_idle=was_idle,
        holds_memory=state.has_loaded and refusal is None and code != 0,  # 0: the front end has hung up
    )


def _error_of_request(
    model: str, code: int, state: WorkerState, refusal: Refusal | None, limit_s: int
) -> Refusal | None:
    if state is WorkerState.PREDICTING:
        return _error_of_exit(model, code, limit_s)
    if state is WorkerState.WAKING:
        return refusal or _refusal_of_exit(model, code, limit_s)
    return None


def _refusal_of_exit(model: str, code: int, limit_s: int) -> Refusal:
    """Why a load ended with its process, which could not say it itself."""
    what = _worker_of(model)
    if code == -signal.SIGKILL:
        remedy = "Unload other models, or use a larger instance."
        reason = "was killed while it loaded, probably for lack of memory"
        return Refusal(InsufficientMemory.status, f"{what} {reason}. {remedy}")
    if _took_too_long(code, limit_s):
        remedy = "Give it longer with option.model_loading_timeout in its serving.properties."
        return Refusal(MmeError.status, f"{what} took longer than {limit_s} s to load. {remedy}")
    return Refusal(MmeError.status, f"{what} {_how(code)} while it loaded. Its last lines in the log may say why.")


def _error_of_exit(model: str, code: int, limit_s: int) -> Refusal:
    """Why a request is not answered by the process that had it."""
    if code == -signal.SIGKILL:
        return Refusal(InsufficientMemory.status, "Out of resources")  # as MMS words it
    if _took_too_long(code, limit_s):
        remedy = "Give it longer with option.predict_timeout in the model's serving.properties."
        return Refusal(MmeError.status, f"{_worker_of(model)} took longer than {limit_s} s to answer. {remedy}")
    said = f"{_worker_of(model)} {_how(code)} while it answered a request. Its last lines in the log may say why."
    return Refusal(MmeError.status, said)


def _took_too_long(code: int, limit_s: int) -> bool:
    return code == -signal.SIGALRM and limit_s > 0


def _worker_of(model: str) -> str:
    return f"the worker of model {model!r}"


def _how(code: int) -> str:
    return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


def _describe(code: int) -> str | None:
    if code == 0:
        return None
    if code > 0:
        return f"ended with exit code {code}"
    if -code == signal.SIGKILL:
        return "was killed, probably for lack of memory"
    return f"crashed: {signal.Signals(-code).name}"
