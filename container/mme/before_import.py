"""Has a function called when a certain module is imported, and never where it is not.

``scripts/setup`` and the Dockerfile have every Python of theirs import this at its start (a line in a ``.pth`` file).
Hence it imports nothing.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing's, whose import takes 5 ms
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any


def call_before(module: str, place: str, function: str) -> None:
    """Calls ``function`` of module ``place``, which is imported for it, before ``module`` is imported."""
    finder = _Before(module, place, function)
    if finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


class _Before:
    """Finds no module itself: it stands in front of what does."""

    def __init__(self, *told: str) -> None:
        self._told = told

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Before) and other._told == self._told

    def __hash__(self) -> int:
        return hash(self._told)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        module, place, function = self._told
        if name == module:
            getattr(__import__(place, fromlist=[function]), function)()
        return None
