"""Keys with values, in their order; a key may be None, or stand there twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class PairList:
    """The content of an ``Input`` or an ``Output``."""

    def __init__(
        self,
        keys: list[Any] | None = None,
        values: list[Any] | None = None,
        pair_list: Iterable[tuple[Any, Any]] | None = None,
        pair_map: Mapping[Any, Any] | None = None,
    ) -> None:
        if keys and values and len(keys) != len(values):
            raise ValueError(f"{len(keys)} keys and {len(values)} values: there must be as many of both.")
        pairs = pair_list or (pair_map.items() if pair_map else zip(keys or (), values or (), strict=True))
        self.keys: list[Any] = []
        self.values: list[Any] = []
        for key, value in pairs:
            self.add(key, value)

    def add(
        self,
        key: Any = None,
        value: Any = None,
        index: int | None = None,
        pair: tuple[Any, Any] | None = None,
    ) -> None:
        """Appends a pair, or inserts it before ``index``. A value of None is left out."""
        if pair is not None:
            key, value = pair
        if value is None:
            return
        at = self.size() if index is None else index
        self.keys.insert(at, key)
        self.values.insert(at, value)

    def add_all(self, other: PairList | None) -> None:
        """Appends all pairs of ``other``."""
        if other is not None:
            self.keys.extend(other.keys)
            self.values.extend(other.values)

    def size(self) -> int:
        """The number of pairs."""
        return len(self.keys)

    def is_empty(self) -> bool:
        """Is there no pair?"""
        return not self.keys

    def contains(self, key: Any) -> bool:
        """Is there a pair with ``key``?"""
        return key in self.keys

    def get(self, key: Any) -> Any:
        """The first value of ``key``; None where there is none."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index: int) -> Any:
        """The key of a pair by its place."""
        return self.keys[index]

    def value_at(self, index: int) -> Any:
        """The value of a pair by its place."""
        return self.values[index]

    def get_keys(self) -> list[Any]:
        """All keys."""
        return self.keys

    def get_values(self) -> list[Any]:
        """All values."""
        return self.values
