"""Endpoints that fail to come up, and what is left at the end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.endpoint.local import PREFIX, Local, behaving, pack


@pytest.mark.parametrize(
    ("name", "model", "reason"),
    [
        (
            "no-ping",
            {"Environment": {"FAKE_PING_STATUS": "500"}},
            "The primary container for production variant AllTraffic did not pass the ping health check.",
        ),
        (
            "no-models",
            {"Environment": {"FAKE_MODELS_STATUS": "404"}},
            "The primary container for production variant AllTraffic did not pass the ping health check.",
        ),
        ("exits", {"Environment": {"FAKE_EXIT": "3"}}, "it ended with status 3"),
        (
            "no-bucket",
            {"url": "s3://there-is-no-such-bucket/models/"},
            'Failed to download model data for container "container_1" from URL: "s3://there-is-no-such-bucket/models/"',
        ),
    ],
)
def test_an_endpoint_that_cannot_come_up_fails_with_the_reason(name: str, model: dict[str, Any], reason: str) -> None:
    waits_to_the_end = name in ("no-ping", "no-models")
    with Local(startup_timeout_s=2 if waits_to_the_end else 60) as local:
        description = local.deploy(name, wanted="Failed", **model)
        assert reason in description["FailureReason"]
        assert local.app.work_dir is not None
        assert not any(local.app.work_dir.glob("i-*"))
        local.delete(name)


def test_an_archive_that_has_gone_since_the_model_was_created_is_named() -> None:
    url = PREFIX + "missing.tar.gz"
    with Local(startup_timeout_s=2) as local:
        local.upload("models/missing.tar.gz", pack({"text": "the only one"}))
        local.create_model("gone", url=url, multi=False)
        local.s3.delete_object(Bucket="test-models", Key="models/missing.tar.gz")
        local.create_config("gone", "gone")
        local.sagemaker.create_endpoint(EndpointName="gone", EndpointConfigName="gone")
        reason = local.wait("gone", "Failed")["FailureReason"]
    assert f'Failed to download model data for container "container_1" from URL: "{url}". Please ensure that' in reason


def test_the_start_up_time_of_a_variant_wins_over_the_default() -> None:
    with Local(startup_timeout_s=0.5) as local:
        local.deploy(variant={"ContainerStartupHealthCheckTimeoutInSeconds": 60}, Environment={"FAKE_START_S": "1.5"})


def test_the_download_time_of_a_variant_wins_over_the_default() -> None:
    with Local(load_timeout_s=0) as local:
        local.upload("models/only.tar.gz", pack({"text": "the only one"}))
        only: dict[str, Any] = {"url": PREFIX + "only.tar.gz", "multi": False}
        description = local.deploy("default", wanted="Failed", **only)
        assert "was not downloaded and unpacked in time" in description["FailureReason"]
        local.deploy(variant={"ModelDataDownloadTimeoutInSeconds": 60}, **only)
        assert local.invoke()["text"] == "the only one"


def test_without_a_state_folder_everything_is_gone_at_the_end() -> None:
    with Local() as local:
        local.upload("models/m.tar.gz", behaving())
        local.deploy()
        folder = local.folder(local.instances()[0]).parent
        assert folder.is_dir()
    assert not folder.exists()
    with Local() as local:
        assert local.s3.list_objects_v2(Bucket="test-models")["KeyCount"] == 0
        assert local.is_gone("endpoint")
