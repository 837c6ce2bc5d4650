"""Buckets in the host, and hosts with dots: what is put under one address is there under every other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config

from scripts.programs.aws import is_local
from tests.endpoint.local import KEYS
from tests.endpoint.program import Program
from tests.harness.waiting import wait_until

KEY = "folder/ü a+b.tar.gz"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("addressing")
    running = Program(folder, "--state", str(folder / "state"), "--allow-host", "box.lan", "--allow-host", "endpoint")
    yield running
    running.kill()


@pytest.fixture
def _box_lan_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def here(host: str, *arguments: Any, **named: Any) -> Any:
        return look_up("127.0.0.1" if str(host).endswith("box.lan") else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", here)


SIGNED = "AWS4-HMAC-SHA256 Credential=a/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


@pytest.mark.parametrize(
    "host", ["localhost:{port}", "box.lan:{port}", "box.lan", "endpoint:{port}", "127.0.0.1:{port}"]
)
def test_a_bucket_in_the_path_is_the_same_by_every_host(program: Program, host: str) -> None:
    host = host.format(port=program.url.rpartition(":")[2])
    headers = {"Host": host, "Authorization": SIGNED}
    assert requests.put(f"{program.url}/by-path", headers=headers, timeout=10).status_code in (200, 409)
    answer = requests.put(f"{program.url}/by-path/a%20b", data=host.encode(), headers=headers, timeout=10)
    assert answer.status_code == 200
    assert program.client("s3").get_object(Bucket="by-path", Key="a b")["Body"].read() == host.encode()


@pytest.mark.parametrize("base", ["localhost", "box.lan", "endpoint"])
def test_a_bucket_in_the_host_is_that_of_the_path_and_is_kept(program: Program, base: str) -> None:
    bucket, host = f"in-host-{base.replace('.', '-')}", f"in-host-{base.replace('.', '-')}.{base}:4566"
    headers = {"Host": host, "Authorization": SIGNED}
    assert requests.put(f"{program.url}/", headers=headers, timeout=10).status_code == 200
    answer = requests.put(f"{program.url}/folder/%C3%BC%20a%2Bb", data=b"data", headers=headers, timeout=10)
    assert answer.status_code == 200
    s3 = program.client("s3")
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["folder/ü a+b"]
    assert requests.get(f"{program.url}/folder/%C3%BC%20a%2Bb", headers=headers, timeout=10).content == b"data"
    state = next(Path(program.log.parent).glob("state/s3"))
    assert list((state / bucket).glob("*.data")), "it is not kept"
    assert requests.delete(f"{program.url}/folder/%C3%BC%20a%2Bb", headers=headers, timeout=10).status_code == 204
    assert not list((state / bucket).glob("*.data"))


def test_what_was_put_into_a_bucket_in_the_host_outlives_a_restart(tmp_path: Path) -> None:
    headers = {"Host": "kept.localhost:4566", "Authorization": SIGNED}
    arguments = ("--state", str(tmp_path / "state"))
    before = Program(tmp_path, *arguments)
    try:
        assert requests.put(f"{before.url}/", headers=headers, timeout=10).status_code == 200
        put = requests.put(f"{before.url}/folder/%C3%BC%20a%2Bb", data=b"data", headers=headers, timeout=10)
        assert put.status_code == 200
    finally:
        before.kill()
    after = Program(tmp_path, *arguments)
    try:
        wait_until(lambda: requests.get(after.url, timeout=10).status_code == 200, "it does not come up")
        assert after.client("s3").get_object(Bucket="kept", Key="folder/ü a+b")["Body"].read() == b"data"
        assert requests.get(f"{after.url}/folder/%C3%BC%20a%2Bb", headers=headers, timeout=10).content == b"data"
    finally:
        after.kill()


@pytest.mark.usefixtures("_box_lan_is_here")
def test_boto3_with_buckets_in_the_host_works(program: Program) -> None:
    port = program.url.rpartition(":")[2]
    config = Config(s3={"addressing_style": "virtual"})
    s3 = boto3.client("s3", endpoint_url=f"http://box.lan:{port}", config=config, **KEYS)
    s3.create_bucket(Bucket="virtual")
    s3.put_object(Bucket="virtual", Key=KEY, Body=b"1" * 1000)
    assert s3.get_object(Bucket="virtual", Key=KEY)["Body"].read() == b"1" * 1000
    assert program.client("s3").head_object(Bucket="virtual", Key=KEY)["ContentLength"] == 1000
    signed = s3.generate_presigned_url("get_object", Params={"Bucket": "virtual", "Key": KEY})
    assert requests.get(signed, timeout=10).content == b"1" * 1000


@pytest.mark.usefixtures("_box_lan_is_here")
def test_other_services_keep_their_host(program: Program) -> None:
    """A queue's address, for one, is made of it."""
    port = program.url.rpartition(":")[2]
    sqs = boto3.client("sqs", endpoint_url=f"http://box.lan:{port}", **KEYS)
    assert sqs.create_queue(QueueName="q")["QueueUrl"].startswith(f"http://box.lan:{port}/")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:4566", True),
        ("http://localhost:4566", True),
        ("http://endpoint:4566", True),
        ("http://box.lan:4566", True),
        ("https://runtime.sagemaker.eu-west-1.amazonaws.com", False),
        ("https://sagemaker.cn-north-1.amazonaws.com.cn", False),
        ("https://vpce-1-x.api.sagemaker.eu-west-1.vpce.amazonaws.com", False),
    ],
)
def test_the_programs_know_a_local_endpoint_whatever_its_host(url: str, local: bool) -> None:
    assert is_local(url) is local
