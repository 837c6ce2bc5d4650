"""Orders loads from the process that sends them, and a process that keeps a core busy beside."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any
from urllib.parse import quote

from benchmarks.failure import BenchmarkError
from benchmarks.load.client import Load, Report
from benchmarks.servers.base import python

_STOP_TIMEOUT_S = 5.0
# Ends with its parent, whatever ends that.
_SPIN = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"

# Called a few times a second with how many requests were answered, and how many of them not as they should be.
Progress = Callable[[int, int], None]


class LoadGenerator:
    """The sending process, started and ended in ``with``."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LoadGenerator:
        self._process = subprocess.Popen(
            python("-m", "benchmarks.load.client"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us
        )
        return self

    def send(self, load: Load, on_progress: Progress | None = None) -> Report:
        """Sends a load and waits for its report. Raises ``BenchmarkError`` where the server cannot be reached."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(load)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchmarkError("the process that sends the load has ended: see its messages above.") from None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "report" in said:
                return _report(said["report"])
            if on_progress is not None:
                on_progress(said["done"], said["errors"])
        raise BenchmarkError("the process that sends the load has ended: see its messages above.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def numbers_load(port: int, model: str, factor: int, clients: int, **more: Any) -> Load:
    """Rows of four numbers to a model that multiplies them by ``factor``."""
    return Load(port, [invoke_path(model)], clients, factor=factor, **more)


def body_load(
    port: int, models: str | Sequence[str], body: bytes, content_type: str, answer: bytes, clients: int, **more: Any
) -> Load:
    """The same body again and again, to one model or to several alike; every answer must be ``answer``."""
    names = [models] if isinstance(models, str) else models
    return Load(
        port,
        [invoke_path(name) for name in names],
        clients,
        content_type=content_type,
        body=base64.b64encode(body).decode(),
        answer=base64.b64encode(answer).decode(),
        **more,
    )


def invoke_path(model: str) -> str:
    """Where a model is invoked."""
    return f"/models/{quote(model, safe='')}/invoke"


@contextmanager
def busy_core() -> Iterator[None]:
    """Inside, another process computes without a pause, as much as one core gives."""
    process = subprocess.Popen(
        python("-c", _SPIN), stdin=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ)
    )
    try:
        yield
    finally:
        process.kill()
        process.wait(_STOP_TIMEOUT_S)


def _report(said: dict[str, Any]) -> Report:
    return Report(**{**said, "statuses": Counter(said["statuses"]), "errors": Counter(said["errors"])})
