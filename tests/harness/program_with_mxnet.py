"""Forks of a process that has imported MXNet run code that they are given: see ``programs.run_with_mxnet``."""

from __future__ import annotations

import os

from tests.harness.forked import serve_forks


def main() -> None:
    """Imports, and serves."""
    from mme import threads

    os.environ.update(threads.environment_of_template())
    from mme.frameworks.registry import adapter
    from mme.settings import Settings

    adapter("mxnet").import_framework(Settings())
    serve_forks()


if __name__ == "__main__":
    main()
