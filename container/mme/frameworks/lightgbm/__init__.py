"""LightGBM. What is known of it without importing it, or NumPy, stands here."""

from __future__ import annotations

from pathlib import Path

from mme.frameworks.description import Description, first_bytes
from mme.frameworks.growth import Growth

TEXT_FILE = "model.txt"
SUFFIX = ".lgb"
BEGINNING = b"tree"


def holds(path: Path) -> bool:
    """Is this a model? Any text could be in a file of text."""
    return path.name != TEXT_FILE or first_bytes(path, len(BEGINNING)) == BEGINNING


GROWTH = Growth((SUFFIX, ".txt"), 4, module="lightgbm", import_mib=110)

DESCRIPTION = Description(
    module="lightgbm",
    well_known_files=(TEXT_FILE, f"*{SUFFIX}"),
    growth=GROWTH,
    packages=("lightgbm", "numpy", "scipy"),
    holds=holds,
)
