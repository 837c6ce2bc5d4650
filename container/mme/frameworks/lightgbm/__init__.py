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


# Measured for LightGBM 4.7, private MiB of a forked worker after load and two passes, beside what the estimate says:
#
#     model          file   at once   trimmed   estimate
#     20 trees        0.0       4.8       3.8        8.0
#     100 trees       2.2       5.8       5.7       10.7
#     200 trees      19.8      18.3      17.4       31.8
GROWTH = Growth((SUFFIX, ".txt"), 1.2, module="lightgbm", import_mib=100)

DESCRIPTION = Description(
    module="lightgbm",
    well_known_files=(TEXT_FILE, f"*{SUFFIX}"),
    growth=GROWTH,
    packages=("lightgbm", "numpy", "scipy"),
    data_formats=("LightGBM's text",),
    holds=holds,
)
