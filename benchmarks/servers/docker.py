"""Our image in a container: the same server with the image's Python, Java and user. Needs a Docker engine."""

from __future__ import annotations

import contextlib
import os
import subprocess

import psutil

from benchmarks.failure import BenchmarkError
from benchmarks.servers.base import Server

IMAGE = "demo-sagemaker-multimodel:latest"  # what build_and_push.sh --build-only makes


class DockerServer(Server):
    """``docker run IMAGE serve`` on the host's network, with the models' folder mounted."""

    name = "docker"

    def command(self) -> list[str]:
        if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode != 0:
            raise BenchmarkError(f"no image {IMAGE}: ./build_and_push.sh --build-only makes it.")
        settings = {
            "SAGEMAKER_MULTI_MODEL": "true",
            "SAGEMAKER_BIND_TO_PORT": str(self.port),
            "MME_HOST": "127.0.0.1",
            **{name: value for name, value in os.environ.items() if name.startswith("MME_")},
        }
        environment = [part for name, value in settings.items() for part in ("--env", f"{name}={value}")]
        mount = ["--volume", f"{self.base_dir}:/opt/ml:ro"]
        return ["docker", "run", "--rm", "--name", self._container, "--network", "host", *mount, *environment, IMAGE]

    @property
    def _container(self) -> str:
        return f"mme-benchmark-{self.program.mark[:12]}"

    def stop(self) -> None:
        """Ends the container, then as any server."""
        with contextlib.suppress(OSError):
            subprocess.run(["docker", "rm", "--force", self._container], capture_output=True)
        super().stop()

    def model_url(self, name: str) -> str:
        return f"/opt/ml/models/{name}/model"

    def root_process(self) -> psutil.Process:
        """The container's first process, as this machine sees it."""
        found = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.Pid}}", self._container], capture_output=True, text=True
        )
        if found.returncode != 0 or not psutil.pid_exists(int(found.stdout)):
            raise BenchmarkError("the container's processes are not on this machine: memory cannot be measured.")
        return psutil.Process(int(found.stdout))
