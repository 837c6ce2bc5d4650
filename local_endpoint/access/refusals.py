"""What a client is told that may not do what it asks for: AWS's codes, in the protocol of the service that it asked.

S3          XML, its own codes                        403 or 400
query       XML (IAM, STS)                            403 or 400
JSON        __type and message (SageMaker)            400
REST-JSON   a header and Message (InvokeEndpoint)     403
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from xml.sax.saxutils import escape

_WRONG = "The request signature we calculated does not match the signature you provided. "
_WRONG_KEY = (
    f"{_WRONG}Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
)
_INVALID = "The security token included in the request is invalid."
_EXPIRED = "The security token included in the request is expired"


class Protocol(Enum):
    """How a service's errors look on the wire."""

    S3 = "s3"
    QUERY = "query"
    JSON = "json"
    REST_JSON = "rest-json"


class Kind(Enum):
    """Why a request is refused: the codes of S3, of query services and of the JSON ones; S3's status; texts.

    The texts are S3's and the others'; None leaves it to whoever refuses.
    """

    UNSIGNED = (
        ("AccessDenied", "MissingAuthenticationToken", "MissingAuthenticationTokenException"),
        403,
        ("Access Denied", "Missing Authentication Token"),
    )
    MALFORMED = (
        ("AuthorizationHeaderMalformed", "IncompleteSignature", "IncompleteSignatureException"),
        400,
        (None, None),
    )
    UNKNOWN_KEY = (
        ("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"),
        403,
        ("The AWS Access Key Id you provided does not exist in our records.", _INVALID),
    )
    WRONG_TOKEN = (
        ("InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException"),
        400,
        ("The provided token is malformed or otherwise invalid.", _INVALID),
    )
    EXPIRED_TOKEN = (
        ("ExpiredToken", "ExpiredToken", "ExpiredTokenException"),
        400,
        ("The provided token has expired.", _EXPIRED),
    )
    WRONG_SIGNATURE = (
        ("SignatureDoesNotMatch", "SignatureDoesNotMatch", "InvalidSignatureException"),
        403,
        (f"{_WRONG}Check your key and signing method.", _WRONG_KEY),
    )
    WRONG_TIME = (
        ("RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidSignatureException"),
        403,
        ("The difference between the request time and the current time is too large.", None),
    )
    EXPIRED_ADDRESS = (
        ("AccessDenied", "SignatureDoesNotMatch", "InvalidSignatureException"),
        403,
        ("Request has expired", "Signature expired"),
    )
    WRONG_BODY = (
        ("XAmzContentSHA256Mismatch", "SignatureDoesNotMatch", "InvalidSignatureException"),
        400,
        ("The provided 'x-amz-content-sha256' header does not match what was computed.", _WRONG_KEY),
    )
    DENIED = (("AccessDenied", "AccessDenied", "AccessDeniedException"), 403, (None, None))
    INVALID = (("InvalidRequest", "ValidationError", "ValidationException"), 400, (None, None))
    BAD_POLICY = (("MalformedPolicy", "MalformedPolicyDocument", "ValidationException"), 400, (None, None))


class Refusal(Exception):
    """A request is refused. ``message`` is said where the kind has no text of its own."""

    def __init__(self, kind: Kind, message: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class GuardAnswer:
    """A refusal on the wire, or what else the guard answers itself."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def of(cls, refusal: Refusal, protocol: Protocol, environ: Mapping[str, Any]) -> GuardAnswer:
        """In the words and the form of the service."""
        codes, s3_status, (s3_text, text) = refusal.kind.value
        request_id = str(uuid.uuid4())
        bad_request = refusal.kind in (Kind.INVALID, Kind.BAD_POLICY)
        if protocol is Protocol.S3:
            resource = escape(environ.get("PATH_INFO", ""))
            body = (
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                f"<Error><Code>{codes[0]}</Code><Message>{escape(s3_text or refusal.message)}</Message>"
                f"<Resource>{resource}</Resource><RequestId>{request_id}</RequestId></Error>"
            )
            return cls._made(s3_status, "application/xml", body, ("x-amz-request-id", request_id))
        message = text or refusal.message
        if protocol is Protocol.QUERY:
            body = (
                f"<ErrorResponse><Error><Type>Sender</Type><Code>{codes[1]}</Code>"
                f"<Message>{escape(message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
            )
            status = 400 if bad_request else 403
            return cls._made(status, "text/xml", body, ("x-amzn-RequestId", request_id))
        ids = (("x-amzn-RequestId", request_id), ("x-amzn-ErrorType", codes[2]))
        if protocol is Protocol.JSON:
            body = json.dumps({"__type": codes[2], "message": message})
            return cls._made(400, "application/x-amz-json-1.1", body, *ids)
        status = 400 if bad_request else 403
        return cls._made(status, "application/json", json.dumps({"message": message}), *ids)

    @classmethod
    def done(cls, operation: str) -> GuardAnswer:
        """No refusal: the answer of a query service's operation that answers nothing."""
        request_id = str(uuid.uuid4())
        metadata = f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
        body = f"<{operation}Response>{metadata}</{operation}Response>"
        return cls._made(200, "text/xml", body, ("x-amzn-RequestId", request_id))

    @classmethod
    def _made(cls, status: int, content_type: str, text: str, *headers: tuple[str, str]) -> GuardAnswer:
        body = text.encode("utf-8", "replace")
        return cls(status, (("Content-Type", content_type), ("Content-Length", str(len(body))), *headers), body)
