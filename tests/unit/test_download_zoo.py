"""Fetching models: against a real HTTP server on loopback that breaks off, lies, or ignores what it is asked."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.programs.console import Failure
from scripts.programs.downloads import CHUNK_BYTES, Downloader
from scripts.programs.model_files import check_file
from tests.harness.models import tiny_classifier

ROOT = Path(__file__).resolve().parents[2]
# One float array and its name, as mx.nd.save writes them (the layout is in mme/frameworks/mxnet/artifacts.py); larger
# than the buffers of both sides, so that a cut connection is cut on the way.
FLOATS = 1 << 18


def params(fill: bytes) -> bytes:
    head = struct.pack("<QQQIiiqiii", 0x112, 0, 1, 0xF993FAC9, 0, 1, FLOATS, 1, 0, 0)
    return head + fill * (4 * FLOATS // len(fill)) + struct.pack("<QQ", 1, len(b"arg:weight")) + b"arg:weight"


CONTENT = params(bytes(range(256)))
# A connection that is cut after CUT bytes leaves this many: whole chunks.
CUT = 300_000
KEPT = CUT // CHUNK_BYTES * CHUNK_BYTES


class Seen(NamedTuple):
    """One request that the server got."""

    path: str
    range: str | None
    if_range: str | None


class Mirror:
    """An HTTP server with Range support over ``files``, and switches for all that goes wrong on the way."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: list[Seen] = []
        self.statuses: list[int] = []  # answered instead, one a request
        self.cuts: list[int] = []  # bytes of the body after which the connection is cut, one a request
        self.ignores_range = False
        self.shifts_range = False
        self.sends_etag = True
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # closing waits for every answer
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Mirror:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request, in the server's thread."""
        self.seen.append(Seen(request.path, request.headers.get("Range"), request.headers.get("If-Range")))
        request.close_connection = True
        status = self.statuses.pop(0) if self.statuses else 200
        content = self.files.get(request.path, None)
        if status != 200 or content is None:
            request.send_error(status if status != 200 else 404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        begin = 0
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        wants_range = asked and not self.ignores_range and request.headers.get("If-Range") in (None, tag)
        if asked and wants_range:
            begin = int(asked[1])
            if begin >= len(content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(content)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            begin -= 1 if self.shifts_range else 0
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        if self.sends_etag:
            request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        request.wfile.write(content[begin : begin + self.cuts.pop(0) if self.cuts else None])


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror() as running:
        running.files["/weights.params"] = CONTENT
        yield running


Fetch = Callable[..., bool]


@pytest.fixture
def fetch(mirror: Mirror, tmp_path: Path) -> Fetch:
    """Fetches weights.params from the mirror into tmp_path."""

    def call(*, attempts: int = 3, sha256: str | None = None, path: str = "/weights.params") -> bool:
        downloader = Downloader(attempts=attempts, first_pause_s=0.001)
        target = tmp_path / "weights.params"
        return downloader.fetch(mirror.url + path, target, lambda file: check_file(file, "weights.params"), sha256)

    return call


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(fetch: Fetch, tmp_path: Path) -> None:
    assert fetch() is True
    assert (tmp_path / "weights.params").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["weights.params"]


def test_a_file_that_is_there_is_not_fetched_again(fetch: Fetch, mirror: Mirror) -> None:
    fetch()
    assert fetch() is False
    assert len(mirror.seen) == 1


def test_a_cut_connection_is_continued_where_it_broke(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [CUT, CUT]
    fetch()
    assert (tmp_path / "weights.params").read_bytes() == CONTENT
    assert [seen.range for seen in mirror.seen] == [None, f"bytes={KEPT}-", f"bytes={2 * KEPT}-"]
    assert mirror.seen[1].if_range


def test_the_next_run_continues_what_an_earlier_one_kept(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [CUT]
    with pytest.raises(Failure, match=f"{KEPT} bytes are kept"):
        fetch(attempts=1)
    assert not (tmp_path / "weights.params").exists()
    fetch(attempts=1)
    assert mirror.seen[-1].range == f"bytes={KEPT}-"
    assert (tmp_path / "weights.params").read_bytes() == CONTENT


def test_a_connection_that_breaks_often_but_always_advances_gets_there(fetch: Fetch, mirror: Mirror) -> None:
    mirror.cuts = [100_000] * 9
    assert fetch(attempts=2) is True
    assert len(mirror.seen) == 10


def test_a_server_that_ignores_range_sends_all_of_it_anew(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    mirror.ignores_range = True
    mirror.cuts = [CUT]
    fetch()
    assert (tmp_path / "weights.params").read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_fetched_anew(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    mirror.cuts = [CUT]
    with pytest.raises(Failure):
        fetch(attempts=1)
    changed = params(b"new!")
    mirror.files["/weights.params"] = changed
    fetch()
    assert (tmp_path / "weights.params").read_bytes() == changed


def test_a_part_of_another_file_is_dropped_where_the_server_tells(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "weights.params.part").write_bytes(b"x" * (len(CONTENT) + 5))
    fetch()  # 416, then from the start
    assert [seen.range for seen in mirror.seen] == [f"bytes={len(CONTENT) + 5}-", None]
    assert (tmp_path / "weights.params").read_bytes() == CONTENT


def test_a_complete_part_needs_no_further_byte(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "weights.params.part").write_bytes(CONTENT)
    fetch()
    assert len(mirror.seen) == 1
    assert (tmp_path / "weights.params").read_bytes() == CONTENT


def test_a_range_that_was_not_asked_for_is_not_appended(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    mirror.shifts_range = True
    mirror.cuts = [CUT]
    fetch()
    assert (tmp_path / "weights.params").read_bytes() == CONTENT
    assert [seen.range for seen in mirror.seen] == [None, f"bytes={KEPT}-", None]


def test_a_passing_server_error_is_tried_again(fetch: Fetch, mirror: Mirror) -> None:
    mirror.statuses = [503, 429]
    assert fetch() is True
    assert len(mirror.seen) == 3


def test_a_lasting_server_error_ends_after_the_attempts_with_its_status(fetch: Fetch, mirror: Mirror) -> None:
    mirror.statuses = [503] * 9
    with pytest.raises(Failure, match="503 Service Unavailable"):
        fetch(attempts=3)
    assert len(mirror.seen) == 3


def test_a_missing_file_is_not_tried_again(fetch: Fetch, mirror: Mirror) -> None:
    with pytest.raises(Failure, match=r"answered 404 Not Found.*--base-url"):
        fetch(path="/other.params")
    assert len(mirror.seen) == 1


def test_wrong_content_is_named_and_not_kept(fetch: Fetch, mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/weights.params"] = b"<html>Log in to this network</html>"
    with pytest.raises(Failure, match="not a file of MXNet parameters"):
        fetch()
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_that_differs_is_named_and_the_file_not_kept(fetch: Fetch, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=hashlib.sha256(CONTENT).hexdigest()):
        fetch(sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    assert fetch(sha256=hashlib.sha256(CONTENT).hexdigest()) is True


def test_a_machine_without_network_is_told_so(tmp_path: Path) -> None:
    downloader = Downloader(attempts=2, first_pause_s=0.001)
    # a name that never resolves (RFC 6761), and a port that nothing listens on (it was just closed)
    with pytest.raises(Failure, match="Is this machine on the network"):
        downloader.fetch("http://zoo.invalid/weights.params", tmp_path / "weights.params", check_file)
    with Mirror() as gone:
        pass
    with pytest.raises(Failure, match=r"Connection refused.*Is this machine on the network"):
        downloader.fetch(f"{gone.url}/weights.params", tmp_path / "weights.params", check_file)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.params", b"", "it ends too early"),
        ("a-symbol.json", b'{"nodes": [', "not JSON"),
        ("a-symbol.json", b"[]", "not a network of MXNet"),
        ("a-shapes.json", b"\xff\xfe", "not UTF-8"),
        ("synset.txt", b"", "no list of labels"),
        ("synset.txt", b"<!DOCTYPE html>", "no list of labels"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Failure, match=message):
        check_file(tmp_path / name)


# ---- the program ----


def download_zoo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "scripts.programs.download_zoo", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def zoo_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A zoo with one tiny model under ResNet-18's address, as the public one lays its files out."""
    folder = tmp_path_factory.mktemp("zoo")
    tiny_classifier(folder, input_shape=(1, 3, 224, 224), prefix="resnet-18")
    files = {f"/resnet/18-layers/{path.name}": path.read_bytes() for path in folder.glob("resnet-18*")}
    return files | {"/synset.txt": (folder / "synset.txt").read_bytes()}


@pytest.mark.ci  # fetches and packs
@pytest.mark.slow
def test_a_zoo_model_arrives_as_an_archive_that_sagemaker_takes(
    mirror: Mirror, zoo_files: dict[str, bytes], tmp_path: Path
) -> None:
    mirror.files = zoo_files
    mirror.cuts = [10_000, 10, 10]
    done = download_zoo("resnet_18", "--base-url", mirror.url, "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "resnet_18.tar.gz") as tar:
        assert tar.getnames() == [
            "resnet-18-0000.params",
            "resnet-18-shapes.json",
            "resnet-18-symbol.json",
            "synset.txt",
        ]
        shapes = tar.extractfile("resnet-18-shapes.json")
        assert shapes is not None
        assert json.load(shapes) == [{"shape": [1, 3, 224, 224], "name": "data"}]
    assert hashlib.sha256((tmp_path / "resnet_18.tar.gz").read_bytes()).hexdigest() in done.stdout

    requests_before = len(mirror.seen)
    again = download_zoo("resnet_18", "--base-url", mirror.url, "--to", tmp_path, "--no-load")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("there already") == 3
    assert len(mirror.seen) == requests_before


def test_synset_alone_is_fetched_and_not_packaged(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = {"/synset.txt": b"n01440764 tench, Tinca tinca\n"}
    done = download_zoo("synset", "--base-url", mirror.url, "--to", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["synset.txt"]


def test_without_network_the_program_fails_with_a_remedy_and_no_traceback(tmp_path: Path) -> None:
    done = download_zoo("synset", "--base-url", "http://zoo.invalid/models", "--to", tmp_path, "--attempts", "1")
    assert done.returncode == 1
    assert "Is this machine on the network" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "NAME"),
        (["resnet_19"], "resnet_19"),
        (["synset", "--sha256", "synset.txt=12"], "64 digits"),
        (["synset", "--sha256", "resnet-18-0000.params=" + "0" * 64], "not fetched here"),
        (["synset", "--attempts", "0"], "at least 1"),
    ],
)
def test_bad_usage_is_exit_code_2_and_says_what_is_wrong(arguments: list[str], message: str) -> None:
    done = download_zoo(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
