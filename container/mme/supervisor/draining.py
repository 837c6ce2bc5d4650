"""The time between SIGTERM and the stop: who has sent a request gets the answer, who comes now is refused.

The front end ends at once on SIGTERM, requests or not, so the supervisor sends it on only when

- the front end listens no more, so that new connections are refused (``connections.stop_listening``);
- forked workers have been told how many requests were under way: each answers as many, then 503 to what still comes
  through open connections (``service.DrainQuota``);
- no client waits for an answer, as far as the kernel can tell, and no forked worker is at work.

Where the kernel's clock is too coarse to tell, the workers' word counts. Spawned ones have none: then a connection
counts as waiting until nothing has happened on it for some seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from mme.settings import Settings
from mme.supervisor.connections import Connection, connections_to, count_in_flight, stop_listening
from mme.supervisor.zygote_handle import ZygoteHandle

logger = logging.getLogger("mme.supervisor.draining")

# Nothing under way for so long: an answer is on its way from a worker to the client for a few milliseconds.
QUIET_S = 0.1
# How long a connection of which nothing is known has to be quiet.
UNCLEAR_MS = 3000
# Requests that each forked worker answers where the kernel does not say how many are under way: MMS's longest queue.
_UNKNOWN = 100


class Drain:
    """One server's drain. Made when it begins; ``is_over`` is asked again and again."""

    def __init__(self, settings: Settings, front_end_pid: int, zygote: ZygoteHandle | None) -> None:
        self._ports = [port for port in (settings.port, settings.management_port) if port is not None]
        self._zygote = zygote
        self._quiet_since_s: float | None = None
        connections = self._connections()
        self.in_flight = None if connections is None else count_in_flight(connections)
        if zygote is not None:
            zygote.set_drain_quota(_UNKNOWN if self.in_flight is None else self.in_flight)
        if settings.management_socket is not None:
            settings.management_socket.unlink(missing_ok=True)
        refused = [stop_listening(front_end_pid, port) for port in self._ports]
        if not all(refused):
            logger.info("new connections cannot be refused here; what they ask of forked workers is answered 503")

    def is_over(self) -> bool:
        """Whether nothing has been under way for ``QUIET_S``."""
        now_s = time.monotonic()
        if not self._is_quiet():
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        return self._quiet_since_s is not None and now_s - self._quiet_since_s >= QUIET_S

    def _is_quiet(self) -> bool:
        workers_are_busy = None if self._zygote is None else self._zygote.is_busy()
        return is_quiet(self._connections(), workers_are_busy)

    def _connections(self) -> list[Connection] | None:
        try:
            return [connection for port in self._ports for connection in connections_to(port)]
        except OSError:
            return None


def is_quiet(connections: Iterable[Connection] | None, workers_are_busy: bool | None) -> bool:
    """Whether nothing is under way. None where nobody tells: of the connections, or of the workers."""
    if workers_are_busy:
        return False
    if connections is None:
        return workers_are_busy is not None
    for connection in connections:
        if connection.awaits_answer:
            return False
        unclear = connection.awaits_answer is None and workers_are_busy is None
        if unclear and connection.since_received_ms < UNCLEAR_MS:
            return False
    return True
