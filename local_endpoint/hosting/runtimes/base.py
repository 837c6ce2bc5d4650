"""What a runtime must be able to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class LaunchSpec:
    """One container to be started. ``base_dir`` (on this machine) is /opt/ml of the contract."""

    name: str
    image: str
    environment: Mapping[str, str]
    base_dir: Path
    multi_model: bool
    instance_type: str


class RunningContainer(Protocol):
    """One running container."""

    host: str
    port: int
    base_dir: str
    """The base folder as the container sees it."""

    def exit_reason(self) -> str | None:
        """Why it ended; None while it runs."""

    def wait(self) -> None:
        """Returns when it has ended."""

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL after ``timeout_s``; returns when nothing of it is left."""

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that it wrote."""


class Runtime(Protocol):
    """Starts containers."""

    def require(self) -> None:
        """Raises ``StartFailure`` if no container can be run at all. Called once, before anything else."""

    def check(self, image: str, multi_model: bool) -> None:
        """Raises ``StartFailure``, in AWS's words, if the image is missing or may not serve so many models."""

    def check_environment(self, environment: Mapping[str, str]) -> None:
        """Raises ``StartFailure`` if a container may not be given these variables."""

    def start(self, spec: LaunchSpec) -> RunningContainer:
        """Raises ``StartFailure``. The container does not answer yet when this returns."""
