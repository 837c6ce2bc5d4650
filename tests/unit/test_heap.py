"""When a worker gives free memory back."""

from __future__ import annotations

import pytest

from mme.zygote import heap


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now_s = [1000.0]
    monkeypatch.setattr(heap.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(heap, "trim", lambda: None)
    return now_s


def test_a_lone_request_is_followed_by_a_trim_at_once_and_a_busy_model_by_none(clock: list[float]) -> None:
    idle_trim = heap.IdleTrim(lambda: False)
    assert idle_trim.wait_ms() is None
    idle_trim.loaded()
    assert idle_trim.wait_ms() == 0
    idle_trim.trim()
    assert idle_trim.wait_ms() is None
    idle_trim.used()
    assert idle_trim.wait_ms() == 0  # the first one
    idle_trim.trim()
    for _ in range(3):
        clock[0] += heap.IDLE_S / 2
        idle_trim.used()
        assert idle_trim.wait_ms() == 1000 * heap.IDLE_S
    idle_trim.trim()
    clock[0] += heap.IDLE_S * 1.1
    idle_trim.used()
    assert idle_trim.wait_ms() == 0


def test_a_pause_is_shorter_where_memory_is_short(clock: list[float]) -> None:
    idle_trim = heap.IdleTrim(lambda: True)
    idle_trim.used()
    clock[0] += 0.1
    idle_trim.used()
    assert idle_trim.wait_ms() == 1000 * heap.IDLE_UNDER_PRESSURE_S
