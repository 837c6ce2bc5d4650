"""Invocations of many models, counted: how many, how many right, how long they took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


class Calls:
    """Answered invocations, of one model or of all."""

    def __init__(self) -> None:
        self.right = 0
        self.latencies_ms: list[float] = []

    def add(self, is_right: bool, latency_ms: float) -> None:
        """Counts one."""
        self.right += is_right
        self.latencies_ms.append(latency_ms)

    def row(self, name: str) -> str:
        """One line of the table. There are calls, or no latencies to show."""
        count = len(self.latencies_ms)
        if not count:
            return f"{name:26} {0:5} {0:6}"
        median_ms, longest_ms = statistics.median(self.latencies_ms), max(self.latencies_ms)
        return f"{name:26} {count:5} {self.right:6} {median_ms:6.0f} ms {longest_ms:6.0f} ms"


class CallStatistics:
    """Calls per model, in the order in which the models were named."""

    def __init__(self, models: Iterable[str]) -> None:
        self._of_model = {model: Calls() for model in models}
        self.all = Calls()

    def add(self, model: str, is_right: bool, latency_ms: float) -> None:
        """Counts one answer of ``model``."""
        for calls in (self._of_model[model], self.all):
            calls.add(is_right, latency_ms)

    def table(self) -> list[str]:
        """Its lines: a head, one per model, one for all."""
        head = f"{'model':26} {'calls':>5} {'right':>6} {'median':>9} {'longest':>9}"
        rows = [calls.row(model) for model, calls in self._of_model.items()]
        return [head, *rows, self.all.row("all")]
