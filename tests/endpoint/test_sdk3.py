"""The SageMaker Python SDK 3.x against the local endpoint, in an environment of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endpoint.clients import python_with, tell, with_time_to_fetch
from tests.endpoint.local import Local, behaving

SDK = "sagemaker==3.27.0"
STORY = Path(__file__).with_name("sdk3_story.py")


@pytest.mark.ci  # fetches 700 MB
@with_time_to_fetch
def test_a_multi_model_endpoint_deploys_predicts_is_updated_and_deleted(local: Local, tmp_path: Path) -> None:
    python = python_with(SDK, name=f"sdk3-venv-{SDK.rpartition('=')[2]}")
    for name, answer in (("one", "[[1, 2, 3, 4]]"), ("two", "[[2, 4, 6, 8]]")):
        archive = behaving(invoke_body=f'{{"predictions": {answer}}}')
        (tmp_path / f"{name}.tar.gz").write_bytes(archive)
    tell(local, [str(python), str(STORY)], "sdk3-story-bucket", tmp_path)
    assert local.is_gone("sdk3") and local.is_gone("sdk3-direct")
    assert not local.sagemaker.list_models()["Models"]
    assert not local.sagemaker.list_endpoint_configs()["EndpointConfigs"]
