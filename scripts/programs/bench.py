"""Runs one benchmark: see benchmarks/README.md."""

from __future__ import annotations

import sys

from benchmarks.run import main
from scripts.programs.console import run


def bench() -> int:
    """``./scripts/bench NAME [options]``."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    run(bench)
