"""What is measured of a framework (``--framework``): which models, what is wanted, what stock MMS runs them with."""

from __future__ import annotations

from dataclasses import dataclass, field

PLAIN_MXNET = "benchmarks.plain_handler:handle"
PLAIN_TABLES = "benchmarks.plain_tables:handle"
PLAIN_SCRIPT = "benchmarks.plain_script:handle"


@dataclass(frozen=True)
class Workload:
    """``cold_ratios``: stock ÷ ours of load + first invocation that is wanted, by model; ``further_bytes``: most PSS of
    a further model at once, by model; ``large``: the model whose private memory is held against its weights."""

    cold_models: tuple[str, ...]
    cold_ratios: dict[str, float]
    memory_models: tuple[str, ...]
    further_bytes: dict[str, float]
    large: str | None = None
    stock_handler: str = PLAIN_TABLES
    preload: dict[str, str] = field(default_factory=dict)  # settings of our server
    servers: tuple[str, ...] | None = None  # those that are measured whatever is asked for
    most_of: dict[str, tuple[str, float]] = field(default_factory=dict)  # load + first invocation ÷ that of a model


WORKLOADS = {
    "mxnet": Workload(
        cold_models=("tiny", "squeezenet", "resnet_18", "resnet_152"),
        cold_ratios={"squeezenet": 14, "resnet_152": 4.5},
        memory_models=("tiny", "squeezenet"),
        further_bytes={"tiny": 4.8e6, "squeezenet": 27e6},
        large="resnet_152",
        stock_handler=PLAIN_MXNET,
    ),
    "onnx": Workload(
        cold_models=("squeezenet", "squeezenet_onnx", "tiny", "tiny_onnx"),
        cold_ratios={},
        memory_models=("tiny_onnx",),
        further_bytes={"tiny_onnx": 5.5e6},
        servers=("ours",),
        most_of={"squeezenet_onnx": ("squeezenet", 0.6)},
    ),
    **{
        framework: Workload(
            cold_models=(model,),
            cold_ratios={model: 15},
            memory_models=(model,),
            further_bytes={model: 5.5e6},
            preload={"MME_PRELOAD": framework},
        )
        for framework, model in (("xgboost", "house_xgboost"), ("sklearn", "house_sklearn"))
    },
    "script": Workload(
        cold_models=("house_script",),
        cold_ratios={"house_script": 10},
        memory_models=("house_script",),
        further_bytes={"house_script": 5.5e6},
        stock_handler=PLAIN_SCRIPT,
        preload={"MME_PRELOAD": "sklearn"},  # whose file lies beside the script
    ),
}
