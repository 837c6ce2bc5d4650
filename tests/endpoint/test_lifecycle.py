"""Endpoints that fail to come up, and what outlives a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_endpoint.state import StateFolder, StateInUse
from tests.endpoint.local import PREFIX, Local, behaving, pack


@pytest.mark.parametrize(
    ("name", "model", "reason"),
    [
        (
            "no-ping",
            {"Environment": {"STAND_IN_PING_STATUS": "500"}},
            "The primary container for production variant AllTraffic did not pass the ping health check.",
        ),
        (
            "no-models",
            {"Environment": {"STAND_IN_MODELS_STATUS": "404"}},
            "The primary container for production variant AllTraffic did not pass the ping health check.",
        ),
        ("exits", {"Environment": {"STAND_IN_EXIT": "3"}}, "it ended with status 3"),
        (
            "no-bucket",
            {"url": "s3://there-is-no-such-bucket/models/"},
            'Failed to download model data for container "container_1" from URL: "s3://there-is-no-such-bucket/models/"',
        ),
        (
            "no-archive",
            {"url": PREFIX + "missing.tar.gz", "multi": False},
            f'Failed to download model data for container "container_1" from URL: "{PREFIX}missing.tar.gz". '
            "Please ensure that there is an object located at the URL",
        ),
    ],
)
def test_an_endpoint_that_cannot_come_up_fails_with_the_reason(name: str, model: dict[str, Any], reason: str) -> None:
    with Local(startup_timeout_s=2) as local:
        description = local.deploy(name, wanted="Failed", **model)
        assert reason in description["FailureReason"]
        assert local.app.work_dir is not None
        assert not any(local.app.work_dir.glob("i-*"))
        local.delete(name)


def test_the_start_up_time_of_a_variant_wins_over_the_default() -> None:
    with Local(startup_timeout_s=0.5) as local:
        local.deploy(
            variant={"ContainerStartupHealthCheckTimeoutInSeconds": 60}, Environment={"STAND_IN_START_S": "1.5"}
        )


def test_state_outlives_a_restart_and_one_endpoint_uses_it_at_a_time(tmp_path: Path) -> None:
    big = bytes(range(256)) * 20_000
    with Local(state_dir=tmp_path) as local:
        local.upload("models/m.tar.gz", pack({"text": "kept"}))
        local.upload("models/gone.tar.gz", b"x")
        local.s3.delete_object(Bucket="test-models", Key="models/gone.tar.gz")
        local.s3.put_object(Bucket="test-models", Key="odd key/ü+%", Body=big, Metadata={"who_are": "you"})
        etag = local.s3.head_object(Bucket="test-models", Key="odd key/ü+%")["ETag"]
        local.s3.create_bucket(Bucket="deleted-bucket")
        local.s3.delete_bucket(Bucket="deleted-bucket")
        local.deploy()
        assert local.invoke("m.tar.gz")["text"] == "kept"
        local.deploy("deleted")
        local.delete("deleted")
        with pytest.raises(StateInUse, match="used by another local endpoint"):
            StateFolder(tmp_path)
    with Local(state_dir=tmp_path) as local:
        assert [each["Name"] for each in local.s3.list_buckets()["Buckets"]] == ["test-models"]
        keys = [each["Key"] for each in local.s3.list_objects_v2(Bucket="test-models")["Contents"]]
        assert keys == ["models/m.tar.gz", "odd key/ü+%"]
        kept = local.s3.get_object(Bucket="test-models", Key="odd key/ü+%")
        assert kept["Body"].read() == big
        assert (kept["ETag"], kept["Metadata"]) == (etag, {"who_are": "you"})
        local.wait("endpoint", "InService")
        assert local.invoke("m.tar.gz")["text"] == "kept"
        assert local.is_gone("deleted")
        local.upload("models/new.tar.gz", behaving())
    with Local(state_dir=tmp_path) as local:
        assert len(local.s3.list_objects_v2(Bucket="test-models")["Contents"]) == 3


def test_without_a_state_folder_everything_is_gone_at_the_end() -> None:
    with Local() as local:
        local.upload("models/m.tar.gz", behaving())
        local.deploy()
        folder = Path(local.instances()[0].container.base_dir).parent
        assert folder.is_dir()
    assert not folder.exists()
    with Local() as local:
        assert local.s3.list_objects_v2(Bucket="test-models")["KeyCount"] == 0
        assert local.is_gone("endpoint")
