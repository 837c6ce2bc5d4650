"""A disk that takes no more: said where it is met, nothing half-written stays, and everything else goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.local import Local, pack
from tests.endpoint.program import Program

# Files may have 1 MiB (blocks of 512 bytes), as if the disk were full then.
LIMITED = ("sh", "-c", 'ulimit -f 2048; exec "$@"', "sh")
MIB = 1024 * 1024


@contextlib.contextmanager
def _full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Iterator[tuple[Program, Path, Any]]:
    """The program where files may have 1 MiB, its temporary folder, and a client of its S3, which has a bucket."""
    with tempfile.TemporaryDirectory(prefix="full-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        program = Program(tmp_path, *arguments, before=LIMITED)
        try:
            s3 = program.client("s3")
            s3.create_bucket(Bucket="bucket")
            yield program, Path(folder), s3
        finally:
            program.kill()


def test_an_upload_that_does_not_fit_is_refused_with_the_reason_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _full(tmp_path, monkeypatch) as (program, folder, s3):
        s3.put_object(Bucket="bucket", Key="large", Body=b"small as yet")
        with pytest.raises(ClientError, match=r"cannot be stored in .*File too large\. Nothing of it was kept") as full:
            s3.put_object(Bucket="bucket", Key="large", Body=bytes(5 * MIB))
        assert full.value.response["Error"]["Code"] == "InsufficientStorage"
        assert full.value.response["ResponseMetadata"]["HTTPStatusCode"] == 507
        assert s3.get_object(Bucket="bucket", Key="large")["Body"].read() == b"small as yet"
        assert list(folder.glob("local-endpoint-*/objects/*")) == []
        s3.put_object(Bucket="bucket", Key="fits", Body=bytes(MIB // 2))
        assert s3.get_object(Bucket="bucket", Key="fits")["ContentLength"] == MIB // 2
        assert "Traceback" not in program.log.read_text()


def test_an_upload_in_parts_that_does_not_fit_is_refused_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part is too large by itself; nothing is joined of those that are not there."""
    with _full(tmp_path, monkeypatch) as (program, folder, s3):
        upload = {"Bucket": "bucket", "Key": "large"}
        number = s3.create_multipart_upload(**upload)["UploadId"]
        with pytest.raises(ClientError, match=r"File too large\. Nothing of it was kept") as full:
            s3.upload_part(**upload, UploadId=number, PartNumber=1, Body=bytes(5 * MIB))
        assert full.value.response["ResponseMetadata"]["HTTPStatusCode"] == 507
        assert list(folder.glob("local-endpoint-*/objects/*")) == []
        s3.abort_multipart_upload(**upload, UploadId=number)
        assert "Contents" not in s3.list_objects_v2(Bucket="bucket")
        s3.put_object(**upload, Body=bytes(MIB // 2))
        assert "Traceback" not in program.log.read_text()


def test_an_object_that_does_not_fit_into_the_state_folder_is_refused_and_is_not_there_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    with _full(tmp_path, monkeypatch, "--state", str(state)) as (program, _, s3):
        s3.put_object(Bucket="bucket", Key="small", Body=bytes(MIB // 2))
        with pytest.raises(ClientError, match="Nothing of it was kept"):
            s3.put_object(Bucket="bucket", Key="large", Body=bytes(5 * MIB))
        program.kill()
        again = Program(tmp_path, "--state", str(state))
        try:
            listed = again.client("s3").list_objects_v2(Bucket="bucket")["Contents"]
            assert [(each["Key"], each["Size"]) for each in listed] == [("small", MIB // 2)]
        finally:
            again.kill()


@contextlib.contextmanager
def _files_may_have(limit_bytes: int) -> Iterator[None]:
    """In this process and those that it starts meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "content", [pytest.param(os.urandom(3 * MIB), id="download"), pytest.param(bytes(3 * MIB), id="unpack")]
)
def test_a_model_that_the_disk_takes_no_more_of_is_refused_with_the_folder(
    content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with Local() as local:
        local.upload("models/large.tar.gz", pack({"weights": content}))
        local.upload("models/small.tar.gz", pack({"weights": b"1"}))
        local.deploy()
        with _files_may_have(MIB):
            refused = _refused(local, "large.tar.gz")
            assert refused["Error"]["Code"] == "InsufficientStorage"
            assert refused["ResponseMetadata"]["HTTPStatusCode"] == 507
            folder = local.folder(local.instances()[0]) / "container-1" / "downloads"
            assert f"the disk is full (File too large) in {folder}. Free space there" in refused["Error"]["Message"]
            assert list(folder.iterdir()) == []
            local.invoke("small.tar.gz")
        local.invoke("large.tar.gz")  # there is space again
    assert not [each for each in caplog.records if each.exc_info]


def test_a_single_model_that_the_disk_takes_no_more_of_fails_the_endpoint_with_the_folder() -> None:
    with Local() as local:
        local.upload("large.tar.gz", pack({"weights": bytes(3 * MIB)}))
        with _files_may_have(MIB):
            described = local.deploy(url="s3://test-models/large.tar.gz", multi=False, wanted="Failed")
    assert "the disk is full (File too large) in " in described["FailureReason"]


def _refused(local: Local, target: str) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        local.invoke(target)
    return dict(caught.value.response)
