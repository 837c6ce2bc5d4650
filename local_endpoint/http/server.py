"""The HTTP server: cheroot, with the two things that moto expects of its server."""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from cheroot import wsgi
from cheroot.server import HTTPConnection
from moto.core.request import (
    PRESERVED_HEADER_NAMES_ENVIRON_KEY,
    environ_key_for_header,
    should_preserve_original_header_name,
)

from local_endpoint.errors import CannotListen

logger = logging.getLogger(__name__)

# A thread per request in progress: 64 clients and those that wait for models beside them. Further ones queue.
THREADS = 160
# How long a thread waits for the next request of its connection before it gives it back: a client that calls again and
# again is spared two changes of threads per request. One that pauses costs a thread for so long.
LINGER_S = 0.02

# How long a connection may stay silent: one invocation and a little more.
SILENCE_S = 75
# In the environ of a request: ``with environ[READ_BY](deadline_s)`` bounds what is read of its body meanwhile.
READ_BY = "local_endpoint.read_by"

_environ_key = functools.lru_cache(1024)(environ_key_for_header)
_is_preserved = functools.lru_cache(1024)(should_preserve_original_header_name)


class _Gateway(wsgi.Gateway_10):
    """Adds what moto's own request handler adds (moto.moto_server.werkzeug_app.MotoRequestHandler)."""

    def get_environ(self) -> dict[str, Any]:  # type: ignore[override]  # the stub says None
        environ: dict[str, Any] = super().get_environ()
        # the undecoded path and query, which signatures and keys with odd characters need
        environ["RAW_URI"] = environ["REQUEST_URI"]
        # names of S3 metadata may have underscores, which WSGI cannot tell from dashes
        dashed: dict[str, str] = {}
        underscored = set()
        kept: dict[str, tuple[str, str]] = {}
        for raw_name, raw_value in self.req.inheaders.items():
            name = raw_name.decode("latin-1").lower()
            if _is_preserved(name):
                kept[_environ_key(name)] = (name, raw_value.decode("latin-1"))
            elif "_" not in name:
                dashed[_environ_key(name)] = raw_value.decode("latin-1")
            else:
                underscored.add(_environ_key(name))
        for key in underscored:  # cheroot has put them in: one could pass for a header that others check
            if key in dashed:
                environ[key] = dashed[key]
            else:
                environ.pop(key, None)
        names = {}
        for key, (name, value) in kept.items():
            if key not in dashed:  # an underscored header never stands in for a dashed one
                environ[key] = value
                names[key] = name
        environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = names
        environ[READ_BY] = self._read_by
        return environ

    @contextlib.contextmanager
    def _read_by(self, deadline_s: float) -> Iterator[None]:
        """What is read of the body is there by ``deadline_s`` (monotonic), or raises ``TimeoutError``.

        The connection ends with the answer then: what of the body still comes would be taken for the next request.
        """
        connection = self.req.conn
        connection.input.deadline_s = deadline_s
        try:
            yield
        except TimeoutError:
            self.req.close_connection = True
            raise
        finally:
            connection.input.deadline_s = None
            connection.socket.settimeout(SILENCE_S)


class _Input(socket.SocketIO):
    """Reads from a socket, with a deadline of its own where there is one: each piece may be quick, and all slow."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "rb")
        self._socket = sock
        self.deadline_s: float | None = None

    def readinto(self, buffer: Any) -> int | None:
        if self.deadline_s is not None:
            left_s = self.deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("the request's body did not come in time")
            self._socket.settimeout(min(left_s, SILENCE_S))
        return super().readinto(buffer)


class _Connection(HTTPConnection):
    """Stays with its thread while requests follow closely, and closes its writer.

    cheroot leaves the writer to the garbage collector. It keeps what could not be sent because the client has hung up,
    and would send it when it is collected. By then the socket may be gone, and Python (from 3.13 on) prints a traceback
    about a bad file descriptor.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.input = _Input(self.socket)
        self.rfile._raw = self.input  # cheroot's reader makes its own and takes no other

    def communicate(self) -> bool:
        while super().communicate():
            if not self._is_next_here():
                return True  # to the selector
        return False

    def _is_next_here(self) -> bool:
        """Waits for it no longer than others do not need this thread. The end of the connection counts, too."""
        if not self.server.ready or self.server.requests.qsize:
            return False
        if self.rfile.has_data():
            return True
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(LINGER_S * 1000))

    def close(self) -> None:
        try:
            super().close()
        finally:
            with contextlib.suppress(OSError):  # of what it still tries to send: the client has gone
                self.wfile.close()


class _Server(wsgi.Server):
    ConnectionClass = _Connection

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        logger.log(level, "%s", msg, exc_info=traceback)


class HttpServer:
    """Serves one WSGI application on one port until ``stop``."""

    def __init__(self, host: str, port: int, application: Any) -> None:
        """Raises ``CannotListen``. Nothing is answered before ``start``."""
        self._server = _Server(
            (host, port),
            application,
            numthreads=THREADS,
            server_name="local-endpoint",
            request_queue_size=256,
            timeout=SILENCE_S,
            shutdown_timeout=2,
        )
        self._server.gateway = _Gateway
        try:
            self._server.prepare()
        except OSError as error:
            raise CannotListen(f"{host}:{port} cannot be listened on ({error}). Try another --port.") from None
        self._thread = threading.Thread(target=self._server.serve, name="http", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.bind_addr[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.stop()
        if self._thread.is_alive():
            self._thread.join(5)
