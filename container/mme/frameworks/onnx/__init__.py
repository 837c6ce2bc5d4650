"""ONNX, run by ONNX Runtime. What is known of it without importing it, or NumPy, stands here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

if TYPE_CHECKING:
    from mme.settings import Settings

SUFFIX = ".onnx"


def environment(settings: Settings) -> Mapping[str, str]:
    """ONNX Runtime's variables, which it reads when it is imported.

    From 1.29 on it starts a thread at its import, which sends what it is used for to its maker. A process with a
    second thread cannot be forked from, and what is served here is nobody else's business: so there is none.
    """
    return {"ORT_DISABLE_TELEMETRY": "1"}


# Measured for ONNX Runtime 1.32 (one thread, no arena, random weights, one 224 × 224 image), MiB of a forked worker:
# the most while it loads, and what is private to it after 15 passes and a trim of the heap, beside the estimate:
#
#     model             file    most   private   estimate
#     MobileNet 0.25     1.8      21         4         31
#     SqueezeNet         4.7      26         7         67
#     ResNet-18         44.7     171        47        184
#     ResNet-152       230.6     636       237        649
#     VGG-11           506.8     954       509       1339
#
# The file is read, its weights are copied, and laid out anew for the processor (NCHWc), before what it was read into is
# freed. The next load is admitted with what this one has kept.
GROWTH = Growth((SUFFIX,), 2.5, working_factor=10, most_working_mib=64, module="onnxruntime", import_mib=60)

DESCRIPTION = Description(
    module="onnxruntime",
    well_known_files=(f"*{SUFFIX}",),
    growth=GROWTH,
    packages=("onnxruntime", "numpy"),
    data_formats=("ONNX",),
    environment=environment,
)
