"""Drives the server to its limits and judges what happened: see benchmarks/soak."""

from __future__ import annotations

import signal
import sys

from benchmarks.failure import BenchmarkError
from benchmarks.soak.run import main
from scripts.programs.console import Failure, run
from scripts.programs.server_process import stop_on_signals


def soak() -> int:
    """``./scripts/soak [options]``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has started us in the background
    stop_on_signals()
    try:
        return main(sys.argv[1:])
    except BenchmarkError as error:
        raise Failure(str(error)) from error


if __name__ == "__main__":
    run(soak)
