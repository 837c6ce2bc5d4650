"""Model archives from strangers."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from local_endpoint.model_cache.archives import BadArchive, extract
from tests.endpoint.local import pack

LIMIT = 10_000_000


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    packed.seek(0)
    return packed


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


def test_folders_can_be_read_by_every_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        extract(io.BytesIO(pack({"deep/er/b": b"678"})), tmp_path / "out", LIMIT)
    finally:
        os.umask(before)
    modes = {name: (tmp_path / "out" / name).stat().st_mode & 0o777 for name in ("deep", "deep/er", "deep/er/b")}
    assert modes == {"deep": 0o755, "deep/er": 0o755, "deep/er/b": 0o644}


def test_files_and_folders_come_out_with_their_content(tmp_path: Path) -> None:
    size = extract(io.BytesIO(pack({"./a": b"12345", "deep/er/b": b"678"})), tmp_path / "out", LIMIT)
    assert size == 8
    assert (tmp_path / "out" / "a").read_bytes() == b"12345"
    assert (tmp_path / "out" / "deep" / "er" / "b").read_bytes() == b"678"


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (member("link", tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (member("link", tarfile.SYMTYPE, linkname="inside"), "is a link"),
        (member("link", tarfile.LNKTYPE, linkname="inside"), "is a link"),
        (member("/absolute"), "absolute path"),
        (member("../climbs"), "climbs out"),
        (member("folder/../../climbs"), "climbs out"),
        (member("device", tarfile.CHRTYPE, devmajor=1, devminor=5), "neither a file nor a folder"),
        (member("block", tarfile.BLKTYPE), "neither a file nor a folder"),
        (member("pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (member("back\\slash"), "not allowed"),
        (member("x" * 300), "cannot be unpacked"),
    ],
    ids=lambda value: value.name[:12] if isinstance(value, tarfile.TarInfo) else None,
)
def test_what_may_not_be_in_an_archive_is_refused_and_nothing_leaves_the_folder(
    tmp_path: Path, info: tarfile.TarInfo, reason: str
) -> None:
    packed = archive_of((member("inside"), b"fine"), (info, b""))
    with pytest.raises(BadArchive, match=reason):
        extract(packed, tmp_path / "out", LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"inside", "folder"}


def test_an_archive_that_unfolds_to_more_than_the_limit_is_refused_before_it_does(tmp_path: Path) -> None:
    bomb = archive_of((member("zeros"), b"\0" * 5_000_000))
    assert len(bomb.getvalue()) < 10_000
    with pytest.raises(BadArchive, match="unfolds to more than 1,000,000 bytes"):
        extract(bomb, tmp_path / "out", 1_000_000)
    assert not (tmp_path / "out" / "zeros").exists()


def test_many_small_members_count_together(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="unfolds to more than"):
        extract(io.BytesIO(pack({str(index): b"x" * 600 for index in range(3)})), tmp_path / "out", 1_500)


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="more than 5 members"):
        extract(io.BytesIO(pack({str(index): b"" for index in range(6)})), tmp_path / "out", LIMIT, limit_members=5)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"this is no archive at all",
        pack({"a": b"x" * 5000})[:-40],
        gzip.compress(b"not a tar"),
        gzip.decompress(pack({"plain.tar": b"1"})),
    ],
    ids=["empty", "text", "cut short", "gzip of text", "tar without gzip"],
)
def test_what_is_no_tar_gz_is_refused_as_such(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadArchive, match=r"not a valid tar\.gz archive"):
        extract(io.BytesIO(data), tmp_path / "out", LIMIT)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="cannot be unpacked"):
        extract(io.BytesIO(pack({"a": b"1", "a/b": b"2"})), tmp_path / "out", LIMIT)


def test_modes_of_the_archive_are_not_kept(tmp_path: Path) -> None:
    packed = archive_of((member("plain", mode=0o4666), b"1"), (member("tool", mode=0o777), b"2"))
    extract(packed, tmp_path / "out", LIMIT)
    assert (tmp_path / "out" / "plain").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "out" / "tool").stat().st_mode & 0o7777 == 0o755


def member_with_headers(**headers: str) -> io.BytesIO:
    """One empty file with these PAX headers."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member("small", pax_headers=headers))
    packed.seek(0)
    return packed


def long_name(length: int) -> io.BytesIO:
    """One empty file whose name, of so many characters, is in a header of GNU tar's."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(member("x" * length))
    packed.seek(0)
    return packed


@pytest.mark.parametrize("make", [long_name, lambda size: member_with_headers(comment="x" * size)], ids=["GNU", "PAX"])
def test_a_large_header_is_refused_before_it_is_read(tmp_path: Path, make: Callable[[int], io.BytesIO]) -> None:
    packed = make(50_000_000)
    assert len(packed.getvalue()) < 100_000
    tracemalloc.start()
    try:
        with pytest.raises(BadArchive, match="a header in it has 50,000,"):
            extract(packed, tmp_path / "out", 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_headers_of_a_usual_size_are_fine(tmp_path: Path) -> None:
    extract(member_with_headers(comment="x" * 10_000), tmp_path / "out", LIMIT)
    assert (tmp_path / "out" / "small").exists()


def test_headers_count_as_what_an_archive_unfolds_to(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for number in range(200):
            tar.addfile(member(str(number), pax_headers={"comment": "x" * 30_000}))
    packed.seek(0)
    with pytest.raises(BadArchive, match="unfolds to more than 1,000,000 bytes"):
        extract(packed, tmp_path / "out", 1_000_000)


def test_headers_without_end_are_no_archive(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    one = header.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")
    with pytest.raises(BadArchive, match=r"not a valid tar\.gz archive"):
        extract(io.BytesIO(gzip.compress(one * 5_000)), tmp_path / "out", LIMIT)


def sparse_archive(**options: str) -> io.BytesIO:
    if options:  # as bsdtar and GNU tar --format=pax write it: the map is at the beginning of the data
        return member_with_headers(**{key.replace("_", "."): value for key, value in options.items()})
    return archive_of((member("sparse", tarfile.GNUTYPE_SPARSE), b""))


@pytest.mark.parametrize(
    "packed", [sparse_archive(), sparse_archive(GNU_sparse_major="1", GNU_sparse_minor="0")], ids=["GNU", "PAX"]
)
def test_sparse_files_are_refused_because_their_maps_have_no_bound(tmp_path: Path, packed: io.BytesIO) -> None:
    with pytest.raises(BadArchive, match="sparse file: pack it without holes"):
        extract(packed, tmp_path / "out", LIMIT)


def test_the_work_ends_when_it_is_told_to(tmp_path: Path) -> None:
    calls = iter([None, None, TimeoutError("enough")])

    def check() -> None:
        reason = next(calls)
        if reason is not None:
            raise reason

    zeros = archive_of((member("zeros"), b"\0" * 5_000_000))
    with pytest.raises(TimeoutError, match="enough"):
        extract(zeros, tmp_path / "out", LIMIT, check=check)
