"""The SageMaker Python SDK 2.x (its ``MultiDataModel``) against the local endpoint, in an environment of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endpoint.clients import python_with, tell, with_time_to_fetch
from tests.endpoint.local import Local, behaving
from tests.harness.waiting import wait_until

pytestmark = [pytest.mark.ci, with_time_to_fetch]  # it fetches an environment of its own

SDK = "sagemaker==2.257.7"
STORY = Path(__file__).with_name("sdk2_story.py")
PIPELINE = Path(__file__).with_name("sdk2_pipeline.py")


@pytest.fixture(scope="module")
def sdk_python() -> Path:
    """Python with the SDK."""
    return python_with(SDK, name=f"sdk2-venv-{SDK.rpartition('=')[2]}")


def test_multi_data_model_deploys_adds_lists_predicts_scales_and_deletes(
    local: Local, sdk_python: Path, tmp_path: Path
) -> None:
    for name, answer in (("one", "[[1, 2, 3, 4]]"), ("two", "[[2, 4, 6, 8]]")):
        archive = behaving(invoke_body=f'{{"predictions": {answer}}}')
        (tmp_path / f"{name}.tar.gz").write_bytes(archive)
    told = tell(local, [str(sdk_python), str(STORY)], "sdk2-story-bucket", tmp_path)
    assert ": the container speaks" in told  # its log, live
    wait_until(lambda: local.is_gone("sdk-endpoint"), "the endpoint is not gone")
    assert not local.sagemaker.list_models()["Models"]
    assert not local.sagemaker.list_endpoint_configs()["EndpointConfigs"]


def test_a_pipeline_model_deploys_predicts_and_is_deleted(local: Local, sdk_python: Path, tmp_path: Path) -> None:
    first = behaving(invoke_body="made by the first", invoke_type="text/plain")
    for name, archive in (("first", first), ("second", behaving())):
        (tmp_path / f"{name}.tar.gz").write_bytes(archive)
    tell(local, [str(sdk_python), str(PIPELINE)], "sdk2-pipeline-bucket", tmp_path)
    wait_until(lambda: local.is_gone("sdk-pipeline"), "the endpoint is not gone")
    assert not local.sagemaker.list_models()["Models"]
