"""Progress of a long run: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from benchmarks.report import progress
from scripts.programs.progress import steps_bar

LINE_EVERY_S = 10.0


class LiveProgress:
    """Counts what is done out of ``total``; blocks tell of themselves while they run. Used in ``with``."""

    def __init__(self, unit: str, total: int) -> None:
        self._unit = unit
        self._total = total
        self._bar = steps_bar("", total, unit)
        self._what = ""
        self._before = self._errors = 0
        self._told_s = time.monotonic()
        self._is_line = not sys.stderr.isatty()

    def __enter__(self) -> LiveProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def describe(self, what: str) -> None:
        """What is done from now on."""
        self._what = what
        self._bar.set_description(f"  {what}")

    def within_block(self, done: int, errors: int) -> None:
        """So much of the block that runs now."""
        self._show(self._before + done, self._errors + errors)

    def block_done(self, done: int, errors: int) -> None:
        """A whole block, with its errors."""
        self._before += done
        self._errors += errors
        self._show(self._before, self._errors)

    def _show(self, done: int, errors: int) -> None:
        self._bar.n = done
        self._bar.set_postfix_str(f"{errors} errors" if errors else "")
        now_s = time.monotonic()
        if self._is_line and now_s - self._told_s >= LINE_EVERY_S:
            self._told_s = now_s
            progress(f"{done:,} of {self._total:,} {self._unit}, {errors} errors: {self._what}")
