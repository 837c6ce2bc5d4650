"""What one process has found out is known to the others: whole, and while it is new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mme.capacity import shared_numbers
from mme.capacity.shared_numbers import SharedNumbers


def test_what_one_process_writes_all_others_read(tmp_path: Path) -> None:
    numbers = SharedNumbers(tmp_path / "free", 3)
    assert numbers.read(60) is None, "nobody has written yet"
    child = os.fork()
    if child == 0:
        numbers.write(1, 2, (1 << 64) - 1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for each in (numbers, SharedNumbers(tmp_path / "free", 3)):  # a child of its maker, and who opens it later
        found = each.read(60)
        assert found is not None
        assert found[1] == (1, 2, (1 << 64) - 1)


def test_what_is_old_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(shared_numbers.time, "monotonic", lambda: now_s)
    numbers = SharedNumbers(tmp_path / "free", 1)
    numbers.write(7)
    assert numbers.read(0.1) == (1000.0, (7,))
    now_s = 1000.2
    assert numbers.read(0.1) is None
    now_s = 999.0  # of another run of the machine
    assert numbers.read(0.1) is None


def test_numbers_that_two_have_written_at_once_count_as_none(tmp_path: Path) -> None:
    file = tmp_path / "free"
    numbers = SharedNumbers(file, 2)
    numbers.write(1, 2)
    whole = file.read_bytes()
    numbers.write(3, 4)
    for at in range(1, len(whole)):
        mixed = whole[:at] + file.read_bytes()[at:]
        with file.open("r+b") as opened:
            opened.write(mixed)
        found = numbers.read(60)
        assert found is None or found[1] in ((1, 2), (3, 4))
        numbers.write(3, 4)


def test_where_no_file_can_be_made_each_process_has_its_own(tmp_path: Path) -> None:
    numbers, other = (SharedNumbers(tmp_path / "missing" / "free", 1) for _ in range(2))
    numbers.write(5)
    found = numbers.read(60)
    assert found is not None
    assert found[1] == (5,)
    assert other.read(60) is None
