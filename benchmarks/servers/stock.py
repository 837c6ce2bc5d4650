"""Stock Multi Model Server, as the SageMaker Inference Toolkit starts it, with a plain handler."""

from __future__ import annotations

from benchmarks.servers.base import Server, python


class StockServer(Server):
    """The same toolkit, front end, JVM and MXNet as ours; worker program, configuration and handler are the usual."""

    name = "stock"

    def command(self) -> list[str]:
        return python("-m", "benchmarks.servers.stock_server", str(self.folder))
