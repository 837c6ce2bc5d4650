"""The WSGI application: the data plane and SageMaker's control plane are ours, everything else goes to moto."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from local_endpoint.access.authorizer import Authorizer
from local_endpoint.access.permissions import protocol_of
from local_endpoint.configuration import DEFAULT_REGION, Limits
from local_endpoint.control_plane import scaling
from local_endpoint.control_plane.control_plane import SAGEMAKER_PREFIX, ControlPlane
from local_endpoint.data_plane.invocations import DataPlane, Invocation
from local_endpoint.errors import AwsError, validation_error
from local_endpoint.http.origin_policy import OriginPolicy
from local_endpoint.http.s3_addressing import by_path
from local_endpoint.http.server import READ_BY
from local_endpoint.protocols import MEDIA_TYPES, Protocol, WireAnswer, WireError
from local_endpoint.storage.object_files import Pieces, stream_body

logger = logging.getLogger(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
INVOCATIONS = re.compile(r"/endpoints/(?P<name>[^/]*)/(?P<kind>invocations(?:-response-stream)?|async-invocations)")
CREDENTIAL_SCOPE = re.compile(r"Credential=[^/,]*/\d*/(?P<region>[^/]*)/(?P<service>[^/]*)/aws4_request")
# Largest request of the control plane (our choice).
CONTROL_BYTES = 6 * 1024 * 1024
# A browser shows every answer as a document without scripts, of no origin: an object of S3 may be a page, and its
# scripts would have this server's own origin, which the policy trusts.
FOR_BROWSERS = (("Content-Security-Policy", "sandbox"), ("X-Content-Type-Options", "nosniff"))
# of a body that is too large so much is read and thrown away, so that the client gets to read the answer
DRAINED_BYTES = 64 * 1024 * 1024
# In the environ: when the request is to be answered by (monotonic).
DEADLINE_S = "local_endpoint.deadline_s"


class BodyTooSlow(Exception):
    """A body did not come whole in time."""


class Front:
    """Dispatches requests. ``moto`` is a WSGI application. Foreign requests get no further than ``origin_policy``.

    ``authorizer`` None lets everybody do everything.
    """

    def __init__(
        self,
        moto: Any,
        control_plane: ControlPlane,
        data_plane: DataPlane,
        limits: Limits,
        origin_policy: OriginPolicy,
        authorizer: Authorizer | None = None,
    ) -> None:
        self._moto = moto
        self._origin_policy = origin_policy
        self._authorizer = authorizer
        self._control_plane = control_plane
        self._data_plane = data_plane
        self._limits = limits
        self.is_ready = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        environ[DEADLINE_S] = time.monotonic() + self._limits.response_timeout_s
        start_response = _for_browsers(start_response)
        reason = self._origin_policy.refusal(environ)
        if reason is None:  # a bucket of the host's comes first in moto's path
            reason = self._origin_policy.refusal_of_path(by_path(environ, self._origin_policy).get("PATH_INFO", ""))
        if reason is not None:
            return _answer_unread(start_response, environ, _forbidden(environ, reason))
        try:
            if not self.is_ready:
                return _answer_starting(start_response)
            if path == "/" and _is_a_visit(environ):
                return self._welcome(start_response)
            if self._authorizer is not None:
                answered = self._authorizer.answer(
                    environ, lambda: self._read_whole(environ), lambda request: by_path(request, self._origin_policy)
                )
                if answered is not None:
                    return _answer_unread(start_response, environ, answered)
            if (match := INVOCATIONS.fullmatch(path)) and _is_for_sagemaker(environ):
                return self._invoke(environ, start_response, match)
            if environ.get("HTTP_X_AMZ_TARGET", "").startswith((SAGEMAKER_PREFIX, scaling.TARGET_PREFIX)):
                return self._control(environ, start_response)
            environ = by_path(environ, self._origin_policy)
            stream_body(environ)
            # moto raises where it knows no such service
            return Pieces(self._moto(environ, start_response), environ)
        except EOFError as error:  # nobody reads the answer
            return _answer_error(start_response, validation_error(f"{error}."), Protocol.REST_JSON)
        except BodyTooSlow:
            text = f"The request's body did not come within {self._limits.response_timeout_s:g} s: send it faster."
            return _answer_error(start_response, AwsError("RequestTimeout", 408, text), Protocol.REST_JSON)
        except Exception:
            logger.exception("%s %s failed", environ.get("REQUEST_METHOD"), path)
            failure = AwsError("InternalFailure", 500, "The request failed in the local endpoint: see its log.")
            return _answer_error(start_response, failure, Protocol.REST_JSON)

    def _read_whole(self, environ: Environ) -> tuple[bytes, bool]:
        """As ``read_body``; whoever reads it next finds it again."""
        body, too_large = read_body(environ, self._limits.request_bytes)
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        return body, too_large

    # ---- the data plane ----

    def _invoke(self, environ: Environ, start_response: StartResponse, match: re.Match[str]) -> Iterable[bytes]:
        scope = CREDENTIAL_SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        body, too_large = read_body(environ, self._limits.request_bytes)
        headers = {
            name.removeprefix("HTTP_").replace("_", "-").lower(): _text(value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        if environ.get("CONTENT_TYPE"):
            headers["content-type"] = _text(environ["CONTENT_TYPE"])
        request = Invocation(
            endpoint=unquote(match["name"]),
            region=scope["region"] if scope else None,
            headers=headers,
            body=body,
            body_is_too_large=too_large,
            deadline_s=environ[DEADLINE_S],
        )
        try:
            if environ["REQUEST_METHOD"] != "POST" or match["kind"] != "invocations":
                raise validation_error(
                    f"{environ['REQUEST_METHOD']} {match['kind']} is not available: this local endpoint answers "
                    "InvokeEndpoint (POST invocations) only."
                )
            answer = self._data_plane.invoke(request)
        except AwsError as error:
            return _answer_error(start_response, error, Protocol.REST_JSON, request.request_id)
        response_headers = [
            *answer.headers.items(),
            ("Content-Length", str(len(answer.body))),
            ("x-amzn-RequestId", request.request_id),
        ]
        start_response("200 OK", response_headers)
        return Pieces([answer.body])

    # ---- the control plane ----

    def _control(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        target = environ["HTTP_X_AMZ_TARGET"]
        operation = target.partition(".")[2]
        scope = CREDENTIAL_SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        body, is_too_large = read_body(environ, CONTROL_BYTES)
        request_id = str(uuid.uuid4())
        if is_too_large:
            error = AwsError("RequestEntityTooLargeException", 413, f"A request has {CONTROL_BYTES:,} bytes at most.")
            return _answer_error(start_response, error, Protocol.JSON, request_id)
        try:
            parameters = json.loads(body or b"{}")
            assert isinstance(parameters, dict)
        except (ValueError, AssertionError):
            error = AwsError("SerializationException", 400, "The request's body is not a JSON object.")
            return _answer_error(start_response, error, Protocol.JSON, request_id)
        region = scope["region"] if scope else DEFAULT_REGION
        if not target.startswith(SAGEMAKER_PREFIX) or not self._control_plane.knows(operation, parameters):
            try:
                self._control_plane.check_other(target, region, parameters)
            except AwsError as error:
                return _answer_error(start_response, error, Protocol.JSON, request_id)
            environ["wsgi.input"] = io.BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
            return self._moto(environ, start_response)
        try:
            answer = json.dumps(self._control_plane.call(operation, region, parameters)).encode()
        except AwsError as error:
            return _answer_error(start_response, error, Protocol.JSON, request_id)
        start_response(
            "200 OK",
            [
                ("Content-Type", MEDIA_TYPES[Protocol.JSON]),
                ("Content-Length", str(len(answer))),
                ("x-amzn-RequestId", request_id),
            ],
        )
        return [answer]

    # ---- people ----

    def _welcome(self, start_response: StartResponse) -> Iterable[bytes]:
        body = b"A local SageMaker endpoint. Point AWS_ENDPOINT_URL at this address.\n"
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]


def _for_browsers(start_response: StartResponse) -> StartResponse:
    """Puts ``FOR_BROWSERS`` in place of whatever the answer has of them."""
    names = {name.lower() for name, _ in FOR_BROWSERS}

    def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
        kept = [each for each in headers if each[0].lower() not in names]
        return start_response(status, [*kept, *FOR_BROWSERS], *exc_info)

    return start


def _answer_unread(start_response: StartResponse, environ: Environ, answer: WireAnswer) -> Iterable[bytes]:
    """What stayed unread is thrown away, so that the client gets to read the answer."""
    with contextlib.suppress(BodyTooSlow):  # the connection ends then
        read_body(environ, 0)
    return answer.begin(start_response, environ["REQUEST_METHOD"])


def _forbidden(environ: Environ, reason: str) -> WireAnswer:
    """403 before anything else. The body says why in every protocol: a host name may just not be allowed yet."""
    scope = CREDENTIAL_SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    protocol = protocol_of(environ, scope["service"] if scope else None)
    code = "AccessDenied" if protocol in (Protocol.S3, Protocol.QUERY) else "AccessDeniedException"
    return WireError(403, code, reason, environ.get("PATH_INFO", "")).answer(protocol)


def _answer_starting(start_response: StartResponse) -> Iterable[bytes]:
    """To everything, until all that was kept is back: a change made by then could be lost, or undo what was kept."""
    body = b"The local endpoint is starting: try again.\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body))), ("Retry-After", "1")]
    start_response("503 Service Unavailable", headers)
    return [body]


def _is_for_sagemaker(environ: Environ) -> bool:
    """A bucket may be called "endpoints": S3 signs for another service, and unsigned uploads are no POSTs."""
    scope = CREDENTIAL_SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if scope is not None:
        return scope["service"] == "sagemaker"
    return environ["REQUEST_METHOD"] == "POST"


def _is_a_visit(environ: Environ) -> bool:
    """``GET /`` is S3's ListBuckets where it is signed."""
    return (
        environ["REQUEST_METHOD"] in ("GET", "HEAD")
        and "HTTP_X_AMZ_TARGET" not in environ
        and "HTTP_AUTHORIZATION" not in environ
        and not environ.get("QUERY_STRING")
    )


