"""Forks of a process that has imported what a load test does run code: see ``programs.run_load_test``."""

from __future__ import annotations

import os

from benchmarks.report import ROOT
from tests.harness.forked import serve_forks  # with the system's fork, not gevent's, which would begin a loop


def main() -> None:
    """Imports, and serves."""
    os.environ.setdefault("MPLCONFIGDIR", str(ROOT / ".cache" / "matplotlib"))  # as a load test does
    import matplotlib

    matplotlib.use("Agg")
    # Before gevent takes the place of threads: the first import on a machine lists its fonts, and starts one.
    import matplotlib.pyplot
    from gevent import monkey

    monkey.patch_all()
    import benchmarks.load_test.endpoint
    import benchmarks.load_test.run  # noqa: F401

    serve_forks()


if __name__ == "__main__":
    main()
