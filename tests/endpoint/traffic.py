"""Clients that keep calling while a test changes things below them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.harness.waiting import wait_until

# Between an answer and the next request of a client: without it, clients take every core for as long as a test waits.
PAUSE_S = 0.1


class Traffic:
    """Calls ``call(number)`` from several threads, again and again, from ``with`` to its end.

    ``answers`` and ``failures`` may be read at any time.
    """

    def __init__(self, call: Callable[[int], Any], clients: int = 8, pause_s: float = PAUSE_S) -> None:
        self._call = call
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        self.answers: list[Any] = []
        self.failures: list[Exception] = []

    def _run(self, number: int) -> None:
        while not self._stop.wait(self._pause_s):
            try:
                answer = self._call(number)
            except Exception as failure:
                with self._lock:
                    self.failures.append(failure)
            else:
                with self._lock:
                    self.answers.append(answer)

    def wait_for_more(self, count: int = 50, timeout_s: float = 60.0) -> None:
        """Returns when so many more calls were answered."""
        wanted = len(self.answers) + count
        wait_until(
            lambda: len(self.answers) >= wanted, lambda: f"traffic stands still: {self.failures[-1:]}", timeout_s
        )

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
