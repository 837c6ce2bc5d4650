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


GROWTH = Growth((MODEL_FILE, UBJ_SUFFIX, JSON_SUFFIX), 3, module="xgboost", import_mib=110)

DESCRIPTION = Description(
    module="xgboost",
    well_known_files=(MODEL_FILE, f"*{UBJ_SUFFIX}", f"*{JSON_SUFFIX}"),
    growth=GROWTH,
    packages=("xgboost-cpu", "numpy"),
    holds=holds,
)
