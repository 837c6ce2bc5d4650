"""Everything that can go wrong, as one tree. Each error knows the HTTP status that it becomes.

    MmeError                     500
    ├── SettingError             —    an environment variable has a value that it may not have; ends the start
    ├── StartError               —    the server cannot start here, and trying again would not help
    ├── ModelLoadError           500  an artifact is missing, broken or not understood
    │   └── ModelChanged         500  a model that sleeps cannot wake: its files are not those that were loaded
    ├── ProgramError             500  a model's own code failed, or answers with a status of its own
    ├── InsufficientMemory       507  also a MemoryError, so MMS answers 507 of itself
    │   └── InsufficientResources 507  descriptors or process numbers have run out
    └── RequestError             400
        ├── BadRequest           400  the body is not what the model takes
        │   └── RequestTooLarge  400  it takes more memory than one request may
        ├── ModelRefused         400  a model may not be loaded from there, by that name or with that handler
        ├── NotAcceptable        406  nothing that the Accept header names can be produced
        └── UnsupportedMediaType 415  the Content-Type is unknown

A message names the model or file, what was found, what is allowed, and the remedy. It may reach a client; stack
traces never do. A ``Refusal`` is what the caller of a load learns of the error that ended it.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_REFUSAL_BYTES = 1000
_NO_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
# How libraries word it that raise other errors: MXNet, Python's threads.
_NO_RESOURCES_WORDS = (*(os.strerror(number) for number in _NO_RESOURCES), "can't start new thread")
_NO_RESOURCES_REMEDY = "Unload other models, or raise the limits (ulimit -n, docker run --pids-limit)."
# From here on a message is no sentence any more but a stack trace: Python's own, or MXNet's.
_STACK_TRACE = re.compile(r"Traceback \(most recent call last\)|^\s*Stack trace|^\s*\[bt\]", re.MULTILINE)
# An absolute path: quoted, or a word of its own (no media type, no URL).
_PATH = re.compile(
    r"""(?P<quote>['"])(?P<quoted>/[^'"\n]*)(?P=quote)"""
    r"""|(?<![\w./])(?P<bare>/[^/\s'",;:()][^\s'",;:()]*)"""
)


class MmeError(Exception):
    """Base of all our errors. ``status`` is the HTTP status and ``phrase`` its reason phrase."""

    status = 500
    phrase = "Internal Server Error"
    kind = "InternalServerException"

    def to_dict(self) -> dict[str, Any]:
        """What a client is told: ``code``, ``type`` and ``message``, as MMS words its own errors."""
        return {"code": self.status, "type": self.kind, "message": str(self)}

    def body(self) -> bytes:
        """The answer's body: ``to_dict`` as one line of JSON."""
        return json.dumps(self.to_dict()).encode()


class SettingError(MmeError):
    """An environment variable has a value that it may not have."""


class StartError(MmeError):
    """The server cannot start here, and trying again would not help."""


class ModelLoadError(MmeError):
    """An artifact is missing, broken or not understood. MMS answers the load with 500."""


class ModelChanged(ModelLoadError):
    """The files of a model that sleeps are not those that it was loaded from. It is unloaded."""


class ProgramError(MmeError):
    """A model's own code failed at a request, or chose an error's status and phrase itself."""

    kind = "ModelCodeException"

    def __init__(self, message: str, *, status: int = MmeError.status, phrase: str = MmeError.phrase) -> None:
        super().__init__(message)
        self.status = status
        self.phrase = phrase


class InsufficientMemory(MmeError, MemoryError):
    """There is not enough memory for this model or request now. The platform unloads something and tries again.

    A request that is known not to fit into an empty server either is a ``RequestTooLarge`` instead. An allocation that
    fails does not say so: what would have been enough is not known. A load is answered 507 in either case, as SageMaker
    asks of a container: its need may be an estimate.
    """

    status = 507
    phrase = "Insufficient Storage"
    kind = "InsufficientMemoryException"

    def __init__(
        self,
        message: str,
        *,
        need_bytes: int | None = None,
        free_bytes: int | None = None,
        limit_bytes: int | None = None,
    ) -> None:
        """``free_bytes`` is what can be had of ``limit_bytes``; each None where it is not known."""
        super().__init__(message)
        self.need_bytes = need_bytes
        self.free_bytes = free_bytes
        self.limit_bytes = limit_bytes

    def to_dict(self) -> dict[str, Any]:
        """With what is known of ``need_bytes``, ``free_bytes`` and ``limit_bytes``."""
        figures = {"need_bytes": self.need_bytes, "free_bytes": self.free_bytes, "limit_bytes": self.limit_bytes}
        return {**super().to_dict(), **{name: size for name, size in figures.items() if size is not None}}


class InsufficientResources(InsufficientMemory):
    """Something else than memory has run out that models need: descriptors, process numbers."""


class RequestError(MmeError):
    """The request cannot be answered, and it is the request's own fault."""

    status = 400
    phrase = "Bad Request"
    kind = "BadRequestException"


class BadRequest(RequestError):
    """The body is not what the model takes."""


class RequestTooLarge(BadRequest):
    """The request would take more memory than one request may, whatever else is loaded: unloading does not help."""


class ModelRefused(RequestError):
    """A model may not be loaded from there, by that name or with that handler."""


class NotAcceptable(RequestError):
    """Nothing that the Accept header names can be produced."""

    status = 406
    phrase = "Not Acceptable"
    kind = "NotAcceptableException"


class UnsupportedMediaType(RequestError):
    """The Content-Type is unknown."""

    status = 415
    phrase = "Unsupported Media Type"
    kind = "UnsupportedMediaTypeException"


@dataclass(frozen=True)
class Refusal:
    """Why a load ends without a model, as the caller is answered: an HTTP status and one sentence or two.

    The message fits into ``LONGEST_REFUSAL_BYTES`` of UTF-8.
    """

    status: int
    message: str

    def __post_init__(self) -> None:
        encoded = self.message.encode(errors="replace")
        if len(encoded) > LONGEST_REFUSAL_BYTES:
            encoded = encoded[: LONGEST_REFUSAL_BYTES - len("…".encode())]
            object.__setattr__(self, "message", encoded.decode(errors="ignore") + "…")

    @classmethod
    def of(cls, error: BaseException, model_dir: str | os.PathLike[str] | None = None) -> Refusal:
        """What the caller may know of ``error``: no stack trace, and paths only within the model's folder."""
        if isinstance(error, MmeError):
            status, message = error.status, str(error)
        else:
            status = InsufficientMemory.status if isinstance(error, MemoryError) else MmeError.status
            message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        message = public_message(message, model_dir)
        if status == MmeError.status and is_lack_of_resources(error):
            status, message = InsufficientResources.status, f"{message.rstrip('.')}. {_NO_RESOURCES_REMEDY}"
        return cls(status, message)


def is_lack_of_resources(error: BaseException | None) -> bool:
    """Whether descriptors, process numbers or the kernel's memory have run out: in ``error``, or in what it came of."""
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in _NO_RESOURCES or (error.errno == errno.EAGAIN and _is_of_a_fork(error)):
                return True
        elif any(words in str(error) for words in _NO_RESOURCES_WORDS):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _is_of_a_fork(error: BaseException) -> bool:
    """Whether it was raised where a process is started: else "try again" has many reasons."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(
        ("subprocess", "multiprocessing")
    )


def public_message(message: str, model_dir: str | os.PathLike[str] | None = None) -> str:
    """``message`` in one line, without what follows of a stack trace; paths in ``model_dir`` are relative to that.

    Of other paths the last part alone stays.
    """
    folders = [] if model_dir is None else [Path(model_dir), Path(os.path.realpath(model_dir))]

    def shown(found: re.Match[str]) -> str:
        quote, path = found["quote"] or "", Path(found["quoted"] or found["bare"])
        for folder in folders:
            if path == folder:
                return f"{quote}the model's folder{quote}"
            if path.is_relative_to(folder):
                return f"{quote}{path.relative_to(folder)}{quote}"
        return f"{quote}…/{path.name}{quote}" if path.name else found[0]

    text = _PATH.sub(shown, _STACK_TRACE.split(message, maxsplit=1)[0])
    return " ".join(text.split())
