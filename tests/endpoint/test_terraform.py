"""Terraform: a plan after an apply is empty. What its provider relies on is in test_descriptions.py, too."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.endpoint.clients import CACHE
from tests.endpoint.local import BUCKET, KEYS, ROLE, Local, behaving

FOLDER = Path(__file__).with_name("terraform")
CHANGED = 2
"""The exit code of ``plan -detailed-exitcode`` where something would be changed."""


def terraform(local: Local, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plugins = CACHE / "terraform-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        ["terraform", f"-chdir={folder}", *arguments, "-no-color"],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "AWS_ENDPOINT_URL": local.url,
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
            "AWS_DEFAULT_REGION": KEYS["region_name"],
            "TF_PLUGIN_CACHE_DIR": str(plugins),
            "TF_VAR_role": ROLE,
            "TF_VAR_bucket": BUCKET,
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def reason_of(failed: subprocess.CompletedProcess[str]) -> str:
    """What Terraform says after its first "Error:", on one line."""
    return " ".join(failed.stderr.partition("Error:")[2].split())[:400]


needs_terraform = pytest.mark.skipif(not shutil.which("terraform"), reason="needs terraform on the PATH")


@needs_terraform
@pytest.mark.ci  # fetches 150 MB, and the provider looks at endpoints every 30 s
@pytest.mark.timeout(900)
def test_a_plan_after_an_apply_is_empty_and_destroy_leaves_nothing(local: Local, tmp_path: Path) -> None:
    for name in ("one", "first", "second"):
        local.upload(f"models/{name}.tar.gz", behaving())
    folder = tmp_path / "terraform"
    shutil.copytree(FOLDER, folder)
    init = terraform(local, folder, "init")
    if init.returncode:
        pytest.skip(f"terraform init cannot get its provider: {reason_of(init)}")
    for changes in ((), ("-var=instances=2",)):  # made; then updated, with another configuration
        apply = terraform(local, folder, "apply", "-auto-approve", *changes)
        assert apply.returncode == 0, apply.stdout + apply.stderr
        plan = terraform(local, folder, "plan", "-detailed-exitcode", *changes)
        assert plan.returncode == 0, ("not empty\n" if plan.returncode == CHANGED else "") + plan.stdout + plan.stderr
    assert len(local.instances("terraform-many")) == 2
    assert local.invoke("one.tar.gz", endpoint="terraform-many")["environment"]["WHO"] == "many"
    assert local.invoke(endpoint="terraform-pipeline")["environment"]["WHO"] == "second"
    assert set(local.describe("terraform-variants")["ProductionVariants"][0]) >= {"CurrentWeight", "DesiredWeight"}
    destroy = terraform(local, folder, "destroy", "-auto-approve")
    assert destroy.returncode == 0, destroy.stdout + destroy.stderr
    assert not local.sagemaker.list_endpoints()["Endpoints"]
    assert not local.sagemaker.list_endpoint_configs()["EndpointConfigs"]
    assert not local.sagemaker.list_models()["Models"]


@needs_terraform
def test_the_configurations_are_terraforms_own_language_in_its_own_layout() -> None:
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-diff", str(FOLDER)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
