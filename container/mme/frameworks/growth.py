"""How the memory of a framework's workers grows with a model's files. Imports nothing of a framework, nor NumPy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """How a framework's memory grows with its files (``capacity/footprint.py`` has the formula); sizes in MiB.

    ``import_mib`` is what importing ``module`` takes in a process that has not done it yet.
    """

    suffixes: tuple[str, ...]
    factor: float
    start_mib: float = 8
    working_factor: float = 0.0
    most_working_mib: float = 0.0
    module: str = ""
    import_mib: float = 0.0
