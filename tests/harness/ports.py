"""Free ports for servers under test."""

from __future__ import annotations

import random
import socket

_chance = random.SystemRandom()  # Hypothesis makes the other one begin anew


def free_port() -> int:
    """A TCP port that is free now, below 32767 (MMS takes none from there on) and above what needs privileges.

    The kernel's own choice (port 0) lies above. Picked at random, so that tests at the same time seldom meet.
    """
    for _ in range(1000):
        port = _chance.randint(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 10000 and 32000")
