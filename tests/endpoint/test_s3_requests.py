"""S3 through the front: uploads that break off, and a bucket whose name looks like something else."""

from __future__ import annotations

import hashlib
import socket

import pytest
import requests

from tests.endpoint.local import BUCKET, Local, behaving
from tests.endpoint.test_s3_storage import framed
from tests.harness.waiting import wait_until

SIGNED = "AWS4-HMAC-SHA256 Credential=a/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


def break_off(local: Local, path: str, headers: dict[str, str], sent: bytes) -> bytes:
    """Sends a request whose body ends early, closes that direction and returns what the server says, if anything."""
    host, port = local.url.removeprefix("http://").split(":")
    lines = [f"PUT {path} HTTP/1.1", f"Host: {host}", f"Authorization: {SIGNED}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def chunked(length: int) -> dict[str, str]:
    return {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(length),
        "content-encoding": "aws-chunked",
    }


@pytest.mark.parametrize(
    ("length", "sent"),
    [(1_000_000, 300_000), (1_000_000, 0), (50_000, 30_000)],
    ids=["in the middle", "at once", "a small one"],
)
def test_an_upload_that_breaks_off_replaces_nothing(local: Local, length: int, sent: int) -> None:
    good = b"good" * 50_000
    local.upload("models/m.tar.gz", good)
    answer = break_off(local, f"/{BUCKET}/models/m.tar.gz", {"Content-Length": str(length)}, b"x" * sent)
    assert b" 200 " not in answer.split(b"\r\n")[0]
    assert local.s3.get_object(Bucket=BUCKET, Key="models/m.tar.gz")["Body"].read() == good


@pytest.mark.parametrize("sent", [50_000, 100_009, 150_000, 200_018], ids=["1", "1 to 2", "2", "2 to the last"])
def test_an_upload_in_chunks_that_breaks_off_replaces_nothing(local: Local, sent: int) -> None:
    good = b"good" * 50_000
    local.upload("models/m.tar.gz", good)
    whole = framed([b"x" * 100_000, b"y" * 100_000])
    assert whole.index(b"y") == 100_009 + len("186a0\r\n")  # where the second chunk begins
    headers = {"Content-Length": str(len(whole)), **chunked(200_000)}
    answer = break_off(local, f"/{BUCKET}/models/m.tar.gz", headers, whole[:sent])
    assert b" 200 " not in answer.split(b"\r\n")[0]
    assert local.s3.get_object(Bucket=BUCKET, Key="models/m.tar.gz")["Body"].read() == good


def test_a_part_that_breaks_off_does_not_become_part_of_the_object(local: Local) -> None:
    upload = local.s3.create_multipart_upload(Bucket=BUCKET, Key="models/m.tar.gz")["UploadId"]
    path = f"/{BUCKET}/models/m.tar.gz?partNumber=1&uploadId={upload}"
    break_off(local, path, {"Content-Length": "1000000"}, b"x" * 300_000)
    assert "Parts" not in local.s3.list_parts(Bucket=BUCKET, Key="models/m.tar.gz", UploadId=upload)
    local.s3.abort_multipart_upload(Bucket=BUCKET, Key="models/m.tar.gz", UploadId=upload)


def test_an_invocation_that_breaks_off_does_not_reach_a_model(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    host, port = local.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = "POST /endpoints/endpoint/invocations HTTP/1.1\r\nHost: localhost\r\n"
        head += "X-Amzn-SageMaker-Target-Model: m.tar.gz\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"x" * 300)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    assert local.loaded(local.instances()[0]) == []


def test_a_bucket_may_be_called_endpoints(local: Local) -> None:
    local.s3.create_bucket(Bucket="endpoints")
    data = b"data" * 3_000_000  # in parts: POSTs among the requests
    upload = local.s3.create_multipart_upload(Bucket="endpoints", Key="x/invocations")["UploadId"]
    part = local.s3.upload_part(Bucket="endpoints", Key="x/invocations", UploadId=upload, PartNumber=1, Body=data)
    local.s3.complete_multipart_upload(
        Bucket="endpoints",
        Key="x/invocations",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    local.s3.put_object(Bucket="endpoints", Key="x/async-invocations", Body=b"small")
    signed = local.s3.generate_presigned_url("get_object", Params={"Bucket": "endpoints", "Key": "x/invocations"})
    assert hashlib.sha256(requests.get(signed, timeout=10).content).digest() == hashlib.sha256(data).digest()
    assert local.s3.get_object(Bucket="endpoints", Key="x/async-invocations")["Body"].read() == b"small"
    # and an endpoint may still be called x
    local.deploy("x")
    local.upload("models/m.tar.gz", behaving())
    assert local.invoke("m.tar.gz", endpoint="x")
    assert local.post({"X-Amzn-SageMaker-Target-Model": "m.tar.gz"}, endpoint="x").status_code == 200
    for key in ("x/invocations", "x/async-invocations"):
        local.s3.delete_object(Bucket="endpoints", Key=key)
    local.s3.delete_bucket(Bucket="endpoints")
    wait_until(lambda: "endpoints" not in [each["Name"] for each in local.s3.list_buckets()["Buckets"]], "it is there")
