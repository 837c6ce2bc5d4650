"""The wire format of workers, against MMS's own reader and writer."""

from __future__ import annotations

import math
import re
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mms.context import Context, RequestProcessor
from mms.protocol import otf_message_handler as mms_protocol

from mme.zygote import protocol

# ---- the front end's side: what ModelRequestEncoder.java writes ----


def field(value: bytes) -> bytes:
    return struct.pack("!i", len(value)) + value


END = struct.pack("!i", -1)


def load_frame(
    name: bytes = b"m", path: bytes = b"/m", batch: int = 1, handler: bytes = b"h", gpu: int = -1, pipes: bytes = b"p"
) -> bytes:
    numbers = struct.pack("!i", batch), struct.pack("!i", gpu)
    return b"L" + field(name) + field(path) + numbers[0] + field(handler) + numbers[1] + field(pipes)


def predict_frame(batch: list[dict[str, Any]]) -> bytes:
    frame = b"I"
    for item in batch:
        frame += field(item["id"])
        frame += b"".join(field(name) + field(value) for name, value in item["headers"]) + END
        frame += b"".join(field(name) + field(kind) + field(value) for name, kind, value in item["inputs"]) + END
    return frame + END


def one_input(body: bytes, content_type: bytes = b"application/octet-stream") -> bytes:
    return predict_frame([{"id": b"1", "headers": [], "inputs": [(b"body", content_type, body)]}])


def through_socket(sent: bytes, receive: Callable[[socket.socket], Any]) -> Any:
    """``receive`` at one end of a connection while ``sent`` arrives at it, after which the other end is closed."""
    front_end, connection = socket.socketpair()
    connection.settimeout(20)

    def send() -> None:
        with front_end:
            try:
                front_end.sendall(sent)
            except BrokenPipeError:
                pass  # the reader has given up

    sender = threading.Thread(target=send)
    sender.start()
    try:
        return receive(connection)
    finally:
        connection.close()
        sender.join(20)
        assert not sender.is_alive()


def read(sent: bytes, decode_bodies: bool = False) -> Any:
    return through_socket(
        sent, lambda connection: protocol.RequestReader(connection, decode_bodies=decode_bodies).read()
    )


def read_by_mms(sent: bytes) -> Any:
    command, request = through_socket(sent, mms_protocol.retrieve_msg)
    if bytes(command) == b"I":
        return protocol.Predict(request)
    texts = (request[key].decode() for key in ("modelName", "modelPath", "handler", "ioFileDescriptor"))
    model, folder, handler, log_files = texts
    return protocol.Load(model, folder, request["batchSize"], handler, request.get("gpu"), log_files)


# A length is the interesting part of a field, so content is a repetition.
names = st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode)
bodies = st.builds(lambda piece, times: piece * times, st.binary(max_size=50), st.integers(0, 5000))
inputs = st.tuples(names, names, bodies)
items = st.fixed_dictionaries(
    {
        "id": names,
        "headers": st.lists(st.tuples(names, names), max_size=3),
        "inputs": st.lists(inputs, max_size=3),
    }
)
int32 = st.integers(-(2**31), 2**31 - 1)
load_frames = st.builds(load_frame, names, names, int32, names, int32, names)
frames = st.one_of(load_frames, st.lists(items, max_size=4).map(predict_frame))


@settings(deadline=None, max_examples=150)
@given(frames)
def test_reads_what_mms_reads(frame: bytes) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MMS_DECODE_INPUT_REQUEST", "false")
        expected = read_by_mms(frame)
    assert read(frame) == expected


def test_decodes_json_and_text_as_mms_does_where_asked_to() -> None:
    for body, content_type in [
        (b'{"a": [1]}', b"application/json"),
        ("ä".encode(), b"text/csv"),
        (b"\xff", b"image/x"),
    ]:
        frame = one_input(body, content_type)
        assert read(frame, decode_bodies=True) == read_by_mms(frame)


@settings(deadline=None, max_examples=60)
@given(st.lists(frames, min_size=1, max_size=4))
def test_reads_requests_one_after_the_other(several: list[bytes]) -> None:
    def read_all(connection: socket.socket) -> list[Any]:
        reader = protocol.RequestReader(connection)
        received = [reader.read() for _ in several]
        with pytest.raises(protocol.Disconnected):
            reader.read()
        return received

    assert through_socket(b"".join(several), read_all) == [read(frame) for frame in several]


