"""Images made FROM ours: what is installed on top leaves MXNet and the server working, or the build says why not."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import models
from tests.harness.docker import BUILD_OPTIONS, DockerServer, Image, docker
from tests.harness.wheels import write_wheel

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1300)]


class Derived:
    """Builds images FROM ours, and removes them in the end."""

    def __init__(self, image: Image, folder: Path) -> None:
        self._image = image
        self._folder = folder
        self._tags: list[str] = []

    def build(self, *steps: str) -> subprocess.CompletedProcess[str]:
        """``docker build`` of ``steps`` on top of ours, with the folder as context."""
        (self._folder / "Dockerfile").write_text("\n".join([f"FROM {self._image.tag}", *steps, ""]))
        self._tags.append(f"demo-sagemaker-multimodel-derived:{uuid.uuid4().hex[:12]}")
        command = ["build", *BUILD_OPTIONS.split(), "--tag", self._tags[-1], str(self._folder)]
        return docker(*command, timeout_s=600, check=False)

    @property
    def image(self) -> Image:
        """The one that was built last."""
        return Image(docker("image", "inspect", "--format", "{{.Id}}", self._tags[-1]).stdout.strip(), self._tags[-1])

    def remove(self) -> None:
        for tag in self._tags:
            docker("rmi", tag, check=False)


@pytest.fixture
def derived(image: Image, tmp_path: Path) -> Iterator[Derived]:
    images = Derived(image, tmp_path)
    try:
        yield images
    finally:
        images.remove()


@pytest.mark.ci
def test_pandas_on_top_of_it_leaves_mxnet_and_the_server_working(derived: Derived) -> None:
    built = derived.build("RUN pip install --no-cache-dir pandas")
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-2000:]
    with DockerServer(derived.image) as server:
        versions = "import numpy, pandas, mxnet; print(numpy.__version__, mxnet.nd.ones(2).asnumpy().sum())"
        kept = server.execute("grep", "^numpy==", "/opt/venv/constraints.txt").strip().removeprefix("numpy==")
        assert server.execute("python", "-W", "ignore", "-c", versions) == f"{kept} 2.0\n"
        models.multiplier(server.model_dir("double"), factor=2)
        assert server.load("double").status_code == 200, server.log_tail()
        assert server.invoke("double", "[[1, 2, 3, 4]]").json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}


@pytest.mark.parametrize("environment", ["", "PIP_CONSTRAINT= "], ids=["kept", "asked-for"])
def test_a_package_that_wants_another_numpy_ends_the_build_unless_that_is_asked_for(
    derived: Derived, tmp_path: Path, environment: str
) -> None:
    # no index is asked: the packages are wheels of nothing
    write_wheel(tmp_path / "wheels", "wants_old_numpy", "", requires="numpy<2")
    write_wheel(tmp_path / "wheels", "numpy", "", version="1.26.4")
    install = f"{environment}pip install --no-index --find-links /wheels wants_old_numpy"
    built = derived.build("COPY wheels /wheels", f"RUN {install}")
    if environment:
        assert built.returncode == 0, built.stdout[-3000:]
    else:
        assert built.returncode != 0
        assert "The user requested (constraint) numpy==" in built.stdout + built.stderr
