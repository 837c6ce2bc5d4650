"""Keeps S3's object data in files and streams uploads into them, where moto would hold them in memory several times.

moto 5.2.5 reads a body whole, decodes aws-chunked by repeated concatenation, spools it through a second buffer in
memory (``SpooledTemporaryFile`` rolls over after the write), and joins the parts of a multipart upload in memory.
``ObjectFiles.install`` replaces the buffer and the joining; ``stream_body`` is put before moto for every upload.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import escape

import moto.s3.models as moto_s3
import moto.s3.responses as moto_s3_responses
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.wrappers import Response

MEMORY_BYTES = 64 * 1024
# From this size on moto gets a FileValue where it asks for an object's bytes.
LAZY_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 256 * 1024


class FileValue:
    """Bytes that are in a file, or a slice of them. moto passes it on as if it were ``bytes``; read it by iterating.

    The file is open from the beginning, so that an object may be replaced or deleted meanwhile.
    """

    def __init__(self, path: Path, owns_file: bool = False) -> None:
        """``owns_file``: whoever stores the value may take the file itself instead of copying it."""
        self.path = path
        self.owns_file = owns_file
        self._file = path.open("rb")
        self._start = 0
        self._length = path.stat().st_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, item: slice) -> FileValue:
        start, stop, _ = item.indices(self._length)
        part = copy.copy(self)
        part.owns_file = False
        part._start = self._start + start
        part._length = max(0, stop - start)
        return part

    def __iter__(self) -> Iterator[bytes]:
        position, end = self._start, self._start + self._length
        while position < end:
            piece = os.pread(self._file.fileno(), min(PIECE_BYTES, end - position), position)
            if not piece:
                raise EOFError(f"{self.path} was cut short")
            position += len(piece)
            yield piece

    def __bytes__(self) -> bytes:
        return b"".join(self)


class ObjectBuffer:
    """What moto keeps an object's data in: small ones in memory, others in a file that is open only while it is used.

    (An open file per object would soon meet the limit of open files.)
    """

    def __init__(self, new_path: Callable[[], Path]) -> None:
        self._new_path = new_path
        self._small = b""
        self._path: Path | None = None
        self._position = 0

    def seek(self, position: int) -> None:
        self._position = position

    def truncate(self) -> None:
        """Only ever called at position 0."""
        self.close()

    def write(self, value: bytes | FileValue) -> None:
        """Only ever called once, on an empty buffer."""
        if len(value) <= MEMORY_BYTES:
            self._small = bytes(value)
            return
        if isinstance(value, FileValue) and value.owns_file:
            self._path = value.path
            return
        path = self._new_path()
        with told_if_full(path), path.open("wb") as file:
            if isinstance(value, FileValue):
                file.writelines(value)
            else:
                file.write(value)
        self._path = path

    def read(self, size: int = -1) -> bytes | FileValue:
        """All of a large object comes as ``FileValue``."""
        if self._path is None:
            small = self._small[self._position :] if size < 0 else self._small[self._position : self._position + size]
            self._position += len(small)
            return small
        if size < 0 and self._position == 0 and self._path.stat().st_size >= LAZY_BYTES:
            return FileValue(self._path)
        with self._path.open("rb") as file:
            file.seek(self._position)
            piece = file.read(size)
        self._position += len(piece)
        return piece

    def close(self) -> None:
        self._small = b""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def save(self, path: Path) -> None:
        """Writes the data to ``path``, without copying where both are on one file system."""
        temporary = path.with_name(path.name + ".new")
        temporary.unlink(missing_ok=True)
        with told_if_full(temporary):
            if self._path is None:
                temporary.write_bytes(self._small)
            else:
                copy_file(self._path, temporary)
            temporary.replace(path)


def copy_file(source: Path, target: Path) -> None:
    """A second name for the same data where that is possible (object data never changes), else a copy."""
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as read, target.open("wb") as write:
            while piece := read.read(PIECE_BYTES):
                write.write(piece)


class ObjectFiles:
    """The folder of one local endpoint's object data, and moto's use of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._tempfile = moto_s3.tempfile
        self._complete = moto_s3.FakeMultipart.complete
        self._compute_checksum = moto_s3_responses.compute_checksum
        folder.mkdir(parents=True, exist_ok=True)

    def new_path(self) -> Path:
        return self._folder / f"object-{next(self._numbers)}"

    def install(self) -> None:
        """From now on moto's S3 keeps its data here."""
        new_path = self.new_path

        def complete(multipart: Any, body: Iterator[tuple[int, str]]) -> Any:
            return _complete(multipart, body, new_path)

        buffers = SimpleNamespace(SpooledTemporaryFile=lambda *_, **__: ObjectBuffer(new_path))
        _set(moto_s3, "tempfile", buffers)
        _set(moto_s3.FakeMultipart, "complete", complete)
        _set(
            moto_s3_responses,
            "compute_checksum",
            lambda body, *rest, **named: self._compute_checksum(bytes(body), *rest, **named),
        )

    def uninstall(self) -> None:
        _set(moto_s3, "tempfile", self._tempfile)
        _set(moto_s3.FakeMultipart, "complete", self._complete)
        _set(moto_s3_responses, "compute_checksum", self._compute_checksum)


def _set(owner: Any, name: str, value: Any) -> None:
    """An assignment to somebody else's attribute, which no type checker approves of."""
    setattr(owner, name, value)


