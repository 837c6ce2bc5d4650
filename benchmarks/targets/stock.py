"""Stock Multi Model Server, as the SageMaker Inference Toolkit starts it, with a plain handler."""

from __future__ import annotations

from benchmarks.targets.base import Target, python


class StockTarget(Target):
    """The same toolkit, front end, JVM and MXNet as ours; worker program, configuration and handler are the usual."""

    name = "stock"

    def command(self) -> list[str]:
        return python("-m", "benchmarks.targets.stock_server", str(self.folder))
