"""The code of functions that workers run, moved side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from mme.zygote import hot_code


def plain(a: int, b: int = 2, *, c: int = 3) -> tuple[int, int, int]:
    return a, b, c


def outer(start: int) -> Callable[[], int]:
    def inner() -> int:
        return start + sum(each for each in range(3))

    return inner


def numbers() -> Iterator[int]:
    try:
        yield 1
        raise ValueError
    except ValueError:
        yield 2


class Base:
    def name(self) -> str:
        return "base"


class Derived(Base):
    def name(self) -> str:
        return f"{super().name()}, derived"


def cold() -> int:
    return 1


def everything() -> list[Any]:
    return [plain(1, c=4), outer(5)(), list(numbers()), Derived().name()]


def test_what_has_run_is_moved_side_by_side_and_does_what_it_did() -> None:
    with hot_code.code_that_runs() as hot:
        expected = everything()
    functions: list[Any] = [plain, outer, numbers, Base.name, Derived.name]
    before = [each.__code__ for each in functions]
    assert set(before) <= hot
    assert cold.__code__ not in hot
    colds_code = cold.__code__
    assert hot_code.move(set(before)) == len(functions)
    assert all(each.__code__ is not code for each, code in zip(functions, before, strict=True))
    assert cold.__code__ is colds_code
    assert everything() == expected
    assert list(plain.__code__.co_positions()) == list(before[0].co_positions())


def test_nobody_profiles_any_more_and_who_did_goes_on() -> None:
    calls = []
    sys.setprofile(lambda frame, event, _: calls.append(event))
    try:
        with hot_code.code_that_runs():
            cold()
        calls.clear()
        cold()
        assert "call" in calls
    finally:
        sys.setprofile(None)
