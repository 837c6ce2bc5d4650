"""Who may do what in S3, with boto3: headers, presigned addresses, bodies in chunks, policies of buckets."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from botocore.auth import S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.endpoint.access.conftest import Guarded, Person, arn, document

BUCKET = "team-models"
KEY = "company_a/odd name+(1) ä~.txt"


def on(actions: Any, *below: str, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    resources = [f"arn:aws:s3:::{BUCKET}{each}" for each in below]
    return {"Effect": effect, "Action": actions, "Resource": resources, **more}


@pytest.fixture
def bucket(guarded: Guarded) -> Iterator[str]:
    guarded.s3.create_bucket(Bucket=BUCKET)
    guarded.s3.put_object(Bucket=BUCKET, Key=KEY, Body=b"a")
    guarded.s3.put_object(Bucket=BUCKET, Key="company_b/m", Body=b"b")
    yield BUCKET
    guarded.s3.delete_bucket_policy(Bucket=BUCKET)
    for each in guarded.s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        guarded.s3.delete_object(Bucket=BUCKET, Key=each["Key"])
    guarded.s3.delete_bucket(Bucket=BUCKET)


def denied(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert caught.value.response["Error"]["Code"] in ("AccessDenied", "403")
    return str(caught.value.response["Error"]["Message"])


def test_objects_below_a_prefix(guarded: Guarded, bucket: str) -> None:
    user = guarded.user(
        on(["s3:GetObject", "s3:PutObject"], "/company_a/*"),
        on("s3:ListBucket", "", Condition={"StringLike": {"s3:prefix": "company_a/*"}}),
    )
    s3 = user.client("s3")
    assert s3.get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"a"
    s3.put_object(Bucket=bucket, Key="company_a/new", Body=b"n", Metadata={"made_by": "user"})
    assert s3.head_object(Bucket=bucket, Key="company_a/new")["ContentLength"] == 1
    assert len(s3.list_objects_v2(Bucket=bucket, Prefix="company_a/")["Contents"]) == 2
    who = f"User: {arn('user', user.name)} is not authorized to perform:"
    assert denied(s3.get_object, Bucket=bucket, Key="company_b/m") == (
        f'{who} s3:GetObject on resource: "arn:aws:s3:::{bucket}/company_b/m" '
        "because no identity-based policy allows the s3:GetObject action"
    )
    denied(s3.head_object, Bucket=bucket, Key="company_b/m")
    assert "s3:ListBucket" in denied(s3.list_objects_v2, Bucket=bucket)
    assert "s3:ListBucket" in denied(s3.list_objects_v2, Bucket=bucket, Prefix="company_b/")
    assert "s3:DeleteObject" in denied(s3.delete_object, Bucket=bucket, Key=KEY)
    assert "s3:DeleteObject" in denied(s3.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": KEY}]})
    assert "company_b/m" in denied(
        s3.copy_object, Bucket=bucket, Key="company_a/stolen", CopySource={"Bucket": bucket, "Key": "company_b/m"}
    )
    assert "s3:PutObjectTagging" in denied(s3.put_object, Bucket=bucket, Key="company_a/x", Body=b"", Tagging="a=b")
    assert "s3:PutBucketPolicy" in denied(s3.put_bucket_policy, Bucket=bucket, Policy=document(on("s3:*", "/*")))
    assert "s3:CreateBucket" in denied(s3.create_bucket, Bucket="another")
    assert "s3:ListAllMyBuckets" in denied(s3.list_buckets)


def test_a_large_upload_in_parts_and_one_in_chunks(guarded: Guarded, bucket: str) -> None:
    s3 = guarded.user(on(["s3:*Object", "s3:*MultipartUpload"], "/company_a/*")).client("s3")
    large = os.urandom(9 * 1024 * 1024)
    s3.upload_fileobj(io.BytesIO(large), bucket, "company_a/large")
    assert s3.get_object(Bucket=bucket, Key="company_a/large")["Body"].read() == large
    s3.put_object(Bucket=bucket, Key="company_a/chunks", Body=io.BytesIO(b"chunks"), ChecksumAlgorithm="CRC32")
    assert s3.get_object(Bucket=bucket, Key="company_a/chunks")["Body"].read() == b"chunks"
    denied(s3.upload_fileobj.__self__.create_multipart_upload, Bucket=bucket, Key="company_b/large")


@pytest.mark.parametrize(
    ("claimed", "body"),
    [
        ("UNSIGNED-PAYLOAD", b"chunks"),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", b"6\r\nchunks\r\n0\r\n\r\n"),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", b"6;chunk-signature=0\r\nchunks\r\n0;chunk-signature=0\r\n\r\n"),
    ],
)
def test_payloads_that_are_not_signed_as_a_whole(guarded: Guarded, bucket: str, claimed: str, body: bytes) -> None:
    user = guarded.user(on("s3:PutObject", "/company_a/*"))
    for key, status in (("company_a/new", 200), ("company_b/new", 403)):
        headers = {"X-Amz-Content-SHA256": claimed}
        if claimed.startswith("STREAMING"):
            headers |= {"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "6"}
        request = AWSRequest("PUT", f"{guarded.url}/{bucket}/{key}", headers, body)
        credentials = Credentials(user.keys["aws_access_key_id"], user.keys["aws_secret_access_key"])
        SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
        answer = requests.put(request.url, data=body, headers=dict(request.headers), timeout=30)
        assert answer.status_code == status, answer.text
    assert guarded.s3.get_object(Bucket=bucket, Key="company_a/new")["Body"].read() == b"chunks"


@pytest.mark.parametrize("version", ["s3v4", None])
def test_presigned_addresses(guarded: Guarded, bucket: str, version: str | None) -> None:
    """Signed as boto3 does by default, too, which is with version 2."""
    user = guarded.user(on(["s3:GetObject", "s3:PutObject"], "/company_a/*"))
    s3 = user.client("s3", **({"signature_version": version} if version else {}))

    def signed(method: str, key: str, expires_s: int = 60, client: Any = s3) -> str:
        return str(client.generate_presigned_url(method, Params={"Bucket": bucket, "Key": key}, ExpiresIn=expires_s))

    assert requests.get(signed("get_object", KEY), timeout=30).content == b"a"
    assert requests.put(signed("put_object", "company_a/put"), data=b"put", timeout=30).status_code == 200
    assert guarded.s3.get_object(Bucket=bucket, Key="company_a/put")["Body"].read() == b"put"
    refused = requests.get(signed("get_object", "company_b/m"), timeout=30)
    assert (refused.status_code, "<Code>AccessDenied</Code>" in refused.text) == (403, True)

    address = signed("get_object", KEY)
    assert ("X-Amz-Algorithm" in address) == (version is not None)
    for added in ("legal-hold", "attributes", "retention"):  # which version 2 does not sign
        assert requests.get(f"{address}&{added}", timeout=30).status_code in (400, 403), added
    for changed in (address.replace("company_a", "company_b"), re.sub(r"(Expires=\d+)", r"\g<1>0", address)):
        answer = requests.get(changed, timeout=30)
        assert (answer.status_code, "<Code>SignatureDoesNotMatch</Code>" in answer.text) == (403, True)
    other_method = requests.delete(address, timeout=30)
    assert "<Code>SignatureDoesNotMatch</Code>" in other_method.text
    brief = signed("get_object", KEY, expires_s=1)
    deadline_s = time.monotonic() + 30
    while (answer := requests.get(brief, timeout=30)).status_code == 200 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert "<Message>Request has expired</Message>" in answer.text


def test_an_address_signed_for_s3_opens_nothing_else(guarded: Guarded) -> None:
    """Paths and headers that other parts of the local endpoint answer."""
    user = guarded.user({"Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    for path in ("/endpoints/Endpoint/invocations", "/iam_us-east-1/?Action=ListUsers", "/moto-api/data.json"):
        # signed for the path that it has
        answer = requests.post(_presigned(user, guarded.url, "POST", path), data=b"{}", timeout=30)
        assert answer.status_code >= 400, (path, answer.text)
        assert "company" not in answer.text
        assert "User" not in answer.text
    target = requests.post(
        _presigned(user, guarded.url, "POST", "/"),
        data=json.dumps({}),
        headers={"X-Amz-Target": "SageMaker.ListModels"},
        timeout=30,
    )
    assert target.status_code in (400, 403), target.text
    assert "Models" not in target.json()


def test_a_bucket_in_the_hosts_name_is_the_one_that_counts(guarded: Guarded, bucket: str) -> None:
    """Otherwise a path that begins with one's own bucket would open every other."""
    user = guarded.user({"Effect": "Allow", "Action": "s3:*", "Resource": "arn:aws:s3:::company_b/*"})
    port = guarded.url.rpartition(":")[2]
    host = f"{bucket}.localhost:{port}"
    address = _presigned(user, f"http://{host}", "GET", "/company_b/m")
    path = address.partition(host)[2]
    answer = requests.get(guarded.url + path, headers={"Host": host}, timeout=30)
    assert answer.status_code == 403, answer.text
    everything = guarded.user({"Effect": "Allow", "Action": "s3:*", "Resource": f"arn:aws:s3:::{bucket}/*"})
    path = _presigned(everything, f"http://{host}", "GET", "/company_b/m").partition(host)[2]
    assert requests.get(guarded.url + path, headers={"Host": host}, timeout=30).content == b"b"


