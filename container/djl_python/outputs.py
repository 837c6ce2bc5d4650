"""What a model answers: a status, properties (the response's headers) and content by key."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from djl_python.pair_list import PairList


class Output:
    """The answer to one request, or to a batch: then content is added with ``batch_index``."""

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.json_keys: set[Any] = set()  # whose content was made JSON here
        self.stream_content: Iterator[Any] | None = None
        self.stream_output_formatter: Callable[[Any], Any] | None = None
        self.finalize_function: Callable[..., Any] | None = None
        self.finalize_args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"Output(code={self.code}, message={self.message!r}, keys={self.content.get_keys()})"

    def set_code(self, code: int) -> Output:
        """Sets the HTTP status."""
        self.code = code
        return self

    def set_message(self, message: str) -> Output:
        """Sets what the status is about."""
        self.message = message
        return self

    def error(self, error: str, code: int = 424, message: str = "invoke handler failure") -> Output:
        """Makes this an error: an object of JSON with code, message and error."""
        self.code, self.message = code, message
        self.add_property("content-type", "application/json")
        return self.add_as_json({"code": code, "message": message, "error": error})

    # ---- properties ----

    def add_property(self, key: str, val: Any) -> Output:
        """Adds a header."""
        self.properties[key] = val
        return self

    def get_properties(self) -> dict[str, Any]:
        """All headers by name."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """A header; None where there is none."""
        return self.properties.get(key)

    # ---- content ----

    def add(self, value: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds bytes or text as they are, anything else as JSON."""
        if key is not None:
            key = str(key)
        if batch_index is not None:
            key = f"batch_{batch_index}.{key or ''}"
        if not isinstance(value, str | bytes | bytearray):
            self.json_keys.add(key)
            value = _json(value)
        self.content.add(key, bytearray(value.encode() if isinstance(value, str) else value))
        return self

    def add_as_json(self, val: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds a value as JSON; NumPy's numbers and arrays may be in it. Raises ``ValueError`` and ``TypeError``."""
        self.add(_json(val), key, batch_index)
        self.json_keys.add(self.content.key_at(-1))
        return self

    def add_as_string(self, val: str, key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds text."""
        return self.add(str(val), key, batch_index)

    def add_as_numpy(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds an array, or a list of them, as an NDList, DJL's own format."""
        from djl_python.np_util import to_nd_list

        return self.add(to_nd_list(np_list), key, batch_index)

    def add_as_npz(self, np_list: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        """Adds a list of arrays as an NPZ file."""
        import numpy as np

        file = io.BytesIO()
        np.savez(file, *np_list)
        return self.add(file.getvalue(), key, batch_index)

    def add_stream_content(
        self, stream_content: Iterator[Any], output_formatter: Callable[[Any], Any] | None = None
    ) -> Output:
        """Answers with the pieces of an iterator, which are sent together; ``output_formatter`` is called with each."""
        self.stream_content = iter(stream_content)
        self.stream_output_formatter = output_formatter or _as_line
        return self

    # ---- after the answer ----

    def finalize(self, finalize_function: Callable[..., Any], *args: Any) -> Output:
        """Has ``finalize_function(*args)`` called once the answer is made."""
        self.finalize_function, self.finalize_args = finalize_function, args
        return self

    def execute_finalize(self) -> Any:
        """Calls what ``finalize`` was given."""
        return self.finalize_function(*self.finalize_args) if self.finalize_function else None


def _json(value: Any) -> str:
    # (a number that is none, NaN, is no JSON)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays have ``tolist``."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, datetime.datetime | datetime.date):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be put into JSON")


def _as_line(piece: Any) -> str:
    return _json({"outputs": piece}) + "\n"
