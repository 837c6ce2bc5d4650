"""What happened in a soak, as all its threads saw it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

# A worker dies a little before the server knows, and MMS hands it requests until then.
INSTANT_S = 0.5
MOST_EXAMPLES = 20


@dataclass(frozen=True)
class Kill:
    """A worker was killed between these two moments (``time.monotonic``)."""

    model: str
    from_s: float
    to_s: float


@dataclass
class Record:
    """Counters and examples. Every method may be called by any thread.

    ``broken`` holds what must not happen, by requirement, with examples.
    """

    statuses: Counter[str] = field(default_factory=Counter)  # "invoke 200", "load 507" …
    counts: Counter[str] = field(default_factory=Counter)
    broken: dict[str, list[str]] = field(default_factory=dict)
    broken_counts: Counter[str] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def answered(self, call: str, status: int, elapsed_s: float) -> None:
        """``call`` was answered with this status; 0 where the connection broke."""
        with self._lock:
            self.statuses[f"{call} {status}"] += 1
            self.longest_s[call] = max(self.longest_s.get(call, 0.0), elapsed_s)

    def count(self, what: str, by: int = 1) -> None:
        """Adds to a counter."""
        with self._lock:
            self.counts[what] += by

    def breaks(self, requirement: str, example: str) -> None:
        """``requirement`` is not met: ``example`` says where."""
        with self._lock:
            self.broken_counts[requirement] += 1
            examples = self.broken.setdefault(requirement, [])
            if len(examples) < MOST_EXAMPLES:
                examples.append(f"{time.strftime('%H:%M:%S')} {example}")

    def add_kill(self, kill: Kill) -> None:
        """A worker has been killed."""
        with self._lock:
            self.kills.append(kill)
            self.counts["workers killed"] += 1

    def was_killed(self, model: str, from_s: float, to_s: float) -> bool:
        """Whether a worker of ``model`` was killed while something was asked of it."""
        with self._lock:
            return any(
                kill.model == model and kill.from_s <= to_s and kill.to_s >= from_s - INSTANT_S for kill in self.kills
            )

    def total(self, call: str, *statuses: int) -> int:
        """How often ``call`` was answered, with one of ``statuses`` or at all."""
        with self._lock:
            if statuses:
                return sum(self.statuses[f"{call} {status}"] for status in statuses)
            return sum(number for name, number in self.statuses.items() if name.startswith(f"{call} "))
