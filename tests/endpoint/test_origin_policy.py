"""Requests that a web page in this machine's browser could send: they change nothing and learn nothing."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from local_endpoint.http.origin_policy import OriginPolicy
from tests.endpoint.local import BUCKET, ROLE, Local
from tests.endpoint.program import Program

EVIL = "https://evil.example"
CREATE = {
    "X-Amz-Target": "SageMaker.CreateModel",
    "Content-Type": "text/plain",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Local]:
    with Local() as running:
        yield running


class Reply:
    """What a raw request was answered; header names in lower case."""

    def __init__(self, url: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            self.status = answer.status
            self.body = answer.read()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
        finally:
            connection.close()

    @property
    def cors(self) -> list[str]:
        return [name for name in self.headers if name.startswith("access-control")]


def model(name: str) -> bytes:
    return json.dumps({"ModelName": name, "ExecutionRoleArn": ROLE, "PrimaryContainer": {"Image": "i"}}).encode()


REQUESTS = {
    "the control plane": ("POST", "/", CREATE, model("intruder")),
    "an invocation": ("POST", "/endpoints/e/invocations", {"Content-Type": "text/plain"}, b"{}"),
    "S3": ("DELETE", f"/{BUCKET}", {}, b""),
    "a query operation": ("POST", "/?Action=CreateUser&UserName=u&Version=2010-05-08", {}, b""),
    "moto's interface": ("POST", "/moto-api/reset", {}, b""),
    "a visit": ("GET", "/", {}, b""),
    "a preflight": ("OPTIONS", "/", {"Access-Control-Request-Method": "POST"}, b""),
    "a preflight of an object": ("OPTIONS", f"/{BUCKET}/k", {"Access-Control-Request-Method": "PUT"}, b""),
}
FOREIGN = {
    "a page": {"Origin": EVIL},
    "a page without an address": {"Origin": "null"},
    "a page of another program here": {"Origin": "http://localhost:3000"},
    "a page whose name points here": {
        "Host": "rebound.evil.example:4566",
        "Origin": "http://rebound.evil.example:4566",
    },
    "a name that points here": {"Host": "rebound.evil.example"},
    "a name that begins like ours": {"Host": "localhost.evil.example"},
    "a name that ends like ours": {"Host": "evillocalhost"},
    "another address": {"Host": "10.1.2.3:4566"},
    "no name": {"Host": ""},
}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_foreign_request_is_refused_whatever_it_asks_for(shared: Local, request_: str, foreign: str) -> None:
    method, path, headers, body = REQUESTS[request_]
    reply = Reply(shared.url, method, path, {**headers, **FOREIGN[foreign]}, body)
    assert reply.status == 403
    assert reply.cors == []
    assert BUCKET in [each["Name"] for each in shared.s3.list_buckets()["Buckets"]]
    assert shared.sagemaker.list_models(NameContains="intruder")["Models"] == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_that_hides_its_origin_is_known_by_its_site(shared: Local, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert Reply(shared.url, "POST", "/", {**CREATE, **headers}, model("intruder")).status == 403
    assert Reply(shared.url, "GET", "/?Action=CreateUser&UserName=u", headers).status == 403
    assert Reply(shared.url, "GET", "/", headers).status == 200  # a link may lead here


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1:4566", "127.9.9.9", "[::1]:4566", "bucket.localhost:4566", "localhost."],
)
def test_names_of_this_machine_are_let_in_by_any_port(shared: Local, host: str) -> None:
    """A port may be forwarded to ours."""
    assert Reply(shared.url, "GET", "/", {"Host": host}).status == 200
    assert Reply(shared.url, "GET", "/", {"Host": host, "Origin": f"http://{host}"}).status == 200
    other_port = Reply(shared.url, "GET", "/", {"Host": "localhost:1", "Origin": "http://localhost:2"})
    assert other_port.status == 403


def test_nobody_is_granted_anything_by_a_preflight(shared: Local) -> None:
    ours = shared.url
    headers = {"Origin": ours, "Access-Control-Request-Method": "POST"}
    assert Reply(ours, "OPTIONS", "/", headers).cors == []
    assert Reply(ours, "GET", f"/{BUCKET}", {"Origin": ours}).cors == []


def test_motos_own_interface_is_closed_to_everybody(shared: Local) -> None:
    for path in ("/moto-api/reset", "/moto-api/", "/moto-api/data.json"):
        reply = Reply(shared.url, "POST", path, {})
        assert reply.status == 403
        assert b"start the local endpoint with --moto-api" in reply.body
    assert BUCKET in [each["Name"] for each in shared.s3.list_buckets()["Buckets"]]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("moto-api.localhost", "/data.json"),
        ("MOTO-API.localhost:4566", "/reset"),
        ("moto-api.localhost", "/recorder/start-recording"),
        ("moto-api.localhost", "/"),
        ("moto-api-of-mine.localhost", "/key"),
        ("latest.localhost", "/meta-data/iam/security-credentials/"),
        ("latest.localhost", "/api/token"),
        ("localhost", "/latest/meta-data/x"),
    ],
)
def test_no_bucket_in_the_host_opens_it(shared: Local, method: str, host: str, path: str) -> None:
    s3 = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    for headers in ({}, {"Authorization": s3}, {"Sec-Fetch-Site": "cross-site"}):
        if path == "/" and method == "GET" and "Authorization" not in headers:
            continue  # the welcome
        reply = Reply(shared.url, method, path, {"Host": host, **headers})
        assert reply.status == 403
        assert b"moto" in reply.body or b"another site" in reply.body
    assert BUCKET in [each["Name"] for each in shared.s3.list_buckets()["Buckets"]]


def test_a_page_in_a_bucket_has_no_origin_in_a_browser(shared: Local) -> None:
    """Its scripts would otherwise have ours: the browser runs none, and takes nothing for what it is not called."""
    shared.s3.put_object(Bucket=BUCKET, Key="page", Body=b"<script>1</script>", ContentType="image/png")
    page = f"/{BUCKET}/page"
    for path in (page, f"{page}?response-content-type=text/html", f"/{BUCKET}", "/", "/no-bucket/x"):
        for method in ("GET", "HEAD", "POST"):
            headers = Reply(shared.url, method, path, {}).headers
            assert headers["content-security-policy"] == "sandbox"
            assert headers["x-content-type-options"] == "nosniff"


def test_the_reason_of_a_host_that_is_not_allowed_reaches_aws_clients(shared: Local) -> None:
    def rename(request: object, **_: object) -> None:
        request.headers["Host"] = "box.lan:4566"  # type: ignore[attr-defined]

    invocation = {"EndpointName": "endpoint", "Body": b"{}"}
    for service, operation, arguments, code in (  # one of each protocol
        ("sagemaker", "list_models", {}, "AccessDeniedException"),
        ("logs", "describe_log_groups", {}, "AccessDeniedException"),
        ("sagemaker-runtime", "invoke_endpoint", invocation, "AccessDeniedException"),
        ("lambda", "list_functions", {}, "AccessDeniedException"),
        ("iam", "list_users", {}, "AccessDenied"),
        ("sts", "get_caller_identity", {}, "AccessDenied"),
        ("s3", "list_buckets", {}, "AccessDenied"),
    ):
        client = shared.client(service)
        client.meta.events.register("before-send", rename)
        with pytest.raises(ClientError, match=r"start it with --allow-host box\.lan\.") as caught:
            getattr(client, operation)(**arguments)
        assert caught.value.response["Error"]["Code"] == code


def test_what_is_allowed_is_let_in_with_all_names_below_it() -> None:
    origin_policy = OriginPolicy("0.0.0.0", ["box.lan", "10.0.0.7"])
    for host in ("box.lan", "bucket.box.lan:80", "10.0.0.7", "10.9.9.9:4566", "[::1]"):
        assert origin_policy.refusal({"HTTP_HOST": host}) is None
    for host in ("notbox.lan", "box.lan.evil.example", "endpoint"):
        assert origin_policy.refusal({"HTTP_HOST": host}) is not None
    only = OriginPolicy("10.0.0.7")
    assert only.refusal({"HTTP_HOST": "10.0.0.7:4566"}) is None
    assert only.refusal({"HTTP_HOST": "10.0.0.8"}) is not None


def test_the_command_line_opens_what_is_closed(tmp_path: Path) -> None:
    program = Program(
        tmp_path, "--moto-api", "--allow-host", "box.lan", "--allow-host", "endpoint", "--max-body-mib", "1"
    )
    try:
        large = Reply(program.url, "POST", "/endpoints/e/invocations", {}, bytes(1024 * 1024 + 1))
        assert b"less than or equal to 1048576" in large.body
        reply = Reply(program.url, "POST", "/moto-api/reset", {})
        assert (reply.status, reply.body) == (200, b'{"status": "ok"}')
        assert Reply(program.url, "POST", "/moto-api/reset", {"Origin": EVIL}).status == 403
        for host, status in (("box.lan:1", 200), ("endpoint", 200), ("other", 403)):
            assert Reply(program.url, "GET", "/", {"Host": host}).status == status
    finally:
        program.kill()
