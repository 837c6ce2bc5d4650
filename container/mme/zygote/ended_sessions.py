"""What sessions that are over had counted, by model: in shared memory, as their records go to the next sessions.

numbers of 8 bytes, in the machine's order:

0           version: odd while somebody adds, another one afterwards
1           models in use, with model 0
2 + 3 · n   model n: model_key of its name, sleeps, wake-ups. Model 0 stands for those that there is no place for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MOST_MODELS = 16384
BYTES = (2 + 3 * MOST_MODELS) * 8
_VERSION, _USED, _FIRST = 0, 1, 2


class EndedSessions:
    """Who adds is a template, and has the records' lock. Who reads looks whether ``version`` stayed the same."""

    def __init__(self, memory: memoryview) -> None:
        """``memory``: ``BYTES`` bytes that are shared, zeros at first."""
        self._numbers = memory.cast("B").cast("Q")
        self._places: dict[int, int] = {}  # by model

    @property
    def version(self) -> int:
        """Odd: what is read now may be counted twice, or not at all."""
        return self._numbers[_VERSION]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """While counters go from a record to here. One who is killed meanwhile leaves an odd version to the next."""
        self._numbers[_VERSION] |= 1
        yield
        self._numbers[_VERSION] += 1

    def add(self, model: int, sleeps: int, wake_ups: int) -> None:
        """Called within ``changing``."""
        at = _FIRST + 3 * self._place(model)
        self._numbers[at + 1] += sleeps
        self._numbers[at + 2] += wake_ups

    def counters(self) -> Iterator[tuple[int, int, int]]:
        """Model (0: see above), sleeps and wake-ups."""
        numbers = self._numbers[_FIRST : _FIRST + 3 * self._numbers[_USED]].tolist()
        return zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)

    def _place(self, model: int) -> int:
        """Where ``model`` has its counters; others may have given places to models meanwhile."""
        used = max(1, self._numbers[_USED])
        for place in range(len(self._places) + 1, used):
            self._places[self._numbers[_FIRST + 3 * place]] = place
        if model not in self._places:
            if used == MOST_MODELS:
                return 0
            self._numbers[_FIRST + 3 * used] = model
            self._places[model] = used
            used += 1
        self._numbers[_USED] = used
        return self._places[model]
