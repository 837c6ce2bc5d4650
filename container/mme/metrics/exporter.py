"""The process that words metrics.

    python -m mme.metrics.exporter SUPERVISOR RUNTIME_DIR STATISTICS RECORDS first|again LISTENER…

Started by   the supervisor (supervisor/metrics_handle.py), when somebody first asks for metrics, or at once for EMF.
Lifetime     until the supervisor ends it, or dies. "again": it takes the place of another of this server.
Shared       the memory behind the descriptors STATISTICS and RECORDS ("none": there are none), for reading alone.
Serves       GET /metrics on each LISTENER, a descriptor; a scrape is worded as a whole before the next one.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mme.capacity.memory import SystemMemory
from mme.libc import LIBC
from mme.logs import configure_logging
from mme.metrics.container import ContainerMetrics, ContainerReader
from mme.metrics.emf import EmfWriter
from mme.metrics.families import CONTAINER_FAMILIES, MODEL_FAMILIES, labels_of
from mme.metrics.models import ModelMetrics, ModelReader
from mme.metrics.rendering import Renderer
from mme.metrics.sessions import SessionReader
from mme.settings import Settings
from mme.supervisor.model_statistics import ModelStatistics
from mme.zygote.processes import name_process
from mme.zygote.session_records import SessionRecords

logger = logging.getLogger("mme.metrics")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_NICENESS = 10  # what is measured comes first
_CLIENT_TIMEOUT_S = 10.0


class Exporter:
    """Reads, and words what it has read. One thread at a time."""

    def __init__(self, settings: Settings, runtime_dir: Path, statistics: int, records: int | None) -> None:
        self.settings = settings
        shared = ModelStatistics(statistics)
        sessions = SessionReader(None if records is None else SessionRecords(records))
        self._models = ModelReader(shared, sessions, settings.metrics_models)
        memory = SystemMemory(settings, runtime_dir, server_pid=os.getppid())
        self._container = ContainerReader(settings, shared, memory)
        self._renderer = Renderer(CONTAINER_FAMILIES, MODEL_FAMILIES)
        self._lock = threading.Lock()

    def read(self) -> tuple[ContainerMetrics, list[ModelMetrics]]:
        """What there is to say now."""
        with self._lock:
            models = self._models.read()
            return self._container.read(self._models.asleep), models

    def scrape(self, accept: str) -> tuple[bytes, str]:
        """The text for who accepts ``accept``, and its content type."""
        container, models = self.read()
        with self._lock:
            with_target = self.settings.metrics_target_model
            rows = [(tuple(labels_of(each, with_target=with_target).items()), each) for each in models]
            return self._renderer.render(([((), container)], rows), accept)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: int, exporter: Exporter) -> None:
        self.exporter = exporter
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = socket.socket(fileno=listener)
        self.socket.setblocking(False)  # who waits may have been turned away
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, address = super().get_request()
        connection.settimeout(_CLIENT_TIMEOUT_S)
        return connection, address


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="GET /metrics is all that there is.")
            return
        try:
            text, content_type = self.server.exporter.scrape(self.headers.get("Accept", ""))
        except Exception:
            logger.exception("metrics could not be read")
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """The front end's access log has it, where that is wanted."""


def main() -> None:
    """Serves until the process is ended."""
    LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    supervisor, runtime_dir, statistics, records, which, *listeners = sys.argv[1:]
    if os.getppid() != int(supervisor):
        return  # it had died before we could be told
    name_process("metrics")
    os.nice(_NICENESS)
    settings = Settings.from_environment()
    configure_logging(settings)
    exporter = Exporter(settings, Path(runtime_dir), int(statistics), None if records == "none" else int(records))
    if settings.emf:
        writer = EmfWriter(settings, exporter.read, is_first=which == "first")
        threading.Thread(target=writer.run, name="emf", daemon=True).start()
    servers = [_Server(int(listener), exporter) for listener in listeners]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
