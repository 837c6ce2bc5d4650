"""The time between SIGTERM and the stop: who has sent a request gets the answer, who comes now is refused.

The front end ends at once on SIGTERM, requests or not (MMS-18), so the supervisor sends it on only when

- the front end's agent has closed its listeners, so that the kernel refuses new connections. What still comes through
  open ones is answered 503;
- the agent says that every request from before is answered;
- the clients have received their answers, as far as the kernel knows: what lies in a socket's buffer is lost with
  the container's network.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mme.settings import Settings
from mme.supervisor.agent import Agent, AgentError

logger = logging.getLogger("mme.supervisor.draining")

_LISTEN = "0A"  # of the kernel's socket states (net/tcp_states.h)


class Drain:
    """One server's drain. Made when it begins; ``is_over`` is asked again and again."""

    def __init__(self, settings: Settings, agent: Agent) -> None:
        self._ports = frozenset(port for port in (settings.port, settings.management_port) if port is not None)
        self._agent = agent
        if settings.management_socket is not None:
            settings.management_socket.unlink(missing_ok=True)
        try:
            self.in_flight = agent.drain().in_flight
        except AgentError as error:
            logger.error("no drain: %s", error)
            self.in_flight = 0

    def is_over(self) -> bool:
        """Whether nothing is under way any more; True, too, where the agent does not answer."""
        try:
            if self._agent.status().in_flight:
                return False
        except AgentError as error:
            logger.error("the drain ends: %s", error)
            return True
        return not unreceived_bytes(self._ports)


def unreceived_bytes(ports: frozenset[int]) -> int:
    """How many bytes of answers the clients' machines have not acknowledged, over all connections to ``ports``."""
    total = 0
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue  # no IPv6 here
        for line in lines:
            # man 5 proc: number, local address, remote address, state, bytes to send and to read, all hexadecimal
            _, local, _, state, queues, *_ = line.split()
            if state != _LISTEN and int(local.rpartition(":")[2], 16) in ports:
                total += int(queues.partition(":")[0], 16)
    return total
