"""One instance of a production variant: a host with a disk and its containers.

Lifetime   start (all containers, side by side), serve, stop. It dies as a whole with the first of them that ends.
State      the fleet's: see ``InstanceState``
Ended by   the fleet
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

from local_endpoint.errors import PingFailure
from local_endpoint.hosting.container import Container
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.definitions import VariantDefinition

logger = logging.getLogger(__name__)


class Instance:
    """``start`` → serve → ``stop``. ``on_death`` is called once, from a thread of its own, if a container ends."""

    def __init__(
        self, definition: VariantDefinition, context: HostingContext, on_death: Callable[[Instance], None]
    ) -> None:
        self.id = "i-" + secrets.token_hex(8)
        self.in_flight = 0  # protected by the fleet's lock
        self.death_reason: str | None = None
        self._dir = context.work_dir / self.id
        self._on_death = on_death
        self._ended = threading.Event()
        self._death_lock = threading.Lock()
        self._stop_lock = threading.Lock()
        self.containers = [
            Container(
                each, definition, self.id, number, self._dir / f"container-{number}", context, self._on_container_end
            )
            for number, each in enumerate(definition.containers, 1)
        ]

    def start(self) -> None:
        """Brings all containers up and returns when they are healthy.

        Raises ``StartFailure``: at once for what no other container can mend, and as a ``PingFailure`` of all that did
        not pass the health check.
        """
        with ThreadPoolExecutor(max(1, len(self.containers)), thread_name_prefix=f"start-{self.id}") as starters:
            starts = [starters.submit(container.start) for container in self.containers]
            for start in as_completed(starts):
                failure = start.exception()
                if failure is not None and not isinstance(failure, PingFailure):
                    self._stop_containers()  # so that those that still start do not keep us
                    raise failure
        pings = [failure for start in starts if isinstance(failure := start.exception(), PingFailure)]
        if pings:
            raise PingFailure(pings[0].variant, {name: why for each in pings for name, why in each.details.items()})

    def is_alive(self) -> bool:
        """Asked for every request, so only what the watchers know."""
        return not self._ended.is_set()

    def _on_container_end(self, reason: str) -> None:
        with self._death_lock:
            is_first = not self._ended.is_set()
            self._ended.set()
        if is_first:
            self.death_reason = reason
            logger.warning("instance %s died: %s", self.id, reason)
            self._on_death(self)

    def stop(self) -> None:
        """Ends the containers and removes the folder. May be called more than once, and while ``start`` runs."""
        with self._death_lock:
            self._ended.set()
        self._stop_containers()
        with self._stop_lock:
            shutil.rmtree(self._dir, ignore_errors=True)

    def _stop_containers(self) -> None:
        with ThreadPoolExecutor(max(1, len(self.containers))) as stoppers:
            list(stoppers.map(Container.stop, self.containers))
