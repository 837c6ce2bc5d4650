"""A real container registry on loopback, for pushing to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import requests

from tests.harness.ports import free_port
from tests.harness.waiting import wait_until

PROGRAM = "docker-registry"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


def reason_without_registry() -> str | None:
    """Why no registry can be started, or None."""
    if shutil.which(PROGRAM) is None:
        return f"needs {PROGRAM} (Debian: apt-get install {PROGRAM})"
    return None


class Registry:
    """Debian's docker-registry on a free port, with a folder of its own that goes with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mt-registry-"))
        self.address = f"127.0.0.1:{free_port()}"
        self.log_file = self.folder / "registry.log"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        configuration = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}},
            "http": {"addr": self.address},
        }
        file = self.folder / "config.json"  # its YAML reader takes JSON
        file.write_text(json.dumps(configuration))
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", str(file)],
                env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._answers, "the registry answers", START_TIMEOUT_S)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{PROGRAM} ended with {self.process.returncode}\n{self.log_file.read_text()[-2000:]}")
        try:
            return self.get("/v2/").status_code == 200
        except requests.RequestException:
            return False

    def get(self, path: str) -> requests.Response:
        """A call to the registry's HTTP API; manifests come as Docker's second version has them."""
        accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
        return requests.get(f"http://{self.address}{path}", headers={"Accept": accept}, timeout=60)

    def head(self, path: str) -> requests.Response:
        """The same, without the body."""
        return requests.head(f"http://{self.address}{path}", timeout=60)
