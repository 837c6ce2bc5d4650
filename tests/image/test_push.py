"""build_and_push.sh with the real Docker and a real registry on loopback."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.docker import BUILD_AND_PUSH, BUILD_OPTIONS, BUILD_TIMEOUT_S, TEST_IMAGE, Image, docker
from tests.harness.ports import free_port
from tests.harness.registry import Registry, reason_without_registry

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1300)]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A running, empty registry."""
    reason = reason_without_registry()
    if reason:
        pytest.skip(reason)
    with Registry() as running:
        yield running


def build_and_push(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the script as a user with Docker and without any AWS credentials does."""
    return subprocess.run(
        [str(BUILD_AND_PUSH), *arguments],
        env={**os.environ, "DOCKER_BUILD_OPTIONS": BUILD_OPTIONS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.ci
def test_the_pushed_image_is_in_the_registry_and_comes_back_the_same(
    image: Image, registry: Registry, tmp_path: Path
) -> None:
    tag = f"t{uuid.uuid4().hex[:8]}"
    expected = f"{registry.address}/{TEST_IMAGE}:{tag}"
    try:
        pushed = build_and_push("--registry", registry.address, "--tag", tag, TEST_IMAGE, cwd=tmp_path)
        assert pushed.returncode == 0, pushed.stderr[-3000:]
        assert pushed.stdout == f"{expected}\n"

        built = docker("image", "inspect", "--format", "{{.Id}}", f"{TEST_IMAGE}:{tag}").stdout.strip()
        assert registry.get(f"/v2/{TEST_IMAGE}/tags/list").json()["tags"] == [tag]
        manifest = registry.get(f"/v2/{TEST_IMAGE}/manifests/{tag}").json()
        # a plain image, no index: SageMaker takes nothing else
        assert manifest["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
        assert manifest["config"]["digest"] == built
        for part in (manifest["config"], *manifest["layers"]):
            stored = registry.head(f"/v2/{TEST_IMAGE}/blobs/{part['digest']}")
            assert stored.status_code == 200
            assert int(stored.headers["Content-Length"]) == part["size"]
        labels = registry.get(f"/v2/{TEST_IMAGE}/blobs/{built}").json()["config"]["Labels"]
        assert labels["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"

        docker("rmi", expected)
        docker("pull", expected, timeout_s=300)
        assert docker("image", "inspect", "--format", "{{.Id}}", expected).stdout.strip() == built
        assert Image(built, expected).run("echo", "hi").stdout == "hi\n"
    finally:
        for name in (expected, f"{TEST_IMAGE}:{tag}"):
            docker("rmi", name, check=False)


def test_a_registry_that_does_not_answer_fails_the_push_with_a_clear_line(image: Image, tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    try:
        failed = build_and_push("--registry", nowhere, TEST_IMAGE, cwd=tmp_path)
        assert failed.returncode == 1
        assert failed.stdout == ""
        last_line = failed.stderr.splitlines()[-1]
        assert last_line == f"build_and_push: failed: docker push {nowhere}/{TEST_IMAGE}:latest"
    finally:
        docker("rmi", f"{nowhere}/{TEST_IMAGE}:latest", check=False)
