"""The process that words metrics (metrics/exporter.py), as its supervisor sees it: sockets, start, exit.

It is started by the first connection, as inetd does: who asks for no metrics pays nothing for them. Two sockets are
listened on from the start, so that nobody is turned away meanwhile: one at this machine's own address, for the front
end, which answers ``GET /metrics`` from it and finds its port in a file, and one at ``MME_METRICS_PORT``. What the
process reads is memory that it shares with others; it holds nobody up. What its end costs is what CloudWatch's lines
did not say yet: another process writes them from there on, and is told that it is not the first.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from pathlib import Path

from mme.errors import StartError
from mme.settings import Settings
from mme.supervisor.own_programs import start_module
from mme.supervisor.processes import describe_status
from mme.supervisor.zygote_handle import ZygoteHandle

logger = logging.getLogger("mme.supervisor.metrics_handle")

PORT_FILE = "metrics-port"  # in the server's private folder: MetricsEndpoint.java
_BACKLOG = 16
# A process that ends sooner is not started again at once: for who asks when somebody asks once more, for CloudWatch's
# lines after the first pause, and after twice the last one each time.
_SHORT_LIFE_S = 10.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class MetricsHandle:
    """One process at a time, below the process that makes this object and has to reap it itself."""

    def __init__(self, settings: Settings, runtime_dir: Path, statistics: int) -> None:
        """``statistics``: the descriptor of ``model_statistics``. Raises ``StartError`` where a port is taken."""
        self.pid: int | None = None
        self._settings = settings
        self._runtime_dir = runtime_dir
        self._statistics = statistics
        self._records: int | None = None
        self._is_wanted = False
        self._started_s = 0.0
        self._has_started = False  # one of this server's
        self._start_at_s: float | None = None  # time.monotonic()
        self._pause_s = _FIRST_PAUSE_S
        self._listeners = [_listen("127.0.0.1", 0)]
        if settings.metrics_port is not None:
            self._listeners.append(_listen(settings.host, settings.metrics_port))
        (runtime_dir / PORT_FILE).write_text(str(self._listeners[0].getsockname()[1]))

    def descriptors(self) -> list[int]:
        """Can be read when somebody asks for metrics, and ``start`` is to be called."""
        return [each.fileno() for each in self._listeners] if self._is_wanted and self.pid is None else []

    def timeout_s(self) -> float | None:
        """After which ``start`` is to be called; None: not before somebody asks."""
        return None if self._start_at_s is None else max(0.0, self._start_at_s - time.monotonic())

    def is_due(self) -> bool:
        """Whether it is time to start it, although nobody asks."""
        return self.timeout_s() == 0.0

    def front_end_serves(self, zygote: ZygoteHandle | None) -> None:
        """From here on the process may run. It does at once where it writes metrics by itself."""
        self._records = None if zygote is None else zygote.records_descriptor
        self._is_wanted = True
        if self._settings.emf:
            self.start()

    def start(self) -> None:
        """Starts the process and returns at once."""
        listeners = [each.fileno() for each in self._listeners]
        records = "none" if self._records is None else str(self._records)
        which = "again" if self._has_started else "first"
        arguments = [
            *(str(os.getpid()), str(self._runtime_dir), str(self._statistics), records, which),
            *map(str, listeners),
        ]
        inherited = [self._statistics, *([] if self._records is None else [self._records]), *listeners]
        self._started_s = time.monotonic()
        self._start_at_s = None
        try:
            self.pid = start_module(
                "mme.metrics.exporter", arguments, self._settings, name="metrics", inherited=inherited
            )
        except OSError as error:
            logger.error("the process for metrics cannot be started: %s", error)
            self._start_later()
        else:
            self._has_started = True

    def on_exit(self, status: int) -> None:
        """It has been reaped. The next connection starts another one, and so does time for CloudWatch's lines."""
        self.pid = None
        logger.error("the process for metrics ended: %s", describe_status(status))
        if time.monotonic() - self._started_s < _SHORT_LIFE_S:
            self._start_later()
            return
        self._pause_s = _FIRST_PAUSE_S
        if self._settings.emf:
            self.start()

    def _start_later(self) -> None:
        self._turn_away()
        if self._settings.emf:
            self._start_at_s = time.monotonic() + self._pause_s
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    def _turn_away(self) -> None:
        """Closes the connections that wait: each would start a process again, at once and for ever."""
        for listener in self._listeners:
            try:
                while True:
                    listener.accept()[0].close()
            except BlockingIOError:
                pass


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), backlog=_BACKLOG)
    except OSError as error:
        raise StartError(f"metrics cannot be served at {host}:{port} (MME_METRICS_PORT): {error.strerror}.") from error
    listener.setblocking(False)
    return listener
