"""The command line of a load test, and what becomes of it. Nothing of Locust is imported here: ``--help`` is quick."""

from __future__ import annotations

import argparse
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.load.patterns import PATTERNS
from benchmarks.report import ROOT
from scripts.programs.console import Failure, at_least_one

RESULTS_DIR = ROOT / ".cache" / "load_test"
LARGEST_BODY_BYTES = 6_291_456  # that an endpoint takes
DEFAULT_TYPE = "application/json"
# What mimetypes does not know, or has another name for.
_TYPES = {".npy": "application/x-npy", ".npz": "application/x-npz", ".libsvm": "text/libsvm"}
_TYPES |= {".jsonl": "application/jsonlines"}


@dataclass(frozen=True)
class Body:
    """What a request carries."""

    data: bytes
    content_type: str


@dataclass(frozen=True)
class LoadTestOptions:
    """What is asked for. Either ``endpoint`` or ``url`` is given, and either ``users`` or ``rate`` (requests/s)."""

    endpoint: str | None
    url: str | None
    models: int | None
    names: str | None
    load_from: Path | None
    server_folder: str | None
    keep: bool
    pattern: str
    users: int | None
    rate: float | None
    duration_s: float
    bodies: tuple[Body, ...]
    accept: str | None
    timeout_s: float
    seed: int
    metrics_url: str | None
    output: Path | None

    @property
    def destination(self) -> str:
        """What is loaded, in words."""
        return f"endpoint {self.endpoint}" if self.endpoint else str(self.url)

    @property
    def pace(self) -> str:
        """How it is loaded, in words."""
        if self.users is not None:
            return f"closed loop, {self.users} user{'s' if self.users > 1 else ''}"
        return f"open loop, {self.rate:g} requests/s"


def parse(arguments: Sequence[str]) -> LoadTestOptions:
    """Reads the command line and the files of bodies. Raises ``Failure`` for a file that cannot be sent."""
    parser = _parser()
    given = parser.parse_args(arguments)
    _check(given, parser)
    return LoadTestOptions(
        endpoint=given.endpoint,
        url=given.url,
        models=given.models,
        names=given.names,
        load_from=given.load_from,
        server_folder=given.server_folder,
        keep=given.keep,
        pattern=given.pattern,
        users=given.users if given.rate is None else None,
        rate=given.rate,
        duration_s=given.duration,
        bodies=tuple(read_body(file, given.content_type) for file in given.body),
        accept=given.accept,
        timeout_s=given.timeout,
        seed=given.seed,
        metrics_url=given.metrics_url or (f"{given.url}/metrics" if given.url else None),
        output=given.output,
    )


def read_body(file: Path, content_type: str | None) -> Body:
    """A file, with the type that its name tells where none is given. Raises ``Failure``."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}.") from None
    if len(data) > LARGEST_BODY_BYTES:
        raise Failure(f"{file} has {len(data):,} bytes; an endpoint takes {LARGEST_BODY_BYTES:,} at most.")
    guessed = _TYPES.get(file.suffix.lower()) or mimetypes.guess_type(file.name)[0] or DEFAULT_TYPE
    return Body(data, content_type or guessed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./scripts/load_test",
        description="Loads many models of an endpoint or of a container for a while, by Locust, and says how fast they "
        "answer: throughput, percentiles and errors, a model's first call apart from later ones. Nothing is tried "
        "again: every request without its answer is counted and listed.",
        epilog="Writes report.html, statistics.csv, failures.csv, timeline.csv and load_test.png. Exit codes: 0 all "
        "were answered, 1 there were errors, 2 used wrongly. AWS_ENDPOINT_URL names a local endpoint "
        "(./scripts/local_endpoint). See docs/load_test.md.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--endpoint", metavar="NAME", help="a multi-model endpoint, on AWS or local")
    where.add_argument("--url", type=_url, metavar="URL", help="a container: http://HOST:PORT")

    which = parser.add_argument_group("models")
    which.add_argument("--models", type=at_least_one, metavar="N", help="the first N models (default: all)")
    which.add_argument(
        "--names",
        metavar="PATTERN",
        help="their names where they need not be asked for, with the number from 0 in it: 'regressor-{:04}.tar.gz'",
    )
    which.add_argument(
        "--load-from",
        type=Path,
        metavar="FOLDER",
        help="with --url: load FOLDER/NAME/model (or FOLDER/NAME) first, and unload it at the end",
    )
    which.add_argument("--server-folder", metavar="PATH", help="FOLDER as the server sees it (default: FOLDER)")
    which.add_argument("--keep", action="store_true", help="do not unload what --load-from has loaded")

    load = parser.add_argument_group("load")
    load.add_argument(
        "--pattern",
        choices=PATTERNS,
        default="uniform",
        help="uniform over all; popular: 11 models take 90 %%; hot: one takes 90 %%; zipf: exponent 1.1 "
        "(default uniform)",
    )
    pace = load.add_mutually_exclusive_group()
    pace.add_argument(
        "--users",
        type=at_least_one,
        default=8,
        metavar="U",
        help="closed loop: each user sends its next request when the last is answered (default 8)",
    )
    pace.add_argument(
        "--rate", type=_positive, metavar="R", help="open loop: R requests per second, answered or not, at random times"
    )
    load.add_argument("--duration", type=_positive, default=60.0, metavar="S", help="seconds (default 60)")
    load.add_argument(
        "--timeout", type=_positive, default=70.0, metavar="S", help="a later answer is an error (default 70 s)"
    )
    load.add_argument("--seed", type=int, default=1, help="of the random choices (default 1)")

    what = parser.add_argument_group("requests")
    what.add_argument(
        "--body", type=Path, nargs="+", required=True, metavar="FILE", help="each request carries one, at random"
    )
    what.add_argument("--content-type", metavar="T", help="default: by the name of FILE, else application/json")
    what.add_argument("--accept", metavar="T", help="what answers should be")

    results = parser.add_argument_group("results")
    results.add_argument("--output", type=Path, metavar="DIR", help="where they go (default: a new folder in .cache)")
    results.add_argument(
        "--metrics-url",
        type=_url_with_path,
        metavar="URL",
        help="where the container's metrics are, for workers and sleeping models over time (default: URL/metrics)",
    )
    return parser


def _check(given: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Ends the program where options do not go together."""
    if given.load_from is not None and given.url is None:
        parser.error("--load-from needs --url: an endpoint loads its models itself")
    if given.server_folder is not None and given.load_from is None:
        parser.error("--server-folder needs --load-from")
    if given.names is not None:
        if given.models is None:
            parser.error("--names needs --models: how many there are")
        try:
            different = given.names.format(0) != given.names.format(1)
        except (IndexError, KeyError, ValueError):
            different = False
        if not different:
            parser.error(f"--names {given.names!r} has no place for a number: 'model-{{:03}}.tar.gz'")
    if given.names is not None and given.load_from is not None:
        parser.error("--names and --load-from exclude each other: the folder's names are taken")


def _positive(text: str) -> float:
    """An argparse type: a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _url(text: str) -> str:
    """An argparse type: the address of a container."""
    address = _url_with_path(text)
    if urlsplit(address).path not in ("", "/"):
        raise argparse.ArgumentTypeError(f"{text!r} has a path: http://HOST:PORT is enough")
    return address.rstrip("/")


def _url_with_path(text: str) -> str:
    parts = urlsplit(text)
    try:
        usable = parts.scheme == "http" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"{text!r} is not http://HOST:PORT (containers speak plain HTTP)")
    return text
