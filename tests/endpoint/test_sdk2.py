"""The SageMaker Python SDK 2.x (its ``MultiDataModel``) against the local endpoint, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.endpoint.local import KEYS, ROLE, Local, behaving
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".venv-uv" / "bin" / "uv"
SDK = "sagemaker==2.257.7"
ENVIRONMENT = ROOT / ".cache" / f"sdk2-venv-{SDK.rpartition('=')[2]}"
pytestmark = pytest.mark.ci  # it fetches an environment of its own
STORY = Path(__file__).with_name("sdk2_story.py")
PIPELINE = Path(__file__).with_name("sdk2_pipeline.py")


@pytest.fixture(scope="module")
def sdk_python() -> Path:
    """Python with the SDK. Made once and kept; the test is skipped where it cannot be fetched."""
    python = ENVIRONMENT / "bin" / "python"
    complete = ENVIRONMENT / "complete"
    if complete.exists():
        return python
    if not UV.exists():
        pytest.skip("needs .venv-uv, which ./scripts/setup makes")
    for arguments in (
        ["venv", "--quiet", "--clear", "--python", "3.11", str(ENVIRONMENT)],
        ["pip", "install", "--quiet", "--python", str(python), SDK],
    ):
        done = subprocess.run([UV, "--no-config", *arguments], capture_output=True, text=True, timeout=170)
        if done.returncode:
            pytest.skip(f"needs {SDK} from the Python package index: {done.stderr.strip()[-300:]}")
    complete.touch()
    return python


def tell(local: Local, sdk_python: Path, story: Path, tmp_path: Path) -> str:
    """Runs a story of the SDK with the archives in ``tmp_path``; returns what it printed."""
    done = subprocess.run(
        [str(sdk_python), str(story), ROLE, f"{story.stem.replace('_', '-')}-bucket", str(tmp_path)],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTHON"))},
            "AWS_ENDPOINT_URL": local.url,
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": KEYS["region_name"],
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the story is told" in done.stdout
    return done.stdout


def test_multi_data_model_deploys_adds_lists_predicts_and_deletes(
    local: Local, sdk_python: Path, tmp_path: Path
) -> None:
    for name, answer in (("one", "[[1, 2, 3, 4]]"), ("two", "[[2, 4, 6, 8]]")):
        archive = behaving(invoke_body=f'{{"predictions": {answer}}}')
        (tmp_path / f"{name}.tar.gz").write_bytes(archive)
    assert ": the container speaks" in tell(local, sdk_python, STORY, tmp_path)  # its log, live
    wait_until(lambda: local.is_gone("sdk-endpoint"), "the endpoint is not gone")
    assert not local.sagemaker.list_models()["Models"]
    assert not local.sagemaker.list_endpoint_configs()["EndpointConfigs"]


def test_a_pipeline_model_deploys_predicts_and_is_deleted(local: Local, sdk_python: Path, tmp_path: Path) -> None:
    first = behaving(invoke_body="made by the first", invoke_type="text/plain")
    for name, archive in (("first", first), ("second", behaving())):
        (tmp_path / f"{name}.tar.gz").write_bytes(archive)
    tell(local, sdk_python, PIPELINE, tmp_path)
    wait_until(lambda: local.is_gone("sdk-pipeline"), "the endpoint is not gone")
    assert not local.sagemaker.list_models()["Models"]
