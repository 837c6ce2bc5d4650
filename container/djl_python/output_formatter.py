"""Marks the function of a ``model.py`` that writes answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def output_formatter(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of ``function(prediction)``, which returns the answer: an ``Output``, bytes, text, or what JSON can hold."""
    function.is_output_formatter = True  # type: ignore[attr-defined]
    return function
