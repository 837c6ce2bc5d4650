"""serving.properties, as java.util.Properties reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mme.frameworks import properties


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=1\nb = 2\r\nc:3\rd : 4\ne 5\n", {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}),
        ("# note\n! note\n\n  \n  a=1", {"a": "1"}),
        ("a=1#2 ! 3", {"a": "1#2 ! 3"}),
        ("a=b=c:d", {"a": "b=c:d"}),
        ("a=1 \\\n   2\\\n3\nb=4", {"a": "1 23", "b": "4"}),
        ("a=1\\\\\nb=2", {"a": "1\\", "b": "2"}),
        (r"a\ b\:c=d", {"a b:c": "d"}),
        (r"a=\u00e9\t\x", {"a": "é\tx"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("=1", {"": "1"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=1   \nb=2", {"a": "1", "b": "2"}),
        ("a=1\\", {"a": "1"}),
        ("a=\\u12", {"a": "u12"}),
        ("option.x=\xe9", {"option.x": "é"}),
        ("", {}),
    ],
)
def test_names_and_values(text: str, found: dict[str, str]) -> None:
    assert properties.parse(text) == found


def test_a_file_is_read_as_latin_1(tmp_path: Path) -> None:
    (tmp_path / "serving.properties").write_bytes(b"a=\xe9\n")
    assert properties.read(tmp_path) == {"a": "é"}


def test_what_is_no_file_has_no_properties(tmp_path: Path) -> None:
    assert properties.read(tmp_path) == {}
    os.mkfifo(tmp_path / "serving.properties")
    assert properties.read(tmp_path) == {}
