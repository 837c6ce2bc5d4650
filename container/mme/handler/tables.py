"""Request bodies to tables: rows of values, in columns that may have names, for models that are no networks.

    text/csv                a row per sample; with a first row of names where the model knows its columns by name. An
                            empty cell is a missing value. ``label_size=N`` in the type: the first N columns are dropped
    text/libsvm             a line of index:value per sample, counted from 0
    application/json        rows, one row, {"instances": …}, {"columns": […], "data": […]} as pandas writes it, records
                            ({"rooms": 3, "garage": "yes"}, or a list of them), or columns ({"rooms": [3, 4], …})
    application/jsonlines   a row or a record per line
    application/x-npy       an array, (N, columns) or one row
    application/x-npz       such an array, an array per column by its name, or a sparse matrix

A model gets ``{"data": (N, columns)}``; one that knows its columns by name gets each of them, (N,), by its name. What
is missing is NaN, also among texts. Whether texts are read, a table says.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mme.errors import BadRequest
from mme.frameworks.base import TensorSpec, means_no_memory
from mme.frameworks.table import DATA, METHOD, Table
from mme.handler import formats
from mme.handler.payload import (
    CSV,
    JSON,
    JSON_LINES,
    LINES_TYPES,
    NPY,
    NPZ,
    UNTYPED,
    Body,
    BodyReader,
    Request,
    brief,
    sniffed,
)

LIBSVM = "text/libsvm"
_LIBSVM_TYPES = (LIBSVM, "text/x-libsvm")
_TEXT = "text/plain"
_WRAPPERS = ("instances", "inputs", "dataframe_split", "dataframe_records")
_LABEL_SIZE = re.compile(r"label_size\s*=\s*\"?(\d{1,4})\"?\s*(?:;|$)", re.IGNORECASE)
_METHOD = re.compile(r"predict_method\s*=\s*\"?(\w{1,40})")
_CELL_BYTES = 64  # what Python takes for a cell of text
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class _Rows:
    """What a body holds: an array (N, columns), or lists of lists, and the names of the columns where it has them."""

    values: np.ndarray | Sequence[Sequence[Any]]
    names: tuple[str, ...] | None = None


class TableReader(BodyReader):
    """Reads the bodies of requests for one model of tables."""

    def __init__(self, table: Table, most_bytes: int) -> None:
        super().__init__([TensorSpec(DATA, (1, table.width or 1), table.dtype, allows_missing=True)], None, most_bytes)
        self._table = table
        self._takes = f"The model takes {table}"
        self._is_numeric = not (table.takes_text or table.documents or table.by_name)
        readable = [CSV, JSON, JSON_LINES, NPY, NPZ, *([LIBSVM] if table.width is not None else [])]
        self.readable = ", ".join(readable + ([_TEXT] if table.documents else []))

    def read(self, request: Request) -> dict[str, np.ndarray]:
        """The table of one request, as the model gets it. Raises ``BadRequest`` or ``UnsupportedMediaType``."""
        if "body" not in request.parts:
            if request.parts:
                raise BadRequest(f"The multipart body has no part named body. {self._takes}.")
            raise self._unsupported(request.content_type)
        rows = self._rows(request.parts["body"], request.part_type("body"), request)
        names = rows.names
        values = rows.values
        if names is not None:
            values = self._in_order(names, values)
        if self._table.documents:
            arrays = {DATA: self._documents(values)}
        elif self._table.by_name:
            arrays = self._by_column(values)
        else:
            arrays = {DATA: self._matrix(values)}
        if self._table.methods:
            arrays[METHOD] = np.full(len(next(iter(arrays.values()))), self._method(request.accept), np.int8)
        return arrays

    def _method(self, accept: str) -> int:
        """Which of the model's methods is asked for, by its position."""
        found = _METHOD.search(accept) if "predict_method" in accept else None
        if found is None:
            return 0
        if found[1] not in self._table.methods:
            raise BadRequest(f"predict_method={found[1]} is none of the model's: {', '.join(self._table.methods)}.")
        return self._table.methods.index(found[1])

    # ---- bodies to rows ----

    def _rows(self, body: Body, media_type: str, request: Request) -> _Rows:
        if not isinstance(body, bytes | bytearray | str):
            return self._rows_of_json(body)
        if len(body) == 0:
            raise self._empty()
        if media_type in UNTYPED:
            media_type = sniffed(body) or media_type
        if media_type == JSON:
            return self._rows_of_json(self._parsed(body))
        if media_type in LINES_TYPES:
            values = self._lines(body)
            return self._rows_of_json(values[0] if len(values) == 1 and isinstance(values[0], Mapping) else values)
        if media_type == CSV:
            return self._rows_of_csv(self._text(body), _label_size(request))
        if media_type in _LIBSVM_TYPES and self._table.width is not None:
            return self._rows_of_libsvm(self._text(body), self._table.width)
        if media_type == NPY:
            return self._rows_of_npy(self._bytes(body))
        if media_type == NPZ:
            return self._rows_of_npz(self._bytes(body))
        if media_type == _TEXT and self._table.documents:
            return _Rows([[self._text(body)]])
        raise self._unsupported(media_type)

    def _text(self, body: bytes | bytearray | str) -> str:
        try:
            text = body if isinstance(body, str) else body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise BadRequest(f"The body is not text in UTF-8. {self._takes}.") from None
        if text.isspace():
            raise self._empty()
        return text

    def _rows_of_csv(self, text: str, label_size: int) -> _Rows:
        names = self._header(text, label_size)
        if names is not None:
            text = text.split("\n", 1)[1] if "\n" in text else ""
            if not text or text.isspace():
                raise self._empty()
        try:
            if self._is_numeric:
                values: Any = formats.read_csv(text, missing_as_nan=True)[:, label_size:]
                one_sample = self._table.width not in (None, 1) and values.shape == (self._table.width, 1)
                return _Rows(values.reshape(1, -1) if one_sample else values, names)
            return _Rows(self._cells(text, label_size, names), names)
        except (ValueError, csv.Error) as error:
            if isinstance(error, BadRequest) or means_no_memory(error):
                raise
            header = "" if self._table.columns else ", without a header"
            raise BadRequest(f"The CSV must have a row per sample{header} ({brief(error)}). {self._takes}.") from None

    def _header(self, text: str, label_size: int) -> tuple[str, ...] | None:
        """The names in the first row, where at least one of them is a column of the model."""
        if not self._table.columns:
            return None
        try:
            cells = next(csv.reader([text.split("\n", 1)[0]], strict=True), [])
        except csv.Error:
            return None
        names = tuple(cell.strip() for cell in cells)[label_size:]
        return names if not set(self._table.columns).isdisjoint(names) else None

    def _cells(self, text: str, label_size: int, names: tuple[str, ...] | None) -> list[list[Any]]:
        """Columns of numbers where all their cells are numbers, of texts where not; missing cells are None."""
        if (text.count(",") + text.count("\n")) * _CELL_BYTES > self._most_bytes:
            raise BadRequest(f"The CSV has too many cells. Send fewer samples at a time. {self._takes}.")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [row[label_size:] for row in lines if row and not (len(row) == 1 and not row[0].strip())]
        if self._table.documents:
            return rows
        if len({len(row) for row in rows}) > 1:
            raise ValueError("its rows have different numbers of cells")
        texts = [name in self._table.text_columns for name in names or self._table.columns]
        columns = [
            _texts(cells) if position < len(texts) and texts[position] else _numbers(cells)
            for position, cells in enumerate(zip(*rows, strict=True))
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def _rows_of_libsvm(self, text: str, width: int) -> _Rows:
        try:
            return _Rows(
                formats.read_libsvm(text, columns=width, absent=self._table.absent, most_bytes=self._most_bytes)
            )
        except ValueError as error:
            if means_no_memory(error):
                raise
            raise BadRequest(f"The body is not libsvm: {brief(error, 200)}. {self._takes}.") from None

    def _rows_of_npy(self, body: bytes | bytearray) -> _Rows:
        try:
            array = formats.read_npy(body, kinds="biuf" if self._is_numeric else "biufU")
        except ValueError as error:
            raise BadRequest(
                f"The body is not an array as numpy.save writes it: {brief(error)}. {self._takes}."
            ) from None
        return _Rows(self._two_dimensional(array))

    def _rows_of_npz(self, body: bytes | bytearray) -> _Rows:
        try:
            arrays = formats.read_npz(
                body,
                columns=self._table.width or 0,
                itemsize=self._table.dtype.itemsize,
                most_bytes=self._most_bytes,
                absent=self._table.absent,
            )
        except ValueError as error:
            raise BadRequest(
                f"The body is not an NPZ file as numpy.savez or scipy.sparse.save_npz writes it: {brief(error, 300)}. "
                f"{self._takes}."
            ) from None
        if len(arrays) == 1 and next(iter(arrays)) not in self._table.columns:
            return _Rows(self._two_dimensional(next(iter(arrays.values()))))
        if len({each.shape for each in arrays.values()}) != 1 or next(iter(arrays.values())).ndim != 1:
            raise BadRequest(f"The NPZ file must hold one array, or one (N,) per column. {self._takes}.")
        return _Rows(_listed(list(zip(*(each.tolist() for each in arrays.values()), strict=True))), tuple(arrays))

    def _two_dimensional(self, array: np.ndarray) -> np.ndarray:
        """(N, columns) of what may be one row, or one column for a model of one."""
        if array.ndim == 0 or array.ndim > 2:
            raise BadRequest(f"The array has the shape {array.shape}. {self._takes}.")
        if array.ndim == 1:
            array = array.reshape(-1, 1) if self._table.width == 1 or self._table.documents else array.reshape(1, -1)
        return array

    def _rows_of_json(self, value: Any) -> _Rows:
        if isinstance(value, Mapping):
            wrapper = next((key for key in _WRAPPERS if key in value and key not in self._table.columns), None)
            value = value[wrapper] if wrapper else value
        if isinstance(value, Mapping):
            return self._rows_of_object(value)
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise BadRequest(f"The JSON holds neither rows nor records. {self._takes}.")
        value = [self._features_of(each) for each in value]
        kinds = {type(each) for each in value}
        if not value:
            raise BadRequest(f"The JSON holds no sample. {self._takes}.")
        if kinds == {dict}:
            names = self._table.columns or tuple(value[0])
            for record in value:
                self._check_columns(names, tuple(record))
            return _Rows([[record[name] for name in names] for record in value], names)
        if kinds == {list}:
            return _Rows(value)
        if kinds & {dict, list}:
            raise BadRequest(f"The JSON mixes rows, records and values. {self._takes}.")
        one_column = self._table.documents or self._table.width == 1
        return _Rows([[each] for each in value] if one_column else [value])

    def _features_of(self, value: Any) -> Any:
        return value if "features" in self._table.columns else super()._features_of(value)

    def _rows_of_object(self, value: Mapping[str, Any]) -> _Rows:
        """As pandas writes a data frame (orient="split"), or one record, or columns."""
        if DATA in value and value.keys() <= {DATA, "columns", "index"} and DATA not in self._table.columns:
            rows = self._rows_of_json(value[DATA])
            names = value.get("columns")
            if names is None or rows.names is not None:
                return rows
            if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
                raise BadRequest(f'"columns" must be a list of names. {self._takes}.')
            return _Rows(rows.values, tuple(map(str, names)))
        features = self._features_of(value)
        if features is not value:
            return self._rows_of_json([features])
        columns = list(value.values())
        if columns and all(isinstance(column, list) for column in columns):
            if len({len(column) for column in columns}) != 1:
                raise BadRequest(f"The columns have different numbers of values. {self._takes}.")
            return _Rows(_listed(list(zip(*columns, strict=True))), tuple(value))
        return _Rows([columns], tuple(value))

    # ---- rows to what the model gets ----

    def _in_order(self, names: tuple[str, ...], values: Any) -> Any:
        """The columns in the model's order."""
        known = self._table.columns
        if not known or names == known:
            return values
        self._check_columns(known, names)
        order = [names.index(name) for name in known]
        if isinstance(values, np.ndarray):
            self._check_width(values.shape[1], len(names))
            return values[:, order]
        for row in values:
            self._check_width(len(row), len(names))
        return [[row[position] for position in order] for row in values]

    def _check_columns(self, known: tuple[str, ...], found: tuple[str, ...]) -> None:
        missing = [name for name in known if name not in found]
        unknown = [name for name in found if name not in known]
        if missing or unknown or len(found) != len(known):
            parts = [f"{', '.join(missing[:10])} missing"] if missing else []
            parts += [f"{', '.join(str(name)[:40] for name in unknown[:10])} unknown"] if unknown else []
            raise BadRequest(f"The columns are not the model's: {'; '.join(parts) or 'one is twice'}. {self._takes}.")

    def _check_width(self, found: int, wanted: int | None) -> None:
        if wanted is not None and found != wanted:
            raise BadRequest(f"A row has {found} values, not {wanted}. {self._takes}.")

    def _matrix(self, values: Any) -> np.ndarray:
        """(N, columns) numbers; objects where there are texts, and the model takes them."""
        if not isinstance(values, np.ndarray):
            has_text = any(isinstance(cell, str) for row in values for cell in row)
            if has_text and self._table.takes_text:
                columns = list(self._columns_of(values).values())
                matrix = np.empty((len(values), len(columns)), object)
                for position, column in enumerate(columns):
                    matrix[:, position] = column
                return matrix
            if has_text:
                raise BadRequest(f"There is text among the numbers. {self._takes}.")
            try:
                values = np.array(values, dtype=np.float64)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                if means_no_memory(error):
                    raise
                raise BadRequest(f"The rows are no numbers in equal lengths ({brief(error)}). {self._takes}.") from None
        if values.ndim != 2 or len(values) == 0:
            raise BadRequest(f"The rows have the shape {values.shape}. {self._takes}.")
        self._check_width(values.shape[1], self._table.width)
        if values.dtype.kind == "U":
            return values.astype(object)
        with np.errstate(over="ignore", invalid="ignore"):
            converted = values.astype(self._table.dtype, copy=False)
        if converted.dtype.kind == "f" and np.isinf(converted).any():
            raise BadRequest(f"A value is not a finite {converted.dtype} number. {self._takes}.")
        return converted

    def _by_column(self, values: Any) -> dict[str, np.ndarray]:
        if isinstance(values, np.ndarray):
            self._check_width(values.shape[1], len(self._table.columns))
            if values.dtype.kind != "U":
                matrix = self._matrix(values)
                return {name: matrix[:, position] for position, name in enumerate(self._table.columns)}
            values = values.tolist()
        return self._columns_of(values)

    def _columns_of(self, rows: Sequence[Sequence[Any]]) -> dict[str, np.ndarray]:
        """Each column as an array of its own type: whole numbers, numbers, truth values, or texts."""
        for row in rows:
            if not isinstance(row, list):
                raise BadRequest(f"A row is not a list of values. {self._takes}.")
            self._check_width(len(row), self._table.width)
        if not rows or len({len(row) for row in rows}) != 1 or not rows[0]:
            raise BadRequest(f"The rows have different numbers of values, or none. {self._takes}.")
        names = self._table.columns or tuple(map(str, range(len(rows[0]))))
        return {name: self._column(name, cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}

    def _column(self, name: str, cells: tuple[Any, ...]) -> np.ndarray:
        types = set(map(type, cells))
        if not types <= {int, float, bool, str, type(None)}:
            raise BadRequest(f"Column {name} holds lists or objects. {self._takes}.")
        if str in types:
            column = np.empty(len(cells), object)
            column[:] = [np.nan if cell is None else cell for cell in cells]
            return column
        kind = bool if types == {bool} else np.int64 if types <= {int, bool} else np.float64
        try:
            column = np.array(cells, kind)
        except OverflowError:
            column = np.array(cells, np.float64)
        if kind is np.float64 and np.isinf(column).any():
            raise BadRequest(f"A value of column {name} is not a finite number. {self._takes}.")
        return column

    def _documents(self, values: Any) -> np.ndarray:
        rows = values.tolist() if isinstance(values, np.ndarray) else values
        if not rows or not all(isinstance(row, list) and len(row) == 1 and isinstance(row[0], str) for row in rows):
            raise BadRequest(f"A sample is not one text. {self._takes}.")
        texts = np.empty(len(rows), object)
        texts[:] = [row[0] for row in rows]
        return texts


def _listed(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(row) for row in rows]


def _numbers(cells: Sequence[str]) -> list[Any]:
    """One column of CSV: whole numbers, numbers, or texts; empty cells are None."""
    stripped = [cell.strip() for cell in cells]
    if all(map(_WHOLE_NUMBER.fullmatch, stripped)):
        return list(map(int, stripped))
    try:
        return [float(cell) if cell else None for cell in stripped]
    except ValueError:
        return _texts(cells)


def _texts(cells: Sequence[str]) -> list[Any]:
    return [cell if cell.strip() else None for cell in cells]


def _label_size(request: Request) -> int:
    match = _LABEL_SIZE.search(request.headers.get("content-type", ""))
    return int(match[1]) if match else 0
