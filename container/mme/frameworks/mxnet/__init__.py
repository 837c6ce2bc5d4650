"""MXNet. What is known of it without importing it, or NumPy, stands here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

if TYPE_CHECKING:
    from mme.settings import Settings

# The files of a model: PREFIX-symbol.json, PREFIX-NNNN.params, PREFIX-shapes.json.
SYMBOL_SUFFIX = "-symbol.json"
PARAMS_SUFFIX = ".params"
SHAPES_SUFFIX = "-shapes.json"


def environment(settings: Settings) -> Mapping[str, str]:
    """MXNet's variables, which it reads when it is imported or first used; it cannot be configured otherwise.

    No engine threads: a process that has run a model may still fork. No second, fused copy of the weights at
    the load, unless ``MME_MXNET_FUSE`` asks for it. No tuning of operators, which takes time at the import.
    """
    variables = {"MXNET_ENGINE_TYPE": "NaiveEngine", "MXNET_USE_OPERATOR_TUNING": "0"}
    return variables if settings.mxnet_fuse == "on" else {**variables, "MXNET_SUBGRAPH_BACKEND": "NONE"}


# Measured for MXNet 1.9.1 (lean loading, naive engine, random weights, one 224 × 224 image), private MiB of the worker
# after load and two passes, beside what the estimate says:
#
#     model             params   private   estimate
#     tiny MLP             0.0       7.9        8.0
#     MobileNet 0.25       1.8      25.5       28.3
#     SqueezeNet           4.8      35.7       53.2
#     DenseNet-121        30.8      79.3       81.9
#     ResNet-18           44.6      81.8       97.1
#     Inception v3        91.1     146.9      148.2
#     ResNet-50           97.8     146.8      155.6
#     ResNet-152         230.5     282.7      301.5
#     VGG-11             506.8     561.0      605.5
GROWTH = Growth((PARAMS_SUFFIX,), 1.1, working_factor=10, most_working_mib=40, module="mxnet", import_mib=110)

DESCRIPTION = Description(
    module="mxnet",
    well_known_files=(f"*{SYMBOL_SUFFIX}",),
    growth=GROWTH,
    packages=("mxnet", "numpy"),
    data_formats=("MXNet",),
    environment=environment,
    chatter=(".*MXNET_SUBGRAPH_BACKEND=NONE is detected.*",),  # whenever it binds a network
)