def test_reads_a_request_that_arrives_byte_by_byte() -> None:
    body = bytes(range(256)) * 300  # larger than the reader's buffer
    frame = one_input(body)

    class Trickle:
        """A connection that gives one byte at a time."""

        def __init__(self) -> None:
            self.at = 0

        def recv_into(self, place: memoryview) -> int:
            place[0] = frame[self.at]
            self.at += 1
            return 1

    request = protocol.RequestReader(Trickle()).read()  # type: ignore[arg-type]
    assert isinstance(request, protocol.Predict)
    assert request.batch[0]["parameters"][0]["value"] == body


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000, 5_000_000])
def test_bodies_arrive_as_bytearray_of_the_right_size(size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    value = read(one_input(body)).batch[0]["parameters"][0]["value"]
    assert type(value) is bytearray
    assert value == body


def test_every_truncated_frame_is_a_disconnection() -> None:
    batch = [{"id": b"1", "headers": [(b"A", b"b")], "inputs": [(b"body", b"text/csv", b"1,2")]}]
    for frame in (load_frame(), predict_frame(batch)):
        for length in range(len(frame)):
            with pytest.raises(protocol.Disconnected):
                read(frame[:length])


@pytest.mark.parametrize("frame", [b"X", b"\0", b"L" + struct.pack("!i", -1), b"L" + struct.pack("!i", -(2**31))])
def test_what_is_no_request_is_refused(frame: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        read(frame)


def test_a_negative_length_inside_a_batch_is_refused_by_the_name_of_the_field() -> None:
    with pytest.raises(protocol.ProtocolError, match="request id: length -2; expected 0 or more"):
        read(b"I" + struct.pack("!i", -2))


def test_a_length_of_two_gigabytes_with_nothing_behind_it_takes_no_memory() -> None:
    process = psutil.Process()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here on
    before = process.memory_info().rss
    with pytest.raises(protocol.Disconnected):
        read(b"L" + struct.pack("!i", 2**31 - 1) + b"x" * 1000)
    (peak_kb,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert int(peak_kb) * 1024 - before < 50_000_000


short_items = st.fixed_dictionaries(
    {
        "id": names,
        "headers": st.lists(st.tuples(names, names), max_size=2),
        "inputs": st.lists(st.tuples(names, names, st.binary(max_size=50)), max_size=2),
    }
)


@st.composite
def damaged_frames(draw: st.DrawFn) -> bytes:
    """A frame with a few of its bytes, most often a length, replaced, inserted or cut out."""
    frame = bytearray(draw(st.one_of(load_frames, st.lists(short_items, max_size=3).map(predict_frame))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(1, len(frame)))
        length = st.one_of(st.integers(-3, 10), st.integers(-(2**31), 2**31 - 1)).map(lambda n: struct.pack("!i", n))
        frame[at : at + draw(st.integers(0, 8))] = draw(st.one_of(length, st.binary(max_size=8)))
    return bytes(frame)


@settings(deadline=None, max_examples=300)
@given(damaged_frames())
def test_a_damaged_frame_ends_in_one_of_the_three_ways(frame: bytes) -> None:
    try:
        request = read(frame)
    except (protocol.Disconnected, protocol.ProtocolError):
        return
    assert isinstance(request, protocol.Load if frame[:1] == b"L" else protocol.Predict)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_noise_ends_in_one_of_the_three_ways(noise: bytes) -> None:
    try:
        read(noise)
    except (protocol.Disconnected, protocol.ProtocolError):
        pass


def test_a_body_without_memory_for_it_fails_the_batch_and_not_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(length: int) -> bytearray:
        raise MemoryError

    def read_two(connection: socket.socket) -> Any:
        reader = protocol.RequestReader(connection)
        monkeypatch.setattr(protocol, "_allocate", allocate)
        with pytest.raises(MemoryError):
            reader.read()
        monkeypatch.undo()
        return reader.read()

    assert through_socket(one_input(b"x" * 300_000) + one_input(b"y"), read_two) == read(one_input(b"y"))


def test_encodes_what_the_front_end_writes() -> None:
    assert protocol.encode_load("m", "/m", "h", log_files="p") == load_frame()
    assert protocol.encode_predict(b"1,2", "text/csv", headers={"A": "b"}) == predict_frame(
        [{"id": b"1", "headers": [(b"A", b"b")], "inputs": [(b"body", b"text/csv", b"1,2")]}]
    )


# ---- responses ----

results = st.one_of(
    st.binary(max_size=20), st.text(max_size=20), st.lists(st.integers(), max_size=3), bodies, bodies.map(bytearray)
)
# MMS counts characters where it should count bytes: its own content types and phrases must be ASCII.
ascii_text = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@st.composite
def responses(draw: st.DrawFn) -> tuple[list[Any], dict[int, str], Context]:
    values = draw(st.lists(results, max_size=4))
    context = Context("m", "/m", None, len(values), None, "1.1.11")
    context.request_processor = [RequestProcessor({}) for _ in values]
    for index in range(len(values)):
        if draw(st.booleans()):
            context.set_response_content_type(index, draw(ascii_text))
        if draw(st.booleans()):
            context.set_response_status(draw(st.integers(200, 599)), draw(ascii_text), index)
        for name, value in draw(st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=2)).items():
            context.set_response_header(index, name, value)
    return values, {index: draw(st.text(max_size=10)) for index in range(len(values))}, context


@settings(deadline=None, max_examples=150)
@given(responses(), st.text(max_size=30), st.integers(200, 599))
def test_writes_what_mms_writes(response: tuple[list[Any], dict[int, str], Context], message: str, status: int) -> None:
    values, ids, context = response
    ours = b"".join(protocol.predict_response(values, ids, message, status, context))
    assert ours == mms_protocol.create_predict_response(values, ids, message, status, context)


@given(st.integers(100, 599), st.text(max_size=30))
def test_writes_the_load_response_that_mms_writes(status: int, message: str) -> None:
    assert b"".join(protocol.load_response(status, message)) == mms_protocol.create_load_model_response(status, message)


@pytest.mark.parametrize("values", [None, [object()], [b"fine", math.sqrt]])
def test_failures_of_a_batch_read_as_mms_words_them(values: list[Any] | None) -> None:
    ids = dict(enumerate("ab"[: len(values)] if values else "ab"))
    ours = b"".join(protocol.predict_response(values, ids, "Prediction failed", 503))
    assert ours == mms_protocol.create_predict_response(values, ids, "Prediction failed", 503)


# ---- what the front end can read ----


def test_large_bodies_are_not_copied() -> None:
    body = bytearray(1_000_000)
    assert any(piece is body for piece in protocol.predict_response([body], {0: "1"}, "", 200))


def test_a_response_arrives_whole_through_a_slow_connection() -> None:
    values = [bytes([index]) * size for index, size in enumerate([0, 10, 5000, 3_000_000, 4096, 1])]
    ids = {index: str(index) for index in range(len(values))}
    pieces = protocol.predict_response(values, ids, "m", 200)
    near, far = socket.socketpair()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    received = bytearray()

    def receive() -> None:
        while data := far.recv(10_000):
            received.extend(data)

    receiver = threading.Thread(target=receive)
    receiver.start()
    with far:
        with near:
            protocol.send(near, pieces)
        receiver.join(20)
    assert received == b"".join(pieces)


def test_more_pieces_than_the_kernel_takes_at_once_are_sent() -> None:
    values = [b"x" * 5000] * 1500
    pieces = protocol.predict_response(values, dict.fromkeys(range(len(values)), "i"), "m", 200)
    assert len(pieces) > 1024
    sent = b"".join(pieces)

    def collect(connection: socket.socket) -> bytes:
        received = bytearray()
        while data := connection.recv(1 << 20):
            received += data
        return bytes(received)

    near, far = socket.socketpair()
    received: list[bytes] = []
    receiver = threading.Thread(target=lambda: received.append(collect(far)))
    receiver.start()
    with far:
        with near:
            protocol.send(near, pieces)
        receiver.join(20)
    assert received == [sent]


def test_sending_to_a_closed_connection_is_a_disconnection() -> None:
    near, far = socket.socketpair()
    far.close()
    with near, pytest.raises(protocol.Disconnected):
        protocol.send(near, [b"x"])
