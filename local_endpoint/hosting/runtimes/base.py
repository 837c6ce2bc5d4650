"""What a runtime must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class LaunchSpec:
    """One container to be started. ``base_dir`` (on this machine) is /opt/ml of the contract.

    ``of_containers`` is how many the instance has, this one being the ``number``-th: they share its memory, and where
    there are several, each is told a port of its own to listen on.
    """

    name: str
    image: str
    environment: Mapping[str, str]
    base_dir: Path
    multi_model: bool
    instance_type: str
    hostname: str | None = None
    number: int = 1
    of_containers: int = 1
    output: Callable[[bytes], None] = lambda _: None
    """Called with all that the container writes, piece by piece, from one thread. It must not wait."""


@dataclass(frozen=True)
class Usage:
    """What a container takes at one moment. ``cpu_s`` is the processors' time that it has taken so far."""

    cpu_s: float
    memory_bytes: int


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

    def usage(self) -> Usage | None:
        """None where it has ended."""


class Runtime(Protocol):
    """Starts containers."""

    def require(self) -> None:
        """Raises ``StartFailure`` if no container can be run at all. Called once, before anything else."""

    def check(self, image: str, multi_model: bool, beside_others: bool = False) -> None:
        """Raises ``StartFailure``, in AWS's words, if the image is missing or lacks the label that it needs.

        One needs a label to serve several models, and one to run ``beside_others`` on an instance.
        """

    def check_environment(self, environment: Mapping[str, str]) -> None:
        """Raises ``StartFailure`` if a container may not be given these variables."""

    def start(self, spec: LaunchSpec) -> RunningContainer:
        """Raises ``StartFailure``. The container does not answer yet when this returns."""
