"""Progress bars on standard error: one look for all programs. Without a terminal there are none, so logs stay short."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

REFRESH_S = 0.5


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


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """Shows the seconds that pass while the block waits for something that tells nothing of its progress."""
    done = threading.Event()
    with tqdm(
        desc=f"  {description}", bar_format="{desc} {elapsed}", leave=False, dynamic_ncols=True, disable=None
    ) as bar:

        def tick() -> None:
            while not done.wait(REFRESH_S):
                bar.refresh()

        ticker = threading.Thread(target=tick, name="progress", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            done.set()
            ticker.join()
