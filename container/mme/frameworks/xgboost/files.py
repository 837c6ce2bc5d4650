"""The file of an XGBoost model: which it is, of what format, and whether it is whole. Without XGBoost.

format    since   first bytes             here
JSON      1.0     {"learner" {"version"   read by XGBoost
UBJSON    1.6     {L                      read by XGBoost, after a look at its structure
binary    0.1     binf, or a number       put into JSON (binary.py); XGBoost reads it no more since 3.1
pickle    –       0x80, or a letter       unpickled: a Booster, or an estimator with one; not with MME_MODEL_CODE=refuse
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Literal

from mme.errors import ModelLoadError
from mme.frameworks import pickles
from mme.frameworks.description import paths_in
from mme.frameworks.xgboost import JSON_SUFFIX, MODEL_FILE, UBJ_SUFFIX, holds, is_json
from mme.settings import Settings

Format = Literal["json", "ubj", "binary", "pickle"]
_HEAD_BYTES = 256
_SIZES = {b"i": 1, b"U": 1, b"C": 1, b"I": 2, b"l": 4, b"d": 4, b"L": 8, b"D": 8}  # of UBJSON's numbers, by marker
_INTEGERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q"}
_CONSTANTS = (b"Z", b"T", b"F", b"N")


def find(model_dir: Path) -> Path:
    """The one file of the model. Raises ``ModelLoadError`` where there are several."""
    found = [
        path
        for path in paths_in(model_dir)
        if path.name == MODEL_FILE or (path.suffix in (UBJ_SUFFIX, JSON_SUFFIX) and holds(path))
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelLoadError(
            f"{model_dir} must hold one model of XGBoost ({MODEL_FILE}, *{UBJ_SUFFIX}, *{JSON_SUFFIX}); found: {names}."
        )
    return found[0]


def read(path: Path) -> bytearray:
    """All of it, as XGBoost takes it."""
    size = path.stat().st_size
    body = bytearray(size)
    with path.open("rb") as file:
        if file.readinto(body) != size:
            raise ModelLoadError(f"{path} became shorter while it was read.")
    return body


def format_of(body: bytes | bytearray) -> Format | None:
    """By its first bytes; None for what is none of them."""
    head = bytes(body[:_HEAD_BYTES])
    if is_json(head):
        return "json"
    if head.startswith((b"{L", b"{i", b"{l")):
        return "ubj"
    if pickles.is_pickle(head):
        return "pickle"
    # the number of features, of classes, and two or more truth values follow the base score
    numbers = head.removeprefix(b"binf")[4:20]
    if len(numbers) == 16:
        features, classes, attributes, metrics = struct.unpack("<Iiii", numbers)
        if features < 1 << 31 and 0 <= classes < 1 << 20 and attributes in (0, 1) and metrics in (0, 1):
            return "binary"
    return None


def check(path: Path, body: bytes | bytearray, settings: Settings) -> None:
    """Raises ``ModelLoadError`` for what is no whole model, ``ModelRefused`` for a pickle that may not be read."""
    kind = format_of(body)
    if kind == "pickle":
        pickles.check_allowed(path, settings, f"booster.save_model({MODEL_FILE + UBJ_SUFFIX!r})")
    elif kind == "ubj":
        try:
            check_ubj(body)
        except ValueError as error:
            raise ModelLoadError(
                f"{path} is not whole UBJSON: {error}. Copy it again, or save the model anew."
            ) from None
    elif kind is None:
        begins = "nothing" if not body else repr(bytes(body[:16]))
        raise ModelLoadError(
            f"{path} is no model of XGBoost: it begins with {begins}. It must be what booster.save_model wrote "
            "(UBJSON, JSON, or the binary format of old versions), or a pickled booster."
        )


def check_ubj(body: bytes | bytearray) -> None:
    """Walks over the structure; raises ``ValueError`` where that leads out of the file.

    XGBoost's own reader reads on behind the end of the memory that it is given.
    """
    try:
        position = _walk(body)
    except (IndexError, struct.error):
        position = len(body) + 1
    if position > len(body):
        raise ValueError(f"it ends in the middle, after {len(body)} bytes")


def _walk(body: bytes | bytearray) -> int:
    """Where the first value ends. Raises ``IndexError`` or ``struct.error`` where it ends early."""
    position = 0
    open_: list[tuple[bool, int | None]] = []  # is it an object? how many entries are left, None: until a bracket
    while True:
        if open_:
            is_object, left = open_.pop()
            if left == 0 or (left is None and body[position] == (0x7D if is_object else 0x5D)):
                position += left is None
                if not open_:
                    return position
                continue
            open_.append((is_object, None if left is None else left - 1))
            if is_object:
                length, position = _integer(body, position)
                position = _forward(body, position, length)
        marker = bytes(body[position : position + 1])
        position += 1
        if marker in (b"{", b"["):
            kind, left, position = _head(body, position)
            if kind is None or left is None:
                open_.append((marker == b"{", left))
            else:  # a list of numbers of one size
                position = _forward(body, position, left * _SIZES[kind])
        elif marker == b"S":
            length, position = _integer(body, position)
            position = _forward(body, position, length)
        elif marker in _SIZES:
            position = _forward(body, position, _SIZES[marker])
        elif marker not in _CONSTANTS:
            if not marker:
                raise IndexError
            raise ValueError(f"there is {marker!r} at byte {position - 1}")
        if not open_:
            return position


def _head(body: bytes | bytearray, position: int) -> tuple[bytes | None, int | None, int]:
    """The type and the count that a list may begin with, and where its entries begin."""
    kind = count = None
    if body[position] == 0x24:  # $
        kind = bytes(body[position + 1 : position + 2])
        if kind not in _SIZES:
            if not kind:
                raise IndexError
            raise ValueError(f"there is a list of {kind!r} at byte {position}")
        position += 2
    if body[position] == 0x23:  # #
        count, position = _integer(body, position + 1)
    return kind, count, position


def _integer(body: bytes | bytearray, position: int) -> tuple[int, int]:
    marker = bytes(body[position : position + 1])
    if marker not in _INTEGERS:
        if not marker:
            raise IndexError
        raise ValueError(f"there is {marker!r} in place of a length at byte {position}")
    (value,) = struct.unpack_from(_INTEGERS[marker], body, position + 1)
    if value < 0:
        raise ValueError(f"there is a length of {value} at byte {position}")
    return value, position + 1 + _SIZES[marker]


def _forward(body: bytes | bytearray, position: int, count: int) -> int:
    if position + count > len(body):
        raise IndexError
    return position + count
