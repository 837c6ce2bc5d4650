"""Progress bars on standard error: one look for all programs. Without a terminal there are none, so logs stay short."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


def bytes_bar(description: str, total_bytes: int | None, done_bytes: int = 0) -> tqdm[Any]:
    """A bar for work counted in bytes; ``total_bytes`` None where the size is unknown. Use it as a context manager."""
    return tqdm(
        desc=f"  {description}",
        total=total_bytes,
        initial=done_bytes,
        unit="B",
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=None,
    )


def steps_bar(description: str, total_steps: int, unit: str) -> tqdm[Any]:
    """A bar for work counted in steps (``unit``: what one step is called). Use it as a context manager."""
    return tqdm(
        desc=f"  {description}",
        total=total_steps,
        unit=f" {unit}",
        leave=False,
        dynamic_ncols=True,
        disable=None,
    )
