"""What is loaded: a container, called as SageMaker calls it, or (endpoint.py) a multi-model endpoint, called by boto3.

A destination knows its models and makes callers. A caller sends one request at a time and tries nothing again. This
module is imported when gevent has patched the standard library: sockets and locks are those of greenlets.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import requests
from gevent.pool import Pool

from benchmarks.connection import Connection
from benchmarks.failure import BenchmarkError
from benchmarks.load_test.options import Body, LoadTestOptions
from scripts.programs.console import Failure
from scripts.programs.container_api import ContainerApi
from scripts.programs.progress import steps_bar

# In an open loop that the server does not keep up with, so many requests wait for their answers at a time.
MOST_CONNECTIONS = 1000
LOADS_AT_ONCE = 4
SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Outcome:
    """What became of a request. ``error`` None: it was answered 200; else its kind, and ``said`` the message."""

    error: str | None = None
    said: str = ""
    answer_bytes: int = 0


class Caller(ABC):
    """Sends one request at a time."""

    @abstractmethod
    def call(self, model: str, body: Body) -> Outcome:
        """Sends it and waits for the answer. Never raises: what goes wrong is the outcome."""


class Destination(ABC):
    """Inside ``ready``, ``models`` are those that are called."""

    def __init__(self, options: LoadTestOptions) -> None:
        self.options = options
        self.models: list[str] = []

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Finds the models, and loads them where that is asked for. Raises ``Failure``."""
        self.models = self._names()
        yield

    @abstractmethod
    def caller(self) -> Caller:
        """One more caller."""

    @abstractmethod
    def available(self) -> list[str]:
        """The names of all models that there are."""

    def _names(self) -> list[str]:
        wanted = self.options.models
        if self.options.names is not None:
            assert wanted is not None
            return [self.options.names.format(number) for number in range(wanted)]
        there = self.available()
        if not there or len(there) < (wanted or 1):
            raise Failure(f"{self.options.destination} has {len(there)} models, not {wanted or 1}. {self.remedy}")
        return there[:wanted]

    remedy = ""


class Container(Destination):
    """A server that speaks the APIs of multi-model containers."""

    remedy = "Load more (--load-from does), or ask for fewer with --models."

    def __init__(self, options: LoadTestOptions) -> None:
        super().__init__(options)
        assert options.url is not None
        self._api = ContainerApi(options.url)
        address = urlsplit(options.url)
        self._host, self._port = str(address.hostname), address.port or 80

    def available(self) -> list[str]:
        if self.options.load_from is not None:
            folder = self.options.load_from
            names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
            if not names:
                raise Failure(f"--load-from {folder} is no folder of models: FOLDER/NAME/model has a model's files.")
            return names
        try:
            return [each["modelName"] for each in self._api.models()]
        except (requests.RequestException, ValueError, KeyError) as error:
            raise Failure(f"{self.options.url} does not say which models it has: {error}") from None

    @contextmanager
    def ready(self) -> Iterator[None]:
        with super().ready():
            if self.options.load_from is None:
                yield
                return
            loaded: list[str] = []
            try:
                self._load_all(loaded)
                yield
            finally:
                if not self.options.keep:
                    self._unload_all(loaded)

    def _load_all(self, loaded: list[str]) -> None:
        """Adds each model that the server has taken to ``loaded``. Raises ``Failure`` for the first that it refuses."""
        refused: list[str] = []

        def load(name: str) -> None:
            if refused:
                return
            try:
                answer = ContainerApi(str(self.options.url)).load(name, self._folder_of(name))
            except requests.RequestException as error:
                refused.append(f"{name}: {error}")
                return
            if answer.status_code == 200:
                loaded.append(name)
                bar.update()
            else:
                refused.append(f"{name}: {answer.status_code} {_message(answer.content)}")

        started_s = time.monotonic()
        with steps_bar("loading", len(self.models), "models") as bar:
            for _ in Pool(LOADS_AT_ONCE).imap_unordered(load, self.models):
                pass
        if refused:
            raise Failure(
                f"{len(loaded)} of {len(self.models)} models are loaded, then the server refused {refused[0]}\n"
                "Ask for fewer with --models, or mend what it says."
            )
        print(f"loaded {len(loaded):,} models in {time.monotonic() - started_s:.1f} s", flush=True)

    def _folder_of(self, name: str) -> Path:
        assert self.options.load_from is not None
        here = self.options.load_from.absolute()
        there = Path(self.options.server_folder) if self.options.server_folder else here
        return there / name / "model" if (here / name / "model").is_dir() else there / name

    def _unload_all(self, loaded: list[str]) -> None:
        def unload(name: str) -> int:
            try:
                return ContainerApi(str(self.options.url)).unload(name).status_code
            except requests.RequestException:
                return 0

        statuses = Pool(LOADS_AT_ONCE).map(unload, loaded)
        left = sum(status != 200 for status in statuses)
        if left:
            print(f"{left} of {len(loaded)} models could not be unloaded")

    def caller(self) -> Caller:
        return _HttpCaller(Connection(self._port, self._host, self.options.timeout_s), self.options.accept)


class _HttpCaller(Caller):
    def __init__(self, connection: Connection, accept: str | None) -> None:
        self._connection = connection
        self._accept = {"Accept": accept} if accept else {}

    def call(self, model: str, body: Body) -> Outcome:
        path = f"/models/{quote(model, safe='')}/invoke"
        headers = {"Content-Type": body.content_type, **self._accept}
        try:
            answer = self._connection.request("POST", path, body.data, headers)
        except TimeoutError as error:
            return Outcome("no answer in time", str(error))
        except (OSError, BenchmarkError, ValueError) as error:
            return Outcome(type(error).__name__, str(error)[:SHOWN_CHARACTERS])
        if answer.status != 200:
            return Outcome(f"status {answer.status}", _message(answer.body), len(answer.body))
        return Outcome(answer_bytes=len(answer.body))


def _message(body: bytes) -> str:
    """The text of an error's answer."""
    text = body.decode(errors="replace").strip()
    try:
        text = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        pass
    return str(text)[:SHOWN_CHARACTERS]


def make_destination(options: LoadTestOptions) -> Destination:
    """The one that the options name. Raises ``Failure``."""
    if options.endpoint is None:
        return Container(options)
    from benchmarks.load_test.endpoint import Endpoint  # imports boto3

    return Endpoint(options)
