"""Loads many models into a server, several at a time, as the platform may."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil

from benchmarks.connection import Answer, Connection
from benchmarks.failure import BenchmarkError
from benchmarks.report import progress
from benchmarks.servers.base import Server

# Below this the run ends, before the kernel ends something else.
LEAST_FREE_BYTES = 1e9
TELL_EVERY = 100


def load_all(server: Server, names: Sequence[str], loaders: int, errors: list[str]) -> list[float]:
    """Seconds of each load that succeeded; the others are added to ``errors``. The models are installed.

    Raises ``BenchmarkError`` where the machine's memory comes to its end.
    """
    local = threading.local()
    done = itertools.count(1)

    def load(name: str) -> float | None:
        if not hasattr(local, "connection"):
            local.connection = Connection(server.port)
        if psutil.virtual_memory().available < LEAST_FREE_BYTES:
            raise BenchmarkError(
                f"{server.name}: {next(done) - 1} models loaded, and less than {LEAST_FREE_BYTES / 1e9:g} GB of memory "
                "is free. Ask for fewer models."
            )
        try:
            answer: Answer = local.connection.load(name, server.model_url(name))
        except OSError as error:
            errors.append(f"{server.name}: load {name}: {error}")
            return None
        if answer.status != 200:
            errors.append(f"{server.name}: load {name}: {answer.status} {answer.body[:200]!r}")
            return None
        number = next(done)
        if number % TELL_EVERY == 0 or number == len(names):
            progress(f"{server.name}: {number} of {len(names)} models loaded")
        return answer.elapsed_s

    with ThreadPoolExecutor(loaders) as pool:
        try:
            return [seconds for seconds in pool.map(load, names) if seconds is not None]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
