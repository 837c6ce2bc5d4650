"""scikit-learn. What is known of it without importing it, or NumPy, stands here."""

from __future__ import annotations

from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

SKOPS_SUFFIX = ".skops"
JOBLIB_SUFFIX = ".joblib"
PICKLE_FILE = "model.pkl"

GROWTH = Growth((JOBLIB_SUFFIX, SKOPS_SUFFIX, ".pkl"), 3, module="sklearn", import_mib=110)

DESCRIPTION = Description(
    module="sklearn",
    well_known_files=(f"*{SKOPS_SUFFIX}", f"*{JOBLIB_SUFFIX}", PICKLE_FILE),
    growth=GROWTH,
    packages=("scikit-learn", "joblib", "skops", "numpy", "scipy", "pandas"),
)
