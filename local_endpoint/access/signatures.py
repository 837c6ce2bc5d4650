"""Signature Version 4, and 2 in addresses for S3, as a server sees it: read from a request, and computed again.

S3 signs the path as it is sent, encoded once, and the payload's hash as ``x-amz-content-sha256`` claims it (a digest,
UNSIGNED-PAYLOAD, or STREAMING-… of an aws-chunked body). Other services sign a path that is normalized and encoded
twice, and the digest of the body itself.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import hmac
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from botocore.auth import HmacV1Auth
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATION = "aws4_request"
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
MOST_TIME_S = 253_402_300_799  # the last second of the year 9999
MOST_EXPIRES_S = 7 * 24 * 3600
_HEADER = re.compile(
    rf"{ALGORITHM} +Credential=(?P<credential>[^, ]+), *SignedHeaders=(?P<headers>[^, ]+), *"
    r"Signature=(?P<signature>\w+) *"
)
Environ = Mapping[str, Any]


class Malformed(Exception):
    """What should be a signature cannot be understood."""


@dataclass(frozen=True)
class Signature:
    """What a request claims: which key signed what, and when."""

    access_key: str
    date: str
    """YYYYMMDD, of the credential's scope."""
    region: str
    service: str
    signed_headers: tuple[str, ...]
    """Lower-case names, in order."""
    value: str
    time: datetime.datetime
    token: str | None
    """X-Amz-Security-Token."""
    expires_s: int | None
    """Of a presigned address; None where the signature is a header."""

    @property
    def is_presigned(self) -> bool:
        return self.expires_s is not None

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/{TERMINATION}"

    def as_header(self) -> str:
        """As it is, or would be, in the Authorization header."""
        return (
            f"{ALGORITHM} Credential={self.access_key}/{self.scope}, SignedHeaders={';'.join(self.signed_headers)}, "
            f"Signature={self.value}"
        )

    def is_of(self, secret: str, environ: Environ, body: bytes) -> bool:
        """Whether the key of this secret signed this request. ``body`` does not matter to S3."""
        request = canonical_request(self, environ, body)
        text = "\n".join([ALGORITHM, self.time.strftime(TIME_FORMAT), self.scope, _sha256(request)])
        key = _signing_key(secret, self.date, self.region, self.service)
        return hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), self.value)


def read_signature(environ: Environ) -> Signature | None:
    """From the header, or the query where there is none; None of an unsigned request. Raises ``Malformed``."""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if authorization:
        match = _HEADER.fullmatch(authorization)
        if match is None:
            raise Malformed(
                "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters, "
                f"in this order, after {ALGORITHM}. Authorization={authorization.partition(' ')[0]} …"
            )
        time, token = environ.get("HTTP_X_AMZ_DATE", ""), environ.get("HTTP_X_AMZ_SECURITY_TOKEN")
        return _signature(match["credential"], match["headers"], match["signature"], time, token, None)
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    if "AWSAccessKeyId" in query:
        return _old_signature(environ, query)
    if "X-Amz-Signature" not in query and "X-Amz-Credential" not in query:
        return None
    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise Malformed(f'X-Amz-Algorithm only supports "{ALGORITHM}"')
    expires = query.get("X-Amz-Expires", "")
    if not expires.isdigit() or int(expires) > MOST_EXPIRES_S:
        raise Malformed("X-Amz-Expires must be a number of seconds, at most a week (604800)")
    wanted = ("X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature", "X-Amz-Date")
    credential, headers, value, time = (query.get(name, "") for name in wanted)
    return _signature(credential, headers, value, time, query.get("X-Amz-Security-Token"), int(expires))


class _OldSigner(HmacV1Auth):
    """botocore's, for a time that is known."""

    expires_at_s = ""

    def _get_date(self) -> str:
        return self.expires_at_s


@dataclass(frozen=True)
class OldSignature(Signature):
    """Version 2 in an S3 address: what SDKs presign with where they are not told otherwise."""

    expires_at_s: str = ""

    def is_of(self, secret: str, environ: Environ, body: bytes) -> bool:
        split = urlsplit(raw_target(environ))
        headers = HTTPHeaders()
        for name in ("content-md5", "content-type", *self.signed_headers):
            if header(environ, name):
                headers[name] = header(environ, name)
        signer = _OldSigner(Credentials(self.access_key, secret, self.token))
        signer.expires_at_s = self.expires_at_s
        computed = signer.get_signature(environ["REQUEST_METHOD"], split, headers)
        return hmac.compare_digest(computed, self.value)


