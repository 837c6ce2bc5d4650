"""mme.supervisor.healthcheck, which the image's HEALTHCHECK runs: healthy is whatever answers 200 on /ping."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.harness.ports import free_port

CONTAINER = Path(__file__).resolve().parents[2] / "container"


@contextmanager
def server_that_answers(status: int) -> Iterator[int]:
    """A server on a free port of MMS's range that answers ``status`` to GET /ping and 404 to all else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ping" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", free_port()), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mme.supervisor.healthcheck"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CONTAINER), **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_healthy_where_ping_answers_200() -> None:
    with server_that_answers(200) as port:
        done = check(SAGEMAKER_BIND_TO_PORT=str(port))
    assert (done.returncode, done.stdout) == (0, "")


def test_not_healthy_where_ping_answers_another_status() -> None:
    with server_that_answers(503) as port:
        done = check(SAGEMAKER_BIND_TO_PORT=str(port))
    assert done.returncode == 1
    assert done.stdout == f"http://127.0.0.1:{port}/ping answered 503\n"


def test_not_healthy_where_nothing_listens() -> None:
    done = check(SAGEMAKER_BIND_TO_PORT=str(free_port()))
    assert done.returncode == 1
    assert "Connection refused" in done.stdout


def test_the_listening_address_is_asked() -> None:
    with server_that_answers(200) as port:
        elsewhere = check(SAGEMAKER_BIND_TO_PORT=str(port), MME_HOST="127.0.0.2")
        here = check(SAGEMAKER_BIND_TO_PORT=str(port), MME_HOST="0.0.0.0")
    assert (elsewhere.returncode, here.returncode) == (1, 0)


def test_a_bad_setting_is_the_reason() -> None:
    done = check(SAGEMAKER_BIND_TO_PORT="eighty")
    assert done.returncode == 1
    assert "SAGEMAKER_BIND_TO_PORT='eighty' is not allowed" in done.stdout
    assert done.stderr == ""
