"""What a client is told that may not do what it asks for: AWS's codes and texts, by the protocol of the service.

S3                  its own codes and texts    403 or 400
QUERY, REST_JSON                               403, or 400 for what is no question of access
JSON                                           400
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from enum import Enum
from typing import Any

from local_endpoint.protocols import Protocol, WireAnswer, WireError, wire_answer

_WRONG = "The request signature we calculated does not match the signature you provided. "
_WRONG_KEY = (
    f"{_WRONG}Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
)
_INVALID = "The security token included in the request is invalid."
_EXPIRED = "The security token included in the request is expired"


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


def answer_to(refusal: Refusal, protocol: Protocol, environ: Mapping[str, Any]) -> WireAnswer:
    """In the words and the form of the service."""
    codes, s3_status, (s3_text, text) = refusal.kind.value
    if protocol is Protocol.S3:
        path = environ.get("PATH_INFO", "")
        return WireError(s3_status, codes[0], s3_text or refusal.message, path).answer(protocol)
    bad_request = protocol is Protocol.JSON or refusal.kind in (Kind.INVALID, Kind.BAD_POLICY)
    code = codes[1] if protocol is Protocol.QUERY else codes[2]
    status = 400 if bad_request else 403
    return WireError(status, code, text or refusal.message, text_member="message").answer(protocol)


def done(operation: str) -> WireAnswer:
    """No refusal: the answer of a query service's operation that answers nothing."""
    request_id = str(uuid.uuid4())
    metadata = f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
    return wire_answer(Protocol.QUERY, 200, f"<{operation}Response>{metadata}</{operation}Response>", request_id)