def _old_signature(environ: Environ, query: Mapping[str, str]) -> OldSignature:
    expires = query.get("Expires", "")
    if not expires.isdigit() or "Signature" not in query:
        raise Malformed("Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters")
    now = datetime.datetime.now(datetime.UTC)
    expires_s = max(0, int(expires) - int(now.timestamp()))
    return OldSignature(
        access_key=query["AWSAccessKeyId"],
        date=now.strftime("%Y%m%d"),
        region="us-east-1",
        service="s3",
        signed_headers=tuple(
            name.removeprefix("HTTP_").replace("_", "-").lower() for name in environ if name.startswith("HTTP_X_AMZ_")
        ),
        value=query["Signature"],
        time=min(now, datetime.datetime.fromtimestamp(min(int(expires), MOST_TIME_S), datetime.UTC)),
        token=query.get("x-amz-security-token"),
        expires_s=expires_s,
        expires_at_s=expires,
    )


def _signature(
    credential: str, headers: str, value: str, time_text: str, token: str | None, expires_s: int | None
) -> Signature:
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[4] != TERMINATION or not all(parts):
        raise Malformed(f"Credential must be KEY/YYYYMMDD/REGION/SERVICE/{TERMINATION}, not {credential!r}")
    key, date, region, service, _ = parts
    signed_headers = tuple(headers.lower().split(";"))
    if "host" not in signed_headers:
        raise Malformed("'Host' must be a 'SignedHeader' in the AWS Authorization")
    try:
        time = datetime.datetime.strptime(time_text, TIME_FORMAT).replace(tzinfo=datetime.UTC)
    except ValueError:
        raise Malformed(f"X-Amz-Date must be of the form YYYYMMDDTHHMMSSZ, not {time_text!r}") from None
    if not time_text.startswith(date):
        raise Malformed(f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date: {date!r}")
    return Signature(key, date, region, service, signed_headers, value, time, token, expires_s)


# ---- what was signed ----


def canonical_request(signature: Signature, environ: Environ, body: bytes) -> bytes:
    """The text that both sides derive from a request. Header values are what the wire had."""
    is_s3 = signature.service == "s3"
    path, _, query = raw_target(environ).partition("?")
    parts = [
        environ["REQUEST_METHOD"],
        _s3_path(path) if is_s3 else _normalized_path(path),
        _canonical_query(query, signature.is_presigned),
        *(f"{name}:{header(environ, name)}" for name in signature.signed_headers),
        "",
        ";".join(signature.signed_headers),
        _payload_hash(signature, environ, body),
    ]
    return "\n".join(parts).encode("latin-1", "replace")


def raw_target(environ: Environ) -> str:
    """Path and query as the request line has them."""
    target: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if not target.startswith("/"):  # absolute: http://HOST/PATH
        target = "/" + target.partition("://")[2].partition("/")[2]
    return target


def header(environ: Environ, name: str) -> str:
    """A header's value, blanks folded; empty where it is missing."""
    key = name.upper().replace("-", "_")
    value = environ.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}") or ""
    return " ".join(value.split())


def _payload_hash(signature: Signature, environ: Environ, body: bytes) -> str:
    if signature.service != "s3":
        return _sha256(body)
    if signature.is_presigned:
        return header(environ, "x-amz-content-sha256") or UNSIGNED_PAYLOAD
    return header(environ, "x-amz-content-sha256")


def _s3_path(path: str) -> str:
    return quote(unquote(path, "latin-1"), safe="/-_.~", encoding="latin-1")


def _normalized_path(path: str) -> str:
    normalized = posixpath.normpath(path) if path else "/"
    if normalized.startswith("//"):
        normalized = normalized[1:]
    if path.endswith("/") and normalized != "/":
        normalized += "/"
    return quote(normalized, safe="/-_.~", encoding="latin-1")


def _canonical_query(query: str, is_presigned: bool) -> str:
    pairs = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        if is_presigned and name == "X-Amz-Signature":
            continue
        pairs.append((_encoded(name), _encoded(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _encoded(text: str) -> str:
    return quote(unquote(text, "latin-1"), safe="-_.~", encoding="latin-1")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(1024)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for text in (date, region, service, TERMINATION):
        key = hmac.new(key, text.encode(), "sha256").digest()
    return key
