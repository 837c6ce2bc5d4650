"""What happens in the data plane, told to whoever wants to know (metrics, a status page).

Emitters know only ``Events.emit``. A listener must be quick and is called in the emitting thread; one that raises is
logged and the request goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Where:
    """The place in which something happened."""

    region: str
    endpoint: str
    variant: str
    instance: str | None
    """None of an invocation that found none."""
    container: str | None = None
    """The hostname, where an instance has several containers; None of an invocation that went through all of them."""


@dataclass(frozen=True)
class ModelDownloaded:
    where: Where
    target: str
    duration_s: float
    size_bytes: int


@dataclass(frozen=True)
class ModelLoaded:
    where: Where
    target: str
    duration_s: float


@dataclass(frozen=True)
class ModelUnloaded:
    where: Where
    target: str
    duration_s: float


@dataclass(frozen=True)
class ContainerCall:
    """One request that a container was sent."""

    container: str | None
    """Its hostname, where the instance has several containers."""
    status: int | None
    """What it answered; None where it did not."""
    latency_s: float


@dataclass(frozen=True)
class Invoked:
    """One finished invocation, also one that found no instance.

    ``status`` is the client's; ``waited_s`` is what it spent on download and load.
    """

    where: Where
    target: str | None
    status: int
    cache_hit: bool
    waited_s: float
    model_latency_s: float
    """Of all containers together."""
    overhead_s: float
    calls: tuple[ContainerCall, ...] = ()
    """Every answer of a container, or its failure, in order; several where the instance is a chain."""
    instances: int = 1
    """How many the variant is to have."""

    @property
    def model_status(self) -> int | None:
        """What the container answered that was asked last; None where it did not, or none was asked."""
        return self.calls[-1].status if self.calls else None


Event = ModelDownloaded | ModelLoaded | ModelUnloaded | Invoked


class Events:
    """A list of listeners."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], None]] = []

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        self._listeners.append(listener)

    def emit(self, event: Event) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:
                logger.exception("a listener failed on %s", event)
