"""The wire format between MMS's front end and a worker: one reader and one writer over a stream socket.

The same bytes as ``mms/protocol/otf_message_handler.py`` (MMS 1.1.11) and its Java side, ``ModelRequestEncoder`` and
``ModelResponseDecoder``. Every integer is signed, 4 bytes, big-endian; a *field* is an integer n and n bytes; -1 in
the place of a field's length ends a list.

    request, load                              request, predict
    offset  bytes                              offset  bytes
    0       'L'                                0       'I'
    1       field   model name                 1       list of items, each:
            field   model path                           field   request id
            int     batch size                           list of headers, each: field name, field value
            field   handler                              list of inputs, each: field name, field content type,
            int     GPU number, -1 for none                                    field value (the body)
            field   name of the log files

    response, load                             response, predict
    0       int     HTTP status                0       int     status of the whole batch (200, or all failed)
    4       field   message                    4       field   message
            int     -1                                 list of predictions, each:
                                                         field   request id
                                                         field   content type, may be empty
                                                         int     HTTP status
                                                         field   reason phrase, may be empty
                                                         int     n, then n headers: field name, field value
                                                         field   body

    end of the session (MMS-33): a response with 0 in the place of the status. The agent reads it, MMS never does. A
    request that the front end has sent, and that no response before it answers, has not been begun.

    loss of the model: a response with -1 in the place of the status, for the agent, too: the model is to be unloaded.

    sleep of the session: a response with -2 there, likewise. The next request wakes it.

What a parsed batch looks like is MMS's choice, because handlers see it: dicts with its keys, ``bytearray`` for ids,
headers and bodies, ``str`` for names and content types.

A worker reads with ``RequestReader`` and writes with ``load_response`` and ``predict_response``; ``encode_load`` and
``encode_predict`` are the front end's side, for the warm-up and for tests.
"""

from __future__ import annotations

import ctypes
import json
import logging
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOAD = b"L"
PREDICT = b"I"

_INT = struct.Struct("!i")
_END_OF_LIST = -1
_SESSION_END = 0
_MODEL_LOST = -1
_ASLEEP = -2
_AWAKE = -3
_BUFFER_BYTES = 64 * 1024
# A response's pieces below this size are copied together: cheaper than one more piece for the kernel to gather.
_COPY_BELOW_BYTES = 4096
_MOST_PIECES_PER_SEND = 512  # the kernel takes 1,024 (IOV_MAX)

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Load:
    """The request to load a model."""

    model: str
    folder: str
    batch_size: int
    handler: str
    gpu: int | None
    log_files: str


@dataclass(frozen=True)
class Predict:
    """A batch of requests, as MMS's service takes it."""

    batch: list[dict[str, Any]]


Message = Load | Predict


class ProtocolError(ValueError):
    """What arrived is no message. The connection is of no more use."""


class Disconnected(Exception):
    """The front end has closed the connection, between messages or inside one."""


