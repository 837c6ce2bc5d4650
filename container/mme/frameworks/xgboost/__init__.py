"""XGBoost. What is known of it without importing it, or NumPy, stands here."""

from __future__ import annotations

import re
from pathlib import Path

from mme.frameworks.description import Description, first_bytes
from mme.frameworks.growth import Growth

# As SageMaker's own container names a model, whatever its format; and as XGBoost names its formats.
MODEL_FILE = "xgboost-model"
UBJ_SUFFIX = ".ubj"
JSON_SUFFIX = ".json"

_JSON_HEAD = re.compile(rb'\s*\{\s*("learner"\s*:\s*\{|"version"\s*:\s*\[)')
_HEAD_BYTES = 64


def holds(path: Path) -> bool:
    """Is this a model? Any JSON could be something else."""
    return path.suffix != JSON_SUFFIX or is_json(first_bytes(path, _HEAD_BYTES))


def is_json(head: bytes) -> bool:
    """Do these first bytes begin a booster in JSON?"""
    return _JSON_HEAD.match(head) is not None


# Measured for XGBoost 3.4.1, private MiB of a forked worker after load and two passes, beside what the estimate says:
#
#     model                     file   at once   trimmed   estimate
#     20 trees, UBJSON           0.0       6.2       6.3        8.2
#     the same, JSON             0.0      10.2      10.2        8.2
#     100 trees, UBJSON          1.3      14.8      12.7       14.3
#     the same, JSON             2.0      38.8      17.3       18.0
#     200 trees, UBJSON          6.4      28.0      22.2       40.0
#     the same, pickled          6.4      28.5      22.7       40.0
#     the same, JSON            10.5     132.4      28.0       60.5
GROWTH = Growth((MODEL_FILE, UBJ_SUFFIX, JSON_SUFFIX), 5, module="xgboost", import_mib=110)

DESCRIPTION = Description(
    module="xgboost",
    well_known_files=(MODEL_FILE, f"*{UBJ_SUFFIX}", f"*{JSON_SUFFIX}"),
    growth=GROWTH,
    packages=("xgboost-cpu", "numpy"),
    data_formats=("XGBoost's ubj or json",),
    holds=holds,
)
