"""The one way in which a benchmark fails."""


class BenchmarkError(Exception):
    """A benchmark cannot be run or did not run to its end. The text says what failed and what to do about it."""