class RequestReader:
    """Reads requests from a blocking stream socket through one buffer; large bodies go straight to their place."""

    def __init__(self, connection: socket.socket, *, decode_bodies: bool = False) -> None:
        """``decode_bodies`` turns JSON and text bodies into objects and ``str``: MMS_DECODE_INPUT_REQUEST."""
        self._connection = connection
        self._decode_bodies = decode_bodies
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._out_of_memory = False

    def read(self) -> Message:
        """Waits for the next request.

        Raises ``Disconnected``, ``ProtocolError``, and ``MemoryError`` where there was no memory for a body; the
        request has been read to its end then, so it can be answered and the next one read.
        """
        self._out_of_memory = False
        if self._start == self._end:
            self._start = self._end = 0
        command = bytes(self._take(1))
        if command == LOAD:
            return self._load()
        if command == PREDICT:
            return Predict(self._batch())
        raise ProtocolError(f"command: {command!r}; expected {LOAD!r} or {PREDICT!r}")

    def holds_bytes(self) -> bool:
        """Whether bytes of the next request have been received with the last one."""
        return self._start < self._end

    def _load(self) -> Load:
        model, folder = self._text("model name"), self._text("model path")
        batch_size = self._int()
        handler = self._text("handler")
        gpu = self._int()
        return Load(model, folder, batch_size, handler, gpu if gpu >= 0 else None, self._text("name of the log files"))

    def _batch(self) -> list[dict[str, Any]]:
        batch = []
        while (request_id := self._field_or_end("request id")) is not None:
            headers = []
            while (name := self._field_or_end("header name")) is not None:
                headers.append({"name": name, "value": self._field("header value")})
            inputs = []
            while (name := self._field_or_end("input name")) is not None:
                content_type = self._text("content type")
                inputs.append(
                    {
                        "name": _decoded_text("input name", name),
                        "contentType": content_type,
                        "value": self._decoded(self._field("input value"), content_type),
                    }
                )
            batch.append({"requestId": request_id, "headers": headers, "parameters": inputs})
        if self._out_of_memory:
            raise MemoryError("no memory for the body of a request")
        return batch

    def _decoded(self, body: bytearray, content_type: str) -> Any:
        if not self._decode_bodies:
            return body
        if content_type == "application/json":
            return json.loads(body.decode())
        return body.decode() if content_type.startswith("text") else body

    def _text(self, what: str) -> str:
        return _decoded_text(what, self._field(what))

    def _int(self) -> int:
        start = self._start
        if self._end - start >= _INT.size:  # as nearly always
            self._start = start + _INT.size
            return _INT.unpack_from(self._buffer, start)[0]
        return _INT.unpack(self._take(_INT.size))[0]

    def _field_or_end(self, what: str) -> bytearray | None:
        start = self._start + _INT.size
        if start <= self._end:  # as nearly always: a request has dozens of fields
            length = _INT.unpack_from(self._buffer, self._start)[0]
            stop = start + length
            if start <= stop <= self._end:
                self._start = stop
                return self._buffer[start:stop]
        length = self._int()
        return None if length == _END_OF_LIST else self._bytes(what, length)

    def _field(self, what: str) -> bytearray:
        return self._bytes(what, self._int())

    def _bytes(self, what: str, length: int) -> bytearray:
        start, stop = self._start, self._start + length
        if start <= stop <= self._end:  # as nearly always but for large bodies
            self._start = stop
            return self._buffer[start:stop]
        if length < 0:
            raise ProtocolError(f"{what}: length {length}; expected 0 or more")
        if length <= _BUFFER_BYTES:
            return bytearray(self._take(length))
        try:
            field = _allocate(length)
        except MemoryError:
            self._out_of_memory = True
            self._skip(length)
            return bytearray()
        view = memoryview(field)
        at = self._end - self._start
        view[:at] = self._view[self._start : self._end]
        self._start = self._end = 0
        while at < length:
            at += self._receive_into(view[at:])
        return field

    def _skip(self, length: int) -> None:
        while length > 0:
            length -= len(self._take(min(length, _BUFFER_BYTES)))

    def _take(self, length: int) -> memoryview:
        """The next ``length`` bytes, at most the buffer's size; valid until the next call."""
        if self._start + length > len(self._buffer):
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        while self._end - self._start < length:
            self._end += self._receive_into(self._view[self._end :])
        taken = self._view[self._start : self._start + length]
        self._start += length
        if self._start == self._end:
            self._start = self._end = 0
        return taken

    def _receive_into(self, place: memoryview) -> int:
        try:
            received = self._connection.recv_into(place)
        except ConnectionResetError:
            received = 0
        if received == 0:
            raise Disconnected
        return received


def _decoded_text(what: str, field: bytearray) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{what}: {bytes(field[:40])!r}; expected UTF-8 ({error.reason})") from None


# bytearray(n) would write n zeros first.
_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
_new_bytearray.argtypes, _new_bytearray.restype = [ctypes.c_void_p, ctypes.c_ssize_t], ctypes.py_object


def _allocate(length: int) -> bytearray:
    """A bytearray of whatever is there; it costs no more memory than is then received. Raises ``MemoryError``."""
    allocated: bytearray = _new_bytearray(None, length)
    return allocated


def send(connection: socket.socket, pieces: Sequence[Buffer], flags: int = 0) -> None:
    """Sends a response without joining its pieces. Raises ``Disconnected``."""
    views = [memoryview(piece) for piece in pieces if len(piece)]
    at = 0
    while at < len(views):
        try:
            sent = connection.sendmsg(views[at : at + _MOST_PIECES_PER_SEND], (), flags)
        except (BrokenPipeError, ConnectionResetError):
            raise Disconnected from None
        while at < len(views) and sent >= len(views[at]):
            sent -= len(views[at])
            at += 1
        if sent:
            views[at] = views[at][sent:]


def send_at_once(connection: socket.socket, pieces: Sequence[Buffer]) -> None:
    """Sends a few bytes; nobody waits for them if that cannot be done at once."""
    try:
        send(connection, pieces, socket.MSG_DONTWAIT)
    except (OSError, Disconnected):
        pass


