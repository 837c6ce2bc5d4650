"""Bytes to arrays, format by format, whatever model they are for: CSV, NPY, NPZ, base64.

A file says itself how large it will be: the head of an NPY its shape, a ZIP what its members unpack to, a sparse matrix
its rows and columns. Each is compared with a limit before memory is taken. What cannot be read raises ``ValueError``.

    application/x-npz   a ZIP of NPY files, one per array, as numpy.savez writes it; or as scipy.sparse.save_npz does:
                        format   bytes or text, csr, csc or coo
                        shape    (rows, columns)
                        data     the numbers, and where they are:
                        csr, csc: indices, indptr     coo: row, col
    text/libsvm         a line per row: 3.5 0:1.25 7:-2, the first number a label, which may be left out
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

NPY_MAGIC = b"\x93NUMPY"
NPZ_MAGIC = b"PK\x03\x04"
_LONGEST_NPY_HEAD = 65535
_MOST_MEMBERS = 64  # of an NPZ file
# as numpy.save writes it: version 1.0, the length of the head, the head; none of it may mean anything else
_USUAL_NPY_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, )*\d{1,18},?|)\), \} *\n",
    re.DOTALL,
)
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
_NOT_OF_BASE64 = str.maketrans("-_", "+/", " \t\r\n=")


def read_csv(text: str, *, missing_as_nan: bool) -> np.ndarray:
    """Rows of numbers, perhaps in quotes: (rows, columns) float64."""
    # a file, not a list of lines: a line takes many times the memory of its digits
    lines: Iterator[str] = (line for line in io.StringIO(text, newline=None) if not line.isspace())
    if missing_as_nan:
        lines = (",".join(cell.strip() or "nan" for cell in row) + "\n" for row in csv.reader(lines, strict=True))
    try:
        return np.loadtxt(lines, delimiter=",", quotechar='"', dtype=np.float64, comments=None, ndmin=2)
    except csv.Error as error:
        raise ValueError(str(error)) from None


def read_npy(body: bytes | bytearray, *, kinds: str = "biuf") -> np.ndarray:
    """An array as ``numpy.save`` writes it, of one of ``kinds`` (``numpy.dtype.kind``); it shares the body's memory.

    Reads the head of the file apart from its data: ``numpy.load`` allocates whatever a head claims.
    """
    shape, fortran_order, dtype, start = _checked_npy_head(body)
    if dtype.kind not in kinds:
        raise ValueError(f"its type is {dtype}, not numbers")
    length = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or length != len(body) - start:
        raise ValueError(f"its head says {length} bytes of data, it has {len(body) - start}")
    try:
        return np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C")
    except TypeError as error:
        raise ValueError(str(error)) from None


def _checked_npy_head(body: bytes | bytearray) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """As ``_npy_head``; raises ``ValueError`` alone: Python's compiler even says MemoryError of nested brackets."""
    try:
        return _npy_head(body)
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _npy_head(body: bytes | bytearray) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order, type, and where the data starts. Raises one of the many errors of NumPy's reader.

    NumPy's own asks Python's compiler to read the head, which is slow, the first time above all, and fills memory.
    """
    usual = _USUAL_NPY_HEAD.match(body)
    if usual:
        head_bytes, kind, fortran_order, shape = usual.groups()
        start = usual.end(1) + int.from_bytes(head_bytes, "little")
        if usual.end() == start:
            numbers = tuple(map(int, shape.replace(b",", b" ").split()))
            return numbers, fortran_order == b"True", np.dtype(kind.decode()), start
    file = io.BytesIO(body)
    if np.lib.format.read_magic(file) == (1, 0):
        found = np.lib.format.read_array_header_1_0(file)
    elif int.from_bytes(body[8:12], "little") <= _LONGEST_NPY_HEAD:
        found = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError("its head is too long")
    return (*found, file.tell())


def read_libsvm(text: str, *, columns: int, absent: float, most_bytes: int) -> np.ndarray:
    """Lines of ``index:value``, counted from 0, perhaps with a label before them: (lines, ``columns``) float32.

    What a line does not name is ``absent``; a label, ``qid:…`` and what follows a ``#`` do not count.
    """
    lines = [line for line in (line.split("#", 1)[0].split() for line in text.splitlines()) if line]
    _check_size(len(lines) * columns * 4, most_bytes)
    rows = np.full((len(lines), columns), absent, np.float32)
    for number, line in enumerate(lines):
        for position, pair in enumerate(line):
            index, separator, value = pair.partition(":")
            if (position == 0 and not separator) or index == "qid":
                continue
            if not (index.isascii() and index.isdigit()) or not separator:
                raise ValueError(f"line {number + 1}: {pair[:40]!r} is not index:value")
            if len(index) > 9 or int(index) >= columns:
                raise ValueError(f"line {number + 1}: index {index[:20]} is not from 0 to {columns - 1}")
            with np.errstate(over="ignore"):
                rows[number, int(index)] = float(value)
    return rows


def read_npz(
    body: bytes | bytearray, *, columns: int | None, itemsize: int, most_bytes: int, absent: float = 0.0
) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name; a sparse matrix as the one array ``""``, (rows, ``columns``).

    ``columns`` None: as many as it has.

    All arrays together take at most ``most_bytes``, a sparse matrix when it is dense, in numbers of ``itemsize`` bytes.
    What a sparse matrix has no entry for is ``absent``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as file:
            members = file.infolist()
            if len(members) > _MOST_MEMBERS:
                raise ValueError(f"it holds {len(members)} arrays, more than {_MOST_MEMBERS}")
            unpacked_bytes = sum(member.file_size for member in members)
            _check_size(unpacked_bytes, most_bytes)
            files = {member.filename.removesuffix(".npy"): _unpacked(file, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from None
    sparse = "format" in files and "shape" in files
    arrays = {name: read_npy(data, kinds="biufSU" if sparse else "biuf") for name, data in files.items()}
    return {"": _dense(arrays, columns, itemsize, most_bytes, absent)} if sparse else arrays


def _unpacked(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """No more than the directory says: ``ZipFile.read`` unpacks whatever there is, and looks at the size afterwards."""
    with file.open(member) as opened:
        return opened.read(member.file_size)


def _check_size(unpacked_bytes: int, most_bytes: int) -> None:
    if unpacked_bytes > most_bytes:
        raise ValueError(
            f"it unpacks to {unpacked_bytes >> 20} MiB, more than the {most_bytes >> 20} MiB that a request may take "
            "(MME_MAX_IMAGE_MEGAPIXELS raises it); send fewer samples at a time"
        )


def _dense(
    arrays: Mapping[str, np.ndarray], columns: int | None, itemsize: int, most_bytes: int, absent: float
) -> np.ndarray:
    """A sparse matrix as ``scipy.sparse.save_npz`` writes it, as (rows, columns); entries of one place are added."""
    kind = arrays["format"]
    name = kind.item().decode("ascii", "replace") if kind.dtype.kind == "S" and kind.size == 1 else str(kind)
    needed = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}.get(name)
    if needed is None:
        raise ValueError(f"its sparse format is {name[:20]!r}, not csr, csc or coo (matrix.tocsr() makes one)")
    missing = [each for each in ("shape", "data", *needed) if each not in arrays]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    shape, data = arrays["shape"], arrays["data"]
    positions = [arrays[each] for each in needed]
    if shape.shape != (2,) or any(each.dtype.kind not in "iu" for each in (shape, *positions)):
        raise ValueError("it is no sparse matrix of rows and columns")
    rows, width = map(int, shape)
    if columns is not None and width != columns:
        raise ValueError(f"it has {width} columns, not {columns}")
    if rows < 0:
        raise ValueError(f"it has {rows} rows")
    _check_size(rows * width * itemsize, most_bytes)
    if name == "coo":
        row, column = positions
    else:
        inner, starts = positions
        outer = rows if name == "csr" else width
        starts = starts.astype(np.int64)
        if starts.shape != (outer + 1,) or starts[0] != 0 or starts[-1] != len(inner) or (np.diff(starts) < 0).any():
            raise ValueError("its indptr does not fit its shape")
        lengthened = np.repeat(np.arange(outer), np.diff(starts))
        row, column = (lengthened, inner) if name == "csr" else (inner, lengthened)
    if not row.shape == column.shape == data.shape or data.ndim != 1 or data.dtype.kind not in "biuf":
        raise ValueError("its data and its positions do not fit together")
    if len(row) and (min(row.min(), column.min()) < 0 or row.max() >= rows or column.max() >= width):
        raise ValueError("a position lies outside of its shape")
    dense = np.zeros((rows, width), np.float64 if itemsize > 4 else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(dense, (row, column), data.astype(dense.dtype))
    if absent != 0:
        present = np.zeros((rows, width), bool)
        present[row, column] = True
        dense[~present] = absent
    return dense


def read_base64(text: str) -> bytes:
    """What base64 stands for: with or without padding and line breaks, of either alphabet, or in a data URL."""
    url = _DATA_URL.match(text)
    digits = (text[url.end() :] if url else text).translate(_NOT_OF_BASE64)
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64") from None
