"""Loads many models of an endpoint or a container for a while: see benchmarks/load_test and docs/load_test.md."""

from __future__ import annotations

import sys

from benchmarks.failure import BenchmarkError
from benchmarks.load_test.options import parse
from scripts.programs.console import Failure, run
from scripts.programs.server_process import stop_on_signals


def main() -> int:
    """``./scripts/load_test [options]``."""
    options = parse(sys.argv[1:])
    stop_on_signals()

    from gevent import monkey

    monkey.patch_all()  # before anything that opens a connection is imported
    from benchmarks.load_test.run import run as run_load_test

    try:
        return run_load_test(options)
    except BenchmarkError as error:
        raise Failure(str(error)) from error


if __name__ == "__main__":
    run(main)