def encode_load(
    model: str, folder: str, handler: str, *, batch_size: int = 1, gpu: int = -1, log_files: str = "none"
) -> bytes:
    """The request to load a model, as the front end writes it."""
    before = _field(model.encode()) + _field(folder.encode()) + _INT.pack(batch_size)
    return LOAD + before + _field(handler.encode()) + _INT.pack(gpu) + _field(log_files.encode())


def encode_predict(body: bytes, content_type: str, *, headers: Mapping[str, str] = {}, request_id: str = "1") -> bytes:
    """A batch of one request with one input, as the front end writes it."""
    end = _INT.pack(_END_OF_LIST)
    named = b"".join(_field(name.encode()) + _field(value.encode()) for name, value in headers.items())
    content = _field(b"body") + _field(content_type.encode()) + _field(body)
    return PREDICT + _field(request_id.encode()) + named + end + content + end + end


def load_response(status: int, message: str) -> list[Buffer]:
    """The response to a load."""
    return [_INT.pack(status) + _field(message.encode()) + _INT.pack(_END_OF_LIST)]


def session_end() -> list[Buffer]:
    """Says that the worker has ended, and has begun no request but one whose response follows, if that does.

    Only where no response has been sent in part. It comes first: who reads a response sends the next request.
    """
    return load_response(_SESSION_END, "")


def model_lost() -> list[Buffer]:
    """Says that the model can be served no more: the front end unloads it."""
    return load_response(_MODEL_LOST, "")


def asleep() -> list[Buffer]:
    """Says that the session sleeps: the front end shows it so until the next request."""
    return load_response(_ASLEEP, "")


def awake() -> list[Buffer]:
    """Says that the session begins the request that it was woken for.

    Should the template die before, the front end knows that nobody has begun it, and gives it to another session.
    """
    return load_response(_AWAKE, "")


def predict_response(
    results: Sequence[Any] | None, request_ids: Mapping[int, str], message: str, status: int, context: Any = None
) -> list[Buffer]:
    """The response to a batch, with the parameters of MMS's ``create_predict_response``, which it stands in for.

    ``results`` holds one entry per request: bytes-like or ``str`` as they are, anything else as JSON; None answers
    ``error`` to each. ``context`` has each entry's content type, status and headers; without it there are none.
    What cannot be put into JSON makes the whole batch a 503, as with MMS.
    """
    try:
        return _predictions(results, request_ids, message, status, context)
    except TypeError:
        logging.warning(_UNSERIALIZABLE, exc_info=True)
        return _predictions(None, request_ids, _UNSERIALIZABLE, 503)


_UNSERIALIZABLE = "Unsupported model output data type."


def _predictions(
    results: Sequence[Any] | None,
    request_ids: Mapping[int, str],
    message: str,
    status: int,
    context: Any = None,
) -> list[Buffer]:
    """Raises ``TypeError`` for a result that cannot be put into JSON."""
    pieces: list[Buffer] = []
    # What is small is copied together.
    small = bytearray(_INT.pack(status) + _field(message.encode()))
    for index, request_id in request_ids.items():
        small += _field(request_id.encode())
        if context is None:
            small += _INT.pack(0) + _INT.pack(status) + _INT.pack(0) + _INT.pack(0)
        else:
            own_status, phrase = context.get_response_status(index)
            small += _field((context.get_response_content_type(index) or "").encode())
            small += _INT.pack(200 if own_status is None else own_status)
            small += _field((phrase or "").encode())
            small += _headers(context.get_response_headers(index))
        body: Buffer = b"error" if results is None else _body(results[index])
        small += _INT.pack(len(body))
        if len(body) < _COPY_BELOW_BYTES:
            small += body
        else:
            pieces += [small, body]
            small = bytearray()
    small += _INT.pack(_END_OF_LIST)
    return [*pieces, small]


def _body(value: Any) -> Buffer:
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, memoryview):
        return value.cast("B") if value.contiguous else value.tobytes()
    return (value if isinstance(value, str) else json.dumps(value, indent=2)).encode()


def _headers(headers: Mapping[str, str]) -> bytes:
    fields = [_field(name.encode()) + _field(value.encode()) for name, value in headers.items()]
    return _INT.pack(len(fields)) + b"".join(fields)


def _field(value: bytes) -> bytes:
    return _INT.pack(len(value)) + value
