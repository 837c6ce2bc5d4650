"""What an error looks like on the wire, in each protocol of AWS's services, so that every SDK finds code and text.

S3          XML
QUERY       XML with an envelope                    IAM, STS, CloudFormation …
JSON        ``__type`` and ``message``              SageMaker's control plane, CloudWatch Logs …
REST_JSON   the code in a header, and the text      InvokeEndpoint, Lambda …
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Any
from wsgiref.handlers import format_date_time
from xml.sax.saxutils import escape


class Protocol(Enum):
    """How a service's errors look on the wire."""

    S3 = "s3"
    QUERY = "query"
    JSON = "json"
    REST_JSON = "rest-json"


MEDIA_TYPES = {
    Protocol.S3: "application/xml",
    Protocol.QUERY: "text/xml",
    Protocol.JSON: "application/x-amz-json-1.1",
    Protocol.REST_JSON: "application/json",
}


@dataclass(frozen=True)
class WireAnswer:
    """A whole answer, ready to be sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status_line(self) -> str:
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:  # 530, which is AWS's own
            return f"{self.status} Error"

    def begin(self, start_response: Callable[..., Any], method: str = "") -> list[bytes]:
        """Starts a WSGI response; returns its body, which no answer to a HEAD has."""
        start_response(self.status_line, list(self.headers))
        return [] if method == "HEAD" else [self.body]


def wire_answer(protocol: Protocol, status: int, text: str, request_id: str, *headers: tuple[str, str]) -> WireAnswer:
    """``text`` in the protocol's media type."""
    body = text.encode("utf-8", "replace")
    id_header = "x-amz-request-id" if protocol is Protocol.S3 else "x-amzn-RequestId"
    return WireAnswer(
        status,
        (
            ("Content-Type", MEDIA_TYPES[protocol]),
            ("Content-Length", str(len(body))),
            (id_header, request_id),
            ("Date", format_date_time(time.time())),
            *headers,
        ),
        body,
    )


@dataclass(frozen=True)
class WireError:
    """An error: its code, which the protocol's own services use, and what is said."""

    status: int
    code: str
    message: str
    resource: str = ""
    """The path, which S3 repeats."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Further members of a body in REST_JSON."""
    text_member: str = "Message"
    """What REST_JSON calls the text: a service says ``Message``, AWS's check of signatures before it ``message``."""
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def answer(self, protocol: Protocol) -> WireAnswer:
        code, message = escape(self.code), escape(self.message)
        if protocol is Protocol.S3:
            text = (
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                f"<Error><Code>{code}</Code><Message>{message}</Message>"
                f"<Resource>{escape(self.resource)}</Resource><RequestId>{self.request_id}</RequestId></Error>"
            )
            return wire_answer(protocol, self.status, text, self.request_id)
        if protocol is Protocol.QUERY:
            text = (
                f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
                f"<RequestId>{self.request_id}</RequestId></ErrorResponse>"
            )
            return wire_answer(protocol, self.status, text, self.request_id)
        if protocol is Protocol.JSON:
            members = {"__type": self.code, "message": self.message}
        else:
            members = {self.text_member: self.message, **self.fields}
        text = json.dumps(members)
        return wire_answer(protocol, self.status, text, self.request_id, ("x-amzn-ErrorType", self.code))
