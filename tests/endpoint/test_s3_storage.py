"""Object data in files, and uploads in the framing of aws-chunked."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_endpoint.storage.object_files import LAZY_BYTES, MEMORY_BYTES, FileValue, ObjectBuffer, Pieces, stream_body


def upload(framed: bytes, length: int) -> dict[str, Any]:
    """The environ of an upload in aws-chunked, after ``stream_body``."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "PUT",
        "HTTP_X_AMZ_CONTENT_SHA256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "HTTP_X_AMZ_DECODED_CONTENT_LENGTH": str(length),
        "CONTENT_LENGTH": str(len(framed)),
        "wsgi.input": io.BytesIO(framed),
    }
    stream_body(environ)
    return environ


def framed(chunks: list[bytes], signature: bytes = b"", trailer: bytes = b"") -> bytes:
    parts = [b"%x%s\r\n%s\r\n" % (len(chunk), signature, chunk) for chunk in chunks]
    return b"".join(parts) + b"0" + signature + b"\r\n" + trailer + b"\r\n"


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.booleans(), st.integers(1, 400))
def test_the_framing_is_taken_off_however_it_is_read(chunks: list[bytes], signed: bool, size: int) -> None:
    signature = b";chunk-signature=" + b"0" * 64 if signed else b""
    whole = b"".join(chunks)
    assert upload(framed(chunks, signature), len(whole))["wsgi.input"].read() == whole
    stream = upload(framed(chunks, signature), len(whole))["wsgi.input"]
    assert b"".join(iter(lambda: stream.read(size), b"")) == whole


def test_the_checksum_after_the_data_becomes_a_header() -> None:
    environ = upload(framed([b"abc"], trailer=b"x-amz-checksum-crc32:NSRBwg==\r\n"), 3)
    assert environ["CONTENT_LENGTH"] == "3"
    assert environ["wsgi.input"].read() == b"abc"
    assert environ["HTTP_X_AMZ_CHECKSUM_CRC32"] == "NSRBwg=="


def test_an_upload_that_is_cut_short_is_an_error() -> None:
    environ = upload(b"a\r\nabc", 10)
    with pytest.raises(EOFError):
        environ["wsgi.input"].read()


@pytest.mark.parametrize("size", [0, 1, MEMORY_BYTES, MEMORY_BYTES + 1, LAZY_BYTES, LAZY_BYTES + 5])
def test_an_object_comes_back_as_it_was_and_its_file_goes_with_it(tmp_path: Path, size: int) -> None:
    numbers = itertools.count()
    buffer = ObjectBuffer(lambda: tmp_path / str(next(numbers)))
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    buffer.write(data)
    buffer.seek(0)
    value = buffer.read()
    assert len(value) == size
    assert bytes(value) == data
    assert bytes(value[10:20]) == data[10:20]
    buffer.seek(0)
    assert b"".join(iter(lambda: bytes(buffer.read(100_000)), b"")) == data
    assert len(list(tmp_path.iterdir())) == (size > MEMORY_BYTES)
    buffer.close()
    assert bytes(value) == data  # whoever reads it may finish
    assert not list(tmp_path.iterdir())


def test_slices_of_slices_are_right(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    value = FileValue(tmp_path / "file")
    assert bytes(value[10:50][5:10]) == bytes(range(15, 20))
    assert bytes(value[90:200]) == bytes(range(90, 100))
    assert len(value[50:40]) == 0


def test_large_answers_are_cut_into_pieces() -> None:
    pieces = list(Pieces([b"a" * 1_000_000, b"b"]))
    assert b"".join(pieces) == b"a" * 1_000_000 + b"b"
    assert max(map(len, pieces)) <= 256 * 1024
