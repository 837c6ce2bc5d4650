"""Bytes that nobody thought of, sent to a real server: each request is answered, nothing dies, nothing is restarted."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.harness import models
from tests.harness.fuzz import CONTENT_TYPES, bodies, headers
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import launchers

ONE_ROW = json.dumps([[1.0, 2.0, 3.0, 4.0]])
NUMBERS, PICTURES = "numbers", "pictures"
_FILE = io.BytesIO()
Image.new("L", (28, 28), 99).save(_FILE, "png")
PICTURE = _FILE.getvalue()
FUZZ = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def server(default_server: ServerProcess) -> Iterator[ServerProcess]:
    """One server for all; at the end it is as it was: the same processes, and the models answer."""
    running = default_server
    models.multiplier(running.model_dir(NUMBERS), factor=2)
    models.tiny_classifier(running.model_dir(PICTURES))
    for name in (NUMBERS, PICTURES):
        assert running.load(name).status_code == 200
    before = {process.pid for process in running.processes()}
    yield running
    assert running.ping().json() == {"status": "Healthy"}
    assert running.invoke(NUMBERS, ONE_ROW).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
    assert running.invoke(PICTURES, PICTURE, "image/png").status_code == 200
    wait_until(
        lambda: {process.pid for process in running.processes()} == before,
        "no worker was restarted, none was left",
    )
    for name in (NUMBERS, PICTURES):
        assert running.unload(name).status_code == 200


@FUZZ
@given(
    model=st.sampled_from([NUMBERS, PICTURES]),
    content_type=st.sampled_from(CONTENT_TYPES) | headers,
    accept=headers,
    attributes=headers,
    body=bodies,
)
@example(model=NUMBERS, content_type="application/json", accept="", attributes="", body=b"[" * 10_000)
@example(model=NUMBERS, content_type="application/json", accept="", attributes="x" * 7000, body=ONE_ROW.encode())
def test_every_body_is_answered(
    server: ServerProcess, model: str, content_type: str, accept: str, attributes: str, body: bytes
) -> None:
    sent = {"Accept": accept.strip(), "X-Amzn-SageMaker-Custom-Attributes": attributes.strip()}
    encoded = {name: value.encode("latin-1") for name, value in sent.items() if value}
    answer = server.post(f"/models/{model}/invoke", body, content_type.strip() or None, headers=encoded)  # type: ignore[arg-type]
    assert answer.status_code in (200, 400, 406, 415), answer.text
    if answer.status_code != 200:
        assert answer.json().keys() == {"code", "type", "message"}


def send_and_read(connection: socket.socket, sent: bytes) -> None:
    """Returns when the other side has closed the connection, however it does that."""
    try:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    except TimeoutError:
        raise
    except OSError:
        pass  # it was closed before we had said all


# What HTTP looks like, and what it does not.
LINES = ["GET ", "POST ", "DELETE ", "/models", "/ping", "/models/numbers/invoke", " HTTP/1.1\r\n", " HTTP/9\r\n"]
LINES += ["Host: x\r\n", "Content-Length: 5\r\n", "Content-Length: -1\r\n", "Content-Length: 99999999999\r\n", "\r\n"]
LINES += ["Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n", "ffffffffffffffff\r\n", "0\r\n\r\n", "%00", "?a=%"]
words = st.sampled_from([line.encode() for line in LINES])


@FUZZ
@given(st.lists(words | st.binary(max_size=20), max_size=12).map(b"".join))
def test_whatever_comes_through_a_connection_harms_no_other(server: ServerProcess, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        send_and_read(connection, sent)
    assert server.ping().status_code == 200


@settings(FUZZ, max_examples=40)
@given(st.sampled_from([b"", b"L", b"I"]), st.binary(max_size=60))
def test_what_is_no_message_ends_one_worker_and_no_other(server: ServerProcess, command: bytes, rest: bytes) -> None:
    """Nobody but the front end reaches the socket that workers are asked for through; should it send nonsense …"""
    (path,) = [word for word in launchers(server, NUMBERS)[0].cmdline() if ".mms.sock." in word]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.settimeout(10)
        send_and_read(connection, command + rest)
    assert server.invoke(NUMBERS, ONE_ROW).status_code == 200
