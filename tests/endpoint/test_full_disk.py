"""A disk that takes no more: said where it is met, nothing half-written stays, and everything else goes on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.program import Program

# Files may have 1 MiB (blocks of 512 bytes), as if the disk were full then.
LIMITED = ("sh", "-c", 'ulimit -f 2048; exec "$@"', "sh")
MIB = 1024 * 1024


def test_an_upload_that_does_not_fit_is_refused_with_the_reason_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="full-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        program = Program(tmp_path, before=LIMITED)
        try:
            s3 = program.client("s3")
            s3.create_bucket(Bucket="bucket")
            s3.put_object(Bucket="bucket", Key="large", Body=b"small as yet")
            with pytest.raises(
                ClientError, match=r"cannot be stored in .*File too large\. Nothing of it was kept"
            ) as full:
                s3.put_object(Bucket="bucket", Key="large", Body=bytes(5 * MIB))
            assert full.value.response["Error"]["Code"] == "InsufficientStorage"
            assert full.value.response["ResponseMetadata"]["HTTPStatusCode"] == 507
            assert s3.get_object(Bucket="bucket", Key="large")["Body"].read() == b"small as yet"
            assert list(Path(folder).glob("local-endpoint-*/objects/*")) == []
            s3.put_object(Bucket="bucket", Key="fits", Body=bytes(MIB // 2))
            assert s3.get_object(Bucket="bucket", Key="fits")["ContentLength"] == MIB // 2
            assert "Traceback" not in program.log.read_text()
        finally:
            program.kill()
