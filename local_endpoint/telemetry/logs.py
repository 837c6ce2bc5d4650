"""What containers and training jobs write, as events in CloudWatch Logs (moto's, in this process).

    container ─ pipe ─ its log's thread ─ LogWriter.write ─ (every FLUSH_S) ─ moto's log stream

A writer never waits and never asks moto, so that a container that logs every request does not slow it down. Streams
stay when their container is gone; the oldest of them go when there are too many events.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import moto.logs.models as moto_logs
from moto.logs.responses import LogsResponse

from local_endpoint.configuration import ACCOUNT

logger = logging.getLogger(__name__)

FLUSH_S = 0.25
# Of one writer between two flushes; what a container writes beyond is dropped, and said to be.
PENDING_BYTES = 4 * 1024 * 1024
# A longer line becomes several events (CloudWatch's own limit is 256 KiB).
LINE_BYTES = 250_000
# Events are kept in memory: so many of one stream, and of all together, and so much text (our choice).
STREAM_EVENTS, STREAM_CHARACTERS = 20_000, 16_000_000
ALL_EVENTS, ALL_CHARACTERS = 200_000, 64_000_000


class LogWriter:
    """One stream's input. ``write`` from one thread at a time; ``close`` once, when nothing more comes."""

    def __init__(self, stream: _Stream, on_close: Callable[[], None]) -> None:
        self._stream = stream
        self._on_close = on_close

    def write(self, piece: bytes) -> None:
        """Bytes as they come, whole lines or not."""
        self._stream.put(piece)

    def close(self) -> None:
        """What was written is in CloudWatch Logs when this returns. May be called more than once."""
        self._stream.is_open = False
        self._on_close()


@dataclass
class _Stream:
    """Output on its way to one log stream of moto."""

    region: str
    group: str
    name: str
    is_open: bool = True
    pending: collections.deque[tuple[int, bytes]] = field(default_factory=collections.deque)
    pending_bytes: int = 0
    dropped_bytes: int = 0
    rest: bytes = b""
    """A line whose end has not come yet."""
    kept_characters: int = 0
    """Of its events in moto."""

    def put(self, piece: bytes) -> None:
        if self.pending_bytes > PENDING_BYTES:
            self.dropped_bytes += len(piece)
            return
        self.pending_bytes += len(piece)
        self.pending.append((int(time.time() * 1000), piece))

    def take(self) -> list[dict[str, Any]]:
        """Events of all whole lines, and of the rest where the stream has ended. Called by one thread at a time."""
        events: list[dict[str, Any]] = []
        while self.pending:
            time_ms, piece = self.pending.popleft()
            *lines, self.rest = (self.rest + piece).split(b"\n")
            while len(self.rest) > LINE_BYTES:
                lines.append(self.rest[:LINE_BYTES])
                self.rest = self.rest[LINE_BYTES:]
            for line in lines:
                events += _events(time_ms, line)
        now_ms = int(time.time() * 1000)
        if not self.is_open:
            events += _events(now_ms, self.rest)
            self.rest = b""
        if self.dropped_bytes:
            events += _events(now_ms, b"(%d bytes were dropped: they came too fast)" % self.dropped_bytes)
        self.pending_bytes = self.dropped_bytes = 0
        return events


def _events(time_ms: int, line: bytes) -> list[dict[str, Any]]:
    """CloudWatch takes no empty event."""
    line = line.rstrip(b"\r")
    parts = [line[start : start + LINE_BYTES] for start in range(0, len(line), LINE_BYTES)]
    return [{"timestamp": time_ms, "message": part.decode(errors="replace")} for part in parts]


