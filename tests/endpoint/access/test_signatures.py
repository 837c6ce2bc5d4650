"""Signatures: botocore's are understood, whatever is signed; a change of anything that was signed is noticed."""

from __future__ import annotations

import dataclasses
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from local_endpoint.access.signatures import Malformed, Signature, read_signature

KEY, SECRET, TOKEN = "AKIAIOSFODNN7EXAMPLE", "a secret/+", "a token/+="
# what comes in headers and addresses; no control characters
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20)
NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x2FF, exclude_characters="\x7f/."), min_size=1)


def environ_of(request: Any, body: bytes) -> dict[str, Any]:
    """What a WSGI server makes of it."""
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    made = {"REQUEST_METHOD": request.method, "RAW_URI": target, "QUERY_STRING": parts.query, "HTTP_HOST": parts.netloc}
    for name, value in prepared.headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else value.encode().decode("latin-1")
        key = name.upper().replace("-", "_")
        made[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = text
    return made


def signed(signer: Any, service: str, method: str, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
    url = f"http://127.0.0.1:4566/{quote(path, safe='/~')}"
    if query:
        url += "?" + "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in query.items())
    request = AWSRequest(method, url, {"Content-Type": "text/plain", "X-Amz-Meta-Note": "a  b "}, body)
    signer(Credentials(KEY, SECRET, TOKEN), service, "eu-west-1").add_auth(request)
    return environ_of(request, body)


@pytest.mark.parametrize("signer", [SigV4Auth, SigV4QueryAuth, S3SigV4Auth, S3SigV4QueryAuth])
@given(
    path=st.lists(NAMES, max_size=3).map("/".join),
    query=st.dictionaries(NAMES.filter(lambda name: not name.startswith("X-Amz")), TEXT, max_size=3),
    body=st.binary(max_size=20),
)
def test_botocores_signatures_are_understood(signer: Any, path: str, query: dict[str, str], body: bytes) -> None:
    service = "s3" if signer in (S3SigV4Auth, S3SigV4QueryAuth) else "sagemaker"
    if signer in (SigV4QueryAuth, S3SigV4QueryAuth):
        body = b""  # botocore would make parameters of it
    environ = signed(signer, service, "POST", path, query, body)
    signature = read_signature(environ)
    assert signature is not None
    assert (signature.access_key, signature.token, signature.service) == (KEY, TOKEN, service)
    assert signature.is_of(SECRET, environ, body)
    assert not signature.is_of(SECRET + "x", environ, body)


def example() -> tuple[Signature, dict[str, Any]]:
    environ = signed(SigV4Auth, "sagemaker", "POST", "endpoints/e/invocations", {"a": "b"}, b"body")
    signature = read_signature(environ)
    assert signature is not None
    return signature, environ


@pytest.mark.parametrize(
    "change",
    [
        {"REQUEST_METHOD": "PUT"},
        {"RAW_URI": "/endpoints/f/invocations?a=b"},
        {"RAW_URI": "/endpoints/e/invocations?a=c"},
        {"RAW_URI": "/endpoints/e/invocations"},
        {"HTTP_HOST": "127.0.0.1:4567"},
        {"CONTENT_TYPE": "text/html"},
        {"HTTP_X_AMZ_META_NOTE": "a c"},
        {"HTTP_X_AMZ_SECURITY_TOKEN": "another"},
    ],
)
def test_a_change_of_the_request_is_noticed(change: dict[str, str]) -> None:
    signature, environ = example()
    assert signature.is_of(SECRET, environ, b"body")
    assert not signature.is_of(SECRET, {**environ, **change}, b"body")


def test_a_change_of_the_body_or_of_the_scope_is_noticed() -> None:
    signature, environ = example()
    assert not signature.is_of(SECRET, environ, b"bodY")
    changes: list[dict[str, Any]] = [{"region": "us-east-1"}, {"date": "20200101"}, {"service": "iam"}]
    for change in changes:
        assert not dataclasses.replace(signature, **change).is_of(SECRET, environ, b"body")


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic dXNlcjpwYXNz",
        "AWS4-HMAC-SHA256 Credential=A/20260101/r/s/aws4_request",
        "AWS4-HMAC-SHA256 SignedHeaders=host, Credential=A/20260101/r/iam/aws4_request, Signature=0",
        "AWS4-HMAC-SHA256 Credential=A/20260101/r/aws4_request, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=A/20260101/r/s/aws5_request, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=A/20260102/r/s/aws4_request, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=A/20260101/r/s/aws4_request, SignedHeaders=accept, Signature=0",
    ],
)
def test_what_is_no_signature_is_refused(authorization: str) -> None:
    with pytest.raises(Malformed):
        read_signature({"HTTP_AUTHORIZATION": authorization, "HTTP_X_AMZ_DATE": "20260101T000000Z"})


def test_an_unsigned_request_has_none() -> None:
    assert read_signature({"QUERY_STRING": "list-type=2"}) is None
