"""The AWS SDK for JavaScript v3 against the local endpoint, with packages of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endpoint.clients import node_modules, tell, with_time_to_fetch
from tests.endpoint.local import Local, behaving
from tests.harness.waiting import wait_until

STORY = Path(__file__).with_name("javascript") / "story.cjs"


@pytest.mark.ci  # fetches packages
@with_time_to_fetch
def test_a_multi_model_endpoint_is_made_invoked_refused_and_deleted(local: Local, tmp_path: Path) -> None:
    packages = node_modules(STORY.with_name("package-lock.json"), "javascript-sdk")
    (tmp_path / "one.tar.gz").write_bytes(behaving(invoke_body='{"predictions": [[1, 2, 3, 4]]}'))
    tell(local, ["node", str(STORY)], "javascript-bucket", tmp_path, NODE_PATH=str(packages))
    wait_until(lambda: local.is_gone("javascript"), "the endpoint is not gone")
    wait_until(lambda: local.is_gone("javascript-direct"), "the endpoint of two containers is not gone")
    assert "javascript-bucket" not in [bucket["Name"] for bucket in local.s3.list_buckets()["Buckets"]]