class Logs:
    """``start`` → ``open`` a writer per container → ``stop``. One per process, as moto's state is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: dict[tuple[str, str, str], _Stream] = {}  # in the order in which they were opened
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._flush_regularly, name="logs", daemon=True)
        self._originals = (moto_logs.LogGroup.filter_log_events, LogsResponse.filter_log_events)

    def start(self) -> None:
        moto_logs.LogGroup.filter_log_events = _with_token(self._originals[0])  # type: ignore[method-assign]
        LogsResponse.filter_log_events = _with_prefix(self._originals[1])  # type: ignore[method-assign]
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        (moto_logs.LogGroup.filter_log_events, LogsResponse.filter_log_events) = self._originals  # type: ignore[method-assign]

    def open(self, region: str, group: str, name: str) -> LogWriter:
        """A writer of the stream, which exists when this returns, as does its group."""
        stream = _Stream(region, group, name)
        with self._lock:
            self._streams.pop((region, group, name), None)
            self._streams[(region, group, name)] = stream
            _moto_stream(stream)
        return LogWriter(stream, self.flush)

    def flush(self) -> None:
        """All whole lines that were written by now are in CloudWatch Logs when this returns."""
        with self._lock:
            for stream in list(self._streams.values()):
                if stream.pending or stream.dropped_bytes or (stream.rest and not stream.is_open):
                    self._flush_one(stream)
            self._make_room()

    def _flush_regularly(self) -> None:
        while not self._stopping.wait(FLUSH_S):
            try:
                self.flush()
            except Exception:
                logger.exception("logs could not be written")

    @staticmethod
    def _flush_one(stream: _Stream) -> None:
        events = stream.take()
        if not events:
            return
        kept = _moto_stream(stream)
        if not kept.events:  # it may have been deleted
            stream.kept_characters = 0
        kept.put_log_events(events)
        stream.kept_characters += sum(len(event["message"]) for event in events)
        if len(kept.events) > STREAM_EVENTS or stream.kept_characters > STREAM_CHARACTERS:
            _drop_oldest(stream, kept.events)

    def _make_room(self) -> None:
        """Streams whose containers are gone go, the oldest first, while there are too many events, or too long ones."""
        counts = {key: len(_moto_events(stream)) for key, stream in self._streams.items()}
        events = sum(counts.values()) - ALL_EVENTS
        characters = sum(stream.kept_characters for stream in self._streams.values()) - ALL_CHARACTERS
        for key, stream in list(self._streams.items()):
            if events <= 0 and characters <= 0:
                return
            if not stream.is_open:
                events -= counts[key]
                characters -= stream.kept_characters
                _moto_events(stream).clear()
                del self._streams[key]


def _drop_oldest(stream: _Stream, events: list[Any]) -> None:
    """Until a quarter of what may be kept of the stream is free."""
    dropped = max(0, len(events) - STREAM_EVENTS * 3 // 4)
    stream.kept_characters -= sum(len(event.message) for event in events[:dropped])
    while dropped < len(events) and stream.kept_characters > STREAM_CHARACTERS * 3 // 4:
        stream.kept_characters -= len(events[dropped].message)
        dropped += 1
    del events[:dropped]


def _moto_stream(stream: _Stream) -> Any:
    """moto's stream, made where it is not there, or was deleted. Dictionaries are replaced: moto goes through them."""
    backend = moto_logs.logs_backends[ACCOUNT][stream.region]
    if stream.group not in backend.groups:
        group: Any = moto_logs.LogGroup(backend.account_id, backend.region_name, stream.group)  # type: ignore[abstract]
        backend.groups = {**backend.groups, stream.group: group}
    group = backend.groups[stream.group]
    if stream.name not in group.streams:
        group.streams = {**group.streams, stream.name: moto_logs.LogStream(group, stream.name)}
    return group.streams[stream.name]


def _moto_events(stream: _Stream) -> list[Any]:
    group = moto_logs.logs_backends[ACCOUNT][stream.region].groups.get(stream.group)
    its = group.streams.get(stream.name) if group is not None else None
    return its.events if its is not None else []


# ---- what moto's FilterLogEvents lacks ----


def _with_token(original: Callable[..., Any]) -> Callable[..., Any]:
    """A page of events always has a token, as AWS's often do: SDKs follow a log by the last one that they got."""

    def filter_log_events(self: Any, log_group_name: str, *arguments: Any, **named: Any) -> Any:
        events, token, searched = original(self, log_group_name, *arguments, **named)
        if events and token is None:
            token = f"{log_group_name}@{events[-1]['logStreamName']}@{events[-1]['eventId']}"
        return events, token, searched

    return filter_log_events


def _with_prefix(original: Callable[..., Any]) -> Callable[..., Any]:
    """``logStreamNamePrefix``, which moto ignores."""

    def filter_log_events(self: Any) -> Any:
        prefix = self._get_param("logStreamNamePrefix")
        group = self.logs_backend.groups.get(self._get_param("logGroupName"))
        if not prefix or group is None:
            return original(self)
        names = [name for name in group.streams if name.startswith(prefix)]
        get_param = self._get_param
        # moto takes no names as all
        self._get_param = lambda name, *default: (
            (names or ["\0"]) if name == "logStreamNames" else get_param(name, *default)
        )
        return original(self)

    return filter_log_events
