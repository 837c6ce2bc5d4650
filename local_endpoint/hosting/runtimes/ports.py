"""Free ports for containers. MMS takes none of 32767 and above, so the kernel cannot choose."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterable

FIRST_PORT = 20_000
LAST_PORT = 32_766
# How many a container among several gets for its own use (SAGEMAKER_SAFE_PORT_RANGE), besides the one it listens on.
SAFE_PORTS = 8

_given: set[int] = set()
_lock = threading.Lock()


def take_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on and that this process has not given out. Give it back with ``return_ports``."""
    return take_ports(1, host)[0]


def take_ports(count: int, host: str = "127.0.0.1") -> range:
    """``count`` such ports in a row. Give them back with ``return_ports``. Raises ``OSError`` if there are none."""
    for _ in range(2_000):
        first = random.randint(FIRST_PORT, LAST_PORT - count + 1)
        ports = range(first, first + count)
        with _lock:
            if _given.isdisjoint(ports) and all(_is_free(host, port) for port in ports):
                _given.update(ports)
                return ports
    raise OSError(f"no {count} free ports in a row from {FIRST_PORT} to {LAST_PORT}")


def return_ports(ports: Iterable[int]) -> None:
    with _lock:
        _given.difference_update(ports)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