def _presigned(user: Person, url: str, method: str, path: str) -> str:
    request = AWSRequest(method=method, url=url + path)
    credentials = Credentials(user.keys["aws_access_key_id"], user.keys["aws_secret_access_key"])
    S3SigV4QueryAuth(credentials, "s3", "us-east-1", 60).add_auth(request)
    return str(request.prepare().url)


def test_a_bucket_policy_gives_and_takes(guarded: Guarded, bucket: str) -> None:
    alice, bob = guarded.user(), guarded.user({"Effect": "Allow", "Action": "s3:*", "Resource": "*"})

    def put(*statements: dict[str, Any]) -> None:
        guarded.s3.put_bucket_policy(Bucket=bucket, Policy=document(*statements))

    put(
        on("s3:GetObject", "/company_a/*", Principal={"AWS": arn("user", alice.name)}),
        on("s3:*", "/company_b/*", effect="Deny", Principal={"AWS": arn("user", bob.name)}),
    )
    assert alice.client("s3").get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"a"
    denied(alice.client("s3").get_object, Bucket=bucket, Key="company_b/m")
    assert bob.client("s3").get_object(Bucket=bucket, Key=KEY)["Body"].read() == b"a"
    told = denied(bob.client("s3").get_object, Bucket=bucket, Key="company_b/m")
    assert told.endswith("with an explicit deny in a resource-based policy")
    with pytest.raises(ClientError, match="MalformedPolicy"):
        guarded.s3.put_bucket_policy(Bucket=bucket, Policy='{"Statement": [{"Effect": "Perhaps"}]}')

    unsigned = f"{guarded.url}/{bucket}/company_b/m"
    assert requests.get(unsigned, timeout=30).status_code == 403
    put(on("s3:GetObject", "/company_b/*", Principal="*"))
    assert requests.get(unsigned, timeout=30).content == b"b"
    assert requests.put(unsigned, data=b"changed", timeout=30).status_code == 403
    assert requests.get(f"{guarded.url}/{bucket}/{KEY}", timeout=30).status_code == 403
    assert requests.get(f"{guarded.url}/moto-api/data.json", timeout=30).status_code == 403
