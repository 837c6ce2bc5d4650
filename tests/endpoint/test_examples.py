"""Every example tells its story to the end. It checks its answers, and ends with 1 where one is not the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endpoint.test_sdk2 import sdk_python  # noqa: F401 (a fixture)
from tests.harness.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/run"))
pytestmark = [pytest.mark.ci, pytest.mark.timeout(300)]  # each trains, or fetches


def tell(name: str, *arguments: str) -> str:
    """Runs it as its ``run`` does behind ./scripts/setup. Returns what it printed."""
    command = [sys.executable, "-P", "-m", f"examples.{name}.story", "--port", str(free_port()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Cleaned up" in done.stdout and "Traceback" not in done.stderr
    return done.stdout


def test_ten_house_price_models_and_an_update() -> None:
    said = tell("housing")
    assert len(re.findall(r"USD   first call", said)) == 10


def test_house_prices_by_training_jobs_of_sagemakers_xgboost(sdk_python: Path) -> None:  # noqa: F811
    said = tell("housing", "--with-training", "--sdk-python", str(sdk_python))
    assert len(re.findall(r"fit: \w+: \d+ rounds, validation:rmse [\d,]+, s3://\S+/output/model.tar.gz", said)) == 3
    assert len(re.findall(r"predict: \w+: wrong by [\d.]+ % on 100 houses", said)) == 3
    assert "  add_model, list_models: ['house.tar.gz']\n" in said  # MultiDataModel, in with_sdk.py
    by_boto3 = re.findall(r"^  NewYork_NY +([\d,]+) USD   first call", said, re.MULTILINE)
    assert re.findall(r"predict: ([\d,]+) USD, (?:first|second) call \d+ ms", said) == by_boto3 * 2 != []


def test_regressors_in_the_layout_of_djl_are_invoked_at_random() -> None:
    assert "all right" in tell("thousand_regressors", "--models", "30", "--calls", "60")


def test_two_frameworks_in_two_containers_of_one_endpoint() -> None:
    said = tell("two_containers")
    assert len(re.findall(r"^  \d .*class=.*class=", said, re.MULTILINE)) == 10
    assert "is missing a target container hostname header" in said and "Container onnx not found" in said
    assert "  xgboost: answered, 10 scores" in said
    assert re.search(
        r"^  mxnet: AccessDeniedException: User: \S+user/of-the-trees is not authorized", said, re.MULTILINE
    )
    assert (
        len(re.findall(r"^VariantName AllTraffic, ContainerName (mxnet|xgboost)$|^ContainerName", said, re.MULTILINE))
        == 2
    )


def test_a_script_and_a_classifier_as_a_pipeline() -> None:
    said = tell("pipeline")
    assert len(re.findall(r"^  \d      \d +\d", said, re.MULTILINE)) == 10
    assert re.search(r"Received (client|server) error \(\d+\) from pixels ", said)


def test_scripts_with_their_own_versions_of_a_package() -> None:
    said = tell("my_inference_script")
    for version in ("4.9.0", "4.12.3"):
        assert said.count(f'"humanize": "{version}"') == 2


def test_one_network_in_two_or_three_frameworks(tmp_path: Path) -> None:
    said = tell("pictures", "--cache", str(tmp_path))
    assert len(re.findall(r"^  \d      .*class=", said, re.MULTILINE)) == 10


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_listed_and_explains_itself(name: str) -> None:
    assert f"`./examples/{name}/run`" in (ROOT / "examples" / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-P", "-m", f"examples.{name}.story", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and f"usage: ./examples/{name}/run" in done.stdout
    assert os.access(ROOT / "examples" / name / "run", os.X_OK)
