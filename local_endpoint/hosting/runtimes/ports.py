"""Free ports for containers. MMS takes none of 32767 and above, so the kernel cannot choose."""

from __future__ import annotations

import random
import socket
import threading

FIRST_PORT = 20_000
LAST_PORT = 32_766

_given: set[int] = set()
_lock = threading.Lock()


def take_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on and that this process has not given out. Give it back with ``return_port``."""
    for _ in range(2_000):
        port = random.randint(FIRST_PORT, LAST_PORT)
        with _lock:
            if port in _given:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind((host, port))
                except OSError:
                    continue
            _given.add(port)
            return port
    raise OSError(f"no free port from {FIRST_PORT} to {LAST_PORT}")


def return_port(port: int) -> None:
    with _lock:
        _given.discard(port)
