"""A model's states in its template, without processes: launchers are numbers, connections are socket pairs."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from mme.errors import Refusal
from mme.zygote import model_slot
from mme.zygote.event_loop import EventLoop
from mme.zygote.launcher import Launch
from mme.zygote.model_slot import ModelSlot, SessionHandle, SlotState
from mme.zygote.session_records import SessionRecord, SessionRecords, WorkerState, make_shared


@pytest.fixture
def loop() -> EventLoop:
    return EventLoop()


@pytest.fixture
def gone() -> list[ModelSlot]:
    return []


@pytest.fixture
def records() -> SessionRecords:
    return SessionRecords(make_shared())


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Launchers that were killed: none of these numbers is a process."""
    numbers: list[int] = []
    monkeypatch.setattr(model_slot, "kill", numbers.append)
    monkeypatch.setattr(model_slot, "kill_group", lambda _: None)
    return numbers


def make_slot(loop: EventLoop, gone: list[ModelSlot], folder: Path, sessions_to_load: int = 1) -> ModelSlot:
    options = {b"--model-name": b"m", b"--tmp-dir": os.fsencode(folder), b"--sock-type": b"unix", b"--sock-name": b"s"}
    return ModelSlot(
        Launch(2**22 + 1, b"0", options, b"", str(folder)),
        loop,
        sessions_to_load=sessions_to_load,
        adopted=False,
        multi_model=True,
        on_connection=lambda _: None,
        on_end_of_sleeper=lambda _: None,
        on_gone=gone.append,
    )


def start_session(slot: ModelSlot, record: SessionRecord) -> tuple[SessionHandle, socket.socket]:
    front_end, connection = socket.socketpair()
    session = SessionHandle(slot, connection, 0, record)
    slot.on_session_start(session)
    return session, front_end


def test_a_model_is_serving_once_as_many_sessions_as_were_asked_for_have_loaded(
    loop: EventLoop, gone: list[ModelSlot], records: SessionRecords, tmp_path: Path
) -> None:
    slot = make_slot(loop, gone, tmp_path, sessions_to_load=2)
    first, second = records.take(0), records.take(1)
    start_session(slot, first)
    start_session(slot, second)
    assert (slot.state, slot.has_loaded) == (SlotState.STARTING, False)
    first.state = WorkerState.READY
    assert not slot.has_loaded
    second.state = WorkerState.PREDICTING
    assert slot.has_loaded
    assert slot.state is SlotState.SERVING


def test_a_second_worker_without_memory_fails_the_load_as_a_whole_with_its_reason(
    loop: EventLoop, gone: list[ModelSlot], records: SessionRecords, killed: list[int], tmp_path: Path
) -> None:
    slot = make_slot(loop, gone, tmp_path, sessions_to_load=2)
    slot._standard_input, _ = os.pipe()
    loop.watch(slot._standard_input, lambda: None)
    first, second = records.take(0), records.take(1)
    start_session(slot, first)
    session, front_end = start_session(slot, second)
    first.state = WorkerState.READY
    second.state = WorkerState.LOADING
    slot.on_session_end(session)
    slot.on_load_refused(session, Refusal(507, "it needs 70 MiB"))
    assert slot.state is SlotState.REFUSING
    assert killed == [slot.launch.pid]
    slot.on_launcher_reaped()
    assert slot.state is SlotState.GONE
    assert gone == [slot]
    answer = front_end.recv(1000)
    assert struct.unpack("!i", answer[:4]) == (507,)
    assert b"it needs 70 MiB" in answer


def test_a_worker_of_a_loaded_model_that_fails_to_load_is_answered_nothing(
    loop: EventLoop, gone: list[ModelSlot], records: SessionRecords, killed: list[int], tmp_path: Path
) -> None:
    slot = make_slot(loop, gone, tmp_path)
    record = records.take(0)
    start_session(slot, record)
    record.state = WorkerState.READY
    session, front_end = start_session(slot, records.take(1))
    slot.on_load_refused(session, Refusal(507, "no"))
    assert front_end.recv(100) == b""
    assert (slot.state, killed) == (SlotState.SERVING, [])


def test_a_state_that_cannot_follow_is_an_error(loop: EventLoop, gone: list[ModelSlot], tmp_path: Path) -> None:
    slot = make_slot(loop, gone, tmp_path)
    slot.drop()
    assert (slot.state, gone) == (SlotState.GONE, [slot])
    slot.drop()
    assert gone == [slot]
    with pytest.raises(ValueError, match="cannot be SERVING after GONE"):
        slot._enter(SlotState.SERVING)


def test_files_of_refused_loads_are_removed_although_others_are_refused_all_the_time(
    loop: EventLoop, gone: list[ModelSlot], records: SessionRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_slot, "_FILES_MADE_S", 0.05)
    slot = make_slot(loop, gone, tmp_path)
    first = tmp_path / "first-stdout"
    refusals = 0

    def refuse() -> None:
        nonlocal refusals
        refusals += 1
        _, connection = socket.socketpair()
        slot.on_load_refused(SessionHandle(slot, connection, 0, records.take(0)), Refusal(500, "no"))
        if not first.exists() or refusals == 1000:
            loop.stop()
        loop.after(0.01, "next", refuse)

    first.touch()
    loop.after(0, "next", refuse)
    loop.run()
    assert not first.exists()


def test_an_error_in_what_a_model_does_drops_that_model(loop: EventLoop, gone: list[ModelSlot], tmp_path: Path) -> None:
    slot = make_slot(loop, gone, tmp_path)

    def fail() -> None:
        raise RuntimeError("on purpose")

    loop.after(0, "fails", slot.guarded(fail))
    loop.after(0.01, "fails itself", fail)
    loop.after(0.02, "end", loop.stop)
    loop.run()
    assert gone == [slot]