def _text(value: str) -> str:
    """WSGI hands headers over as Latin-1; clients send UTF-8."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def read_body(environ: Environ, limit_bytes: int) -> tuple[bytes, bool]:
    """The body, and whether it is larger than allowed (it is empty then).

    Raises ``EOFError`` where it is cut short, and ``BodyTooSlow`` where it has not come by ``DEADLINE_S``.
    """
    length = environ.get("CONTENT_LENGTH")
    stream = environ["wsgi.input"]
    if not length and not environ.get("wsgi.input_terminated"):
        return b"", False
    try:
        with _timed(environ):
            if not length:
                body = stream.read(limit_bytes + 1)
                if len(body) <= limit_bytes:
                    return body, False
            elif int(length) <= limit_bytes:
                body = stream.read(int(length))
                if len(body) < int(length):
                    raise EOFError(f"The request's body ended after {len(body):,} of {int(length):,} bytes")
                return body, False
    except TimeoutError:
        raise BodyTooSlow from None
    with contextlib.suppress(TimeoutError), _timed(environ):
        _drain(stream)
    return b"", True


def _timed(environ: Environ) -> contextlib.AbstractContextManager[None]:
    """What is read of the body meanwhile comes in time, or raises ``TimeoutError``."""
    read_by = environ.get(READ_BY)  # another server than ours has none
    return contextlib.nullcontext() if read_by is None else read_by(environ[DEADLINE_S])


def _drain(stream: Any) -> None:
    drained = 0
    while drained < DRAINED_BYTES:
        piece = stream.read(1024 * 1024)
        if not piece:
            return
        drained += len(piece)


def _answer_error(
    start_response: StartResponse, error: AwsError, protocol: Protocol, request_id: str = ""
) -> Iterable[bytes]:
    told = WireError(
        error.status, error.code, error.message, fields=error.fields, request_id=request_id or str(uuid.uuid4())
    )
    return told.answer(protocol).begin(start_response)