def _complete(multipart: Any, body: Iterator[tuple[int, str]], new_path: Callable[[], Path]) -> Any:
    """As ``FakeMultipart.complete``, with the parts joined in a file. Returns (value, etag, checksum details)."""
    algorithm = multipart.metadata.get("x-amz-checksum-algorithm")
    checksum = moto_s3.MultipartChecksumBuilder(algorithm, multipart.metadata.get("x-amz-checksum-type"))
    # a checksum of the whole object would need the whole object; it is left out then, which S3 allows
    sums_parts = checksum.checksum_type == "COMPOSITE"
    md5s = bytearray()
    path = new_path()
    count, last_size = 0, None
    with told_if_full(path), path.open("wb") as joined:
        for number, etag in body:
            part = multipart.parts.get(number)
            wanted = etag.strip('"')
            if part is None or part.etag.strip('"') != wanted:
                raise moto_s3.InvalidPart()
            if last_size is not None and last_size < moto_s3.S3_UPLOAD_PART_MIN_SIZE:
                raise moto_s3.EntityTooSmall()
            md5s += bytes.fromhex(wanted)
            value = part.value
            joined.writelines(value if isinstance(value, FileValue) else [value])
            if sums_parts:
                checksum.addPart(bytes(value))
            last_size = part.contentsize
            count += 1
    if count == 0:
        path.unlink()
        raise moto_s3.MalformedXML()
    multipart.dispose()
    etag = f"{moto_s3.md5_hash(bytes(md5s)).hexdigest()}-{count}"
    return FileValue(path, owns_file=True), etag, checksum.build() if sums_parts else None


class StorageFull(HTTPException):
    """The disk takes no more. AWS has no such error; the code and status say what is the matter."""

    code = 507

    def __init__(self, folder: Path, error: OSError) -> None:
        text = (
            f"The object cannot be stored in {folder}: {error.strerror}. Nothing of it was kept. Free space there, or "
            "start the local endpoint where there is more (TMPDIR, --state)."
        )
        body = f"<Error><Code>InsufficientStorage</Code><Message>{escape(text)}</Message></Error>"
        super().__init__(text, Response(body, 507, content_type="application/xml"))


@contextlib.contextmanager
def told_if_full(path: Path) -> Iterator[None]:
    """What is being written to ``path`` is whole, or gone and told of: raises ``StorageFull``."""
    try:
        yield
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StorageFull(path.parent, error) from None


class UploadCutShort(ClientDisconnected, EOFError):
    """A client went away in the middle of an upload. Werkzeug answers 400 (to nobody), and nothing is stored."""


class UploadStream(io.RawIOBase):
    """A request's body as ``wsgi.input``, without the framing of aws-chunked and in memory at most once.

    <hex length>[;chunk-signature=…]\\r\\n <bytes> \\r\\n   …   0[;…]\\r\\n  [trailer: value\\r\\n]  \\r\\n
    """

    def __init__(self, stream: Any, length: int, environ: dict[str, Any], is_chunked: bool) -> None:
        self._stream = stream
        self._left = length
        self._environ = environ
        self._is_chunked = is_chunked
        self._chunk_left = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            whole = io.BytesIO()
            while piece := self._piece(PIECE_BYTES):
                whole.write(piece)
            return whole.getvalue()  # no copy: the buffer itself
        return self._piece(size)

    def readinto(self, buffer: Any) -> int:
        piece = self._piece(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def _piece(self, size: int) -> bytes:
        if self._is_chunked:
            return self._chunked_piece(size)
        wanted = min(size, self._left)
        piece: bytes = self._stream.read(wanted)
        self._left -= len(piece)
        if wanted > 0 and not piece:
            raise UploadCutShort(f"The upload ended {self._left:,} bytes early.")
        return piece

    def _chunked_piece(self, size: int) -> bytes:
        if self._chunk_left == 0 and not self._ended:
            header = self._stream.readline().split(b";")[0].strip()
            if not header:
                raise UploadCutShort("The upload ended between two chunks.")
            self._chunk_left = int(header, 16)
            if self._chunk_left == 0:
                self._read_trailers()
        if self._ended:
            return b""
        piece: bytes = self._stream.read(min(size, self._chunk_left))
        if not piece:
            raise UploadCutShort("The upload ended in the middle of a chunk.")
        self._chunk_left -= len(piece)
        if self._chunk_left == 0:
            self._stream.readline()
        return piece

    def _read_trailers(self) -> None:
        """Checksums come after the data; moto looks for them among the headers."""
        self._ended = True
        while line := self._stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower().startswith("x-amz-checksum-"):
                self._environ["HTTP_" + name.upper().replace("-", "_")] = value.strip()


def stream_body(environ: dict[str, Any]) -> None:
    """Gives an S3 upload its ``UploadStream``; other requests stay as they are."""
    if environ.get("REQUEST_METHOD") != "PUT":
        return
    is_chunked = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "").startswith("STREAMING-")
    length = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") if is_chunked else environ.get("CONTENT_LENGTH")
    if not length or (int(length) == 0 and not is_chunked):
        return
    environ["wsgi.input"] = UploadStream(environ["wsgi.input"], int(length), environ, is_chunked)
    environ["wsgi.input_terminated"] = True
    environ["CONTENT_LENGTH"] = length
    if is_chunked:
        environ["HTTP_X_AMZ_CONTENT_SHA256"] = "UNSIGNED-PAYLOAD"


class Pieces:
    """A WSGI answer whose large pieces are cut small: the server copies what is left of a piece for every send."""

    def __init__(self, answer: Iterable[bytes], environ: dict[str, Any] | None = None) -> None:
        """``environ`` is emptied at the end: it and its request refer to each other, and the body would stay."""
        self._answer = answer
        self._environ = environ

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._answer:
            if len(piece) <= PIECE_BYTES:
                yield piece
            else:
                for start in range(0, len(piece), PIECE_BYTES):
                    yield piece[start : start + PIECE_BYTES]

    def close(self) -> None:
        close = getattr(self._answer, "close", None)
        if close is not None:
            close()
        if self._environ is not None:
            self._environ.clear()
