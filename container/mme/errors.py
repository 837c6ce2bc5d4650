"""Everything that can go wrong, as one tree. Each error knows the HTTP status that it becomes.

    MmeError                     500
    ├── SettingError             —    an environment variable has a value that it may not have; ends the start
    ├── StartError               —    the server cannot start here, and trying again would not help
    ├── ModelLoadError           500  an artifact is missing, broken or not understood
    ├── InsufficientMemory       507  also a MemoryError, so MMS answers 507 of itself
    └── RequestError             400
        ├── BadRequest           400  the body is not what the model takes
        ├── ModelRefused         400  a model may not be loaded from there, by that name or with that handler
        ├── NotAcceptable        406  nothing that the Accept header names can be produced
        └── UnsupportedMediaType 415  the Content-Type is unknown

A message names the model or file, what was found, what is allowed, and the remedy. It may reach a client; stack
traces never do.
"""

from __future__ import annotations

import json


class MmeError(Exception):
    """Base of all our errors. ``status`` is the HTTP status and ``phrase`` its reason phrase."""

    status = 500
    phrase = "Internal Server Error"
    kind = "InternalServerException"

    def body(self) -> bytes:
        """The answer's body: one line of JSON with ``code``, ``type`` and ``message``, as MMS words its own errors."""
        return json.dumps({"code": self.status, "type": self.kind, "message": str(self)}).encode()


class SettingError(MmeError):
    """An environment variable has a value that it may not have."""


class StartError(MmeError):
    """The server cannot start here, and trying again would not help."""


class ModelLoadError(MmeError):
    """An artifact is missing, broken or not understood. MMS answers the load with 500."""


class InsufficientMemory(MmeError, MemoryError):
    """There is not enough memory for this model or request. The platform unloads something and tries again."""

    status = 507
    phrase = "Insufficient Storage"
    kind = "InsufficientMemoryException"


class RequestError(MmeError):
    """The request cannot be answered, and it is the request's own fault."""

    status = 400
    phrase = "Bad Request"
    kind = "BadRequestException"


class BadRequest(RequestError):
    """The body is not what the model takes."""


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
