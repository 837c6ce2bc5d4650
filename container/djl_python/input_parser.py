"""Marks the functions of a ``model.py`` that has no ``handle`` of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def init_handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of ``function(model_dir)``, which returns the model."""
    function.is_init_handler = True  # type: ignore[attr-defined]
    return function


def input_formatter(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of ``function(inputs, content_type=…)``, which returns what is predicted from."""
    function.is_input_formatter = True  # type: ignore[attr-defined]
    return function


def prediction_handler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of ``function(data, model)``, which returns the prediction."""
    function.is_prediction_handler = True  # type: ignore[attr-defined]
    return function
