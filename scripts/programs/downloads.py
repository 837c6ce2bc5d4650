"""Downloads over HTTP that survive a broken line: what has arrived is kept in NAME.part and continued with Range
requests, and NAME itself appears complete and checked or not at all."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import requests
import urllib3.exceptions

from scripts.programs.archives import sha256_of
from scripts.programs.console import Failure
from scripts.programs.progress import bytes_bar

CHUNK_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
LONGEST_PAUSE_S = 8.0
# Answers that may be different a moment later; every other 4xx is final.
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


class _Retryable(Exception):
    """This attempt failed, the next may not. The text says how; ``remedy`` is a sentence on what to do, if anything."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


class Downloader:
    """Fetches files, trying up to ``attempts`` times in a row without a byte of progress.

    ``first_pause_s`` is waited before the second attempt, twice that before the third, and so on.
    """

    def __init__(self, *, attempts: int = 5, first_pause_s: float = 0.5) -> None:
        self._attempts = attempts
        self._first_pause_s = first_pause_s
        self._session = requests.Session()

    def fetch(self, url: str, target: Path, check: Callable[[Path], None], sha256: str | None = None) -> bool:
        """Puts what ``url`` holds into ``target``; returns False where it was there already.

        ``check`` is given the complete file and raises ``Failure`` where its content is not what it should be; such a
        file is not kept. Raises ``Failure`` where the download cannot be finished; what arrived stays for the next try.
        """
        if target.exists():
            self._check(target, url, check, sha256)
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        self._fetch_part(url, part)
        self._check(part, url, check, sha256)
        part.replace(target)
        _tag_file(part).unlink(missing_ok=True)
        return True

    def _check(self, path: Path, url: str, check: Callable[[Path], None], sha256: str | None) -> None:
        try:
            if sha256 and sha256_of(path) != sha256:
                raise Failure(f"its SHA-256 is {sha256_of(path)}, not {sha256}.")
            check(path)
        except Failure as failure:
            path.unlink()
            _tag_file(path).unlink(missing_ok=True)
            raise Failure(f"{url} does not hold what it should, and was not kept: {failure}") from None

    def _fetch_part(self, url: str, part: Path) -> None:
        failures = 0
        while True:
            before_bytes = _size(part)
            try:
                self._attempt(url, part)
                return
            except _Retryable as problem:
                failures = 1 if _size(part) > before_bytes else failures + 1
                if failures >= self._attempts:
                    said = [f"{url} could not be fetched: {problem}.", problem.remedy]
                    if _size(part):
                        said.append(f"{_size(part)} bytes are kept: the same command continues there.")
                    raise Failure(" ".join(filter(None, said))) from None
                time.sleep(min(self._first_pause_s * 2 ** (failures - 1), LONGEST_PAUSE_S))

    def _attempt(self, url: str, part: Path) -> None:
        """One request, from where ``part`` ends to the end of the file."""
        have_bytes = _size(part)
        # Accept-Encoding: the size must be that of the file itself
        headers = {"Accept-Encoding": "identity"}
        if have_bytes:
            headers["Range"] = f"bytes={have_bytes}-"
            tag = _tag_file(part)
            if tag.exists():  # the server sends all of it anew where the file is another by now
                headers["If-Range"] = tag.read_text()
        try:
            with self._session.get(
                url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
            ) as response:
                self._receive(response, part, have_bytes)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise _network_problem(error) from None
        except requests.Timeout:
            raise _Retryable(f"nothing came for {READ_TIMEOUT_S} s") from None
        except requests.RequestException as error:
            raise Failure(f"{url} could not be fetched: {error}") from None

    def _receive(self, response: requests.Response, part: Path, have_bytes: int) -> None:
        """Appends the response's body to ``part``, or starts it anew where the server sends the whole file."""
        status = response.status_code
        if status == 416:  # nothing lies beyond what we have: it is complete, or of another file
            total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
            if total and int(total[1]) == have_bytes:
                return
            part.unlink()
            raise _Retryable("the file on the server is another than the one begun")
        if status in PASSING_STATUS:
            raise _Retryable(f"the server answered {status} {response.reason}")
        if status not in (200, 206):
            raise Failure(
                f"{response.url} answered {status} {response.reason}. "
                "Is the address right? --base-url names another mirror."
            )
        total_bytes: int | None
        if status == 206:
            total_bytes = _continued_total(response, part, have_bytes)
        else:
            have_bytes = 0
            length = response.headers.get("Content-Length")
            total_bytes = int(length) if length is not None else None
            _note_tag(response, part)
        with (
            part.open("ab" if have_bytes else "wb") as file,
            bytes_bar(part.name.removesuffix(".part"), total_bytes, have_bytes) as bar,
        ):
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
        if total_bytes is not None and _size(part) != total_bytes:
            raise _Retryable(f"the connection ended after {_size(part)} of {total_bytes} bytes")


def _continued_total(response: requests.Response, part: Path, have_bytes: int) -> int:
    """The size of the whole file, by a 206 answer. A range that was not asked for spoils what we have."""
    matched = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if not matched or int(matched[1]) != have_bytes:
        part.unlink(missing_ok=True)
        raise _Retryable("the server sent another part of the file than the one asked for")
    return int(matched[2])


def _note_tag(response: requests.Response, part: Path) -> None:
    """Keeps what identifies this version of the file, for If-Range. Weak tags must not be used there (RFC 9110)."""
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        _tag_file(part).write_text(tag)
    else:
        _tag_file(part).unlink(missing_ok=True)


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _network_problem(error: requests.RequestException) -> _Retryable:
    """What to tell about a connection that failed or broke, in the user's words."""
    remedy = "Is this machine on the network? Behind a proxy, set http_proxy; --base-url names another mirror."
    cause = error.args[0] if error.args else None
    reason = getattr(cause, "reason", None)
    if isinstance(reason, urllib3.exceptions.NameResolutionError):
        return _Retryable("its host's name cannot be resolved", remedy)
    if isinstance(reason, urllib3.exceptions.NewConnectionError):
        return _Retryable(f"no connection, {str(reason).rpartition('] ')[2]}", remedy)
    if isinstance(reason, urllib3.exceptions.ConnectTimeoutError):
        return _Retryable(f"no connection within {CONNECT_TIMEOUT_S} s", remedy)
    if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
        return _Retryable(f"nothing came for {READ_TIMEOUT_S} s")
    return _Retryable("the connection broke")
