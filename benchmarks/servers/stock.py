"""Stock Multi Model Server, as the SageMaker Inference Toolkit starts it, with a plain handler."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.servers.base import Server, python
from benchmarks.workloads import PLAIN_MXNET


class StockServer(Server):
    """The same toolkit, front end, JVM and MXNet as ours; worker program, configuration and handler are the usual."""

    name = "stock"

    def __init__(self, handler: str = PLAIN_MXNET, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._handler = handler
        self._settings = dict(settings or {})

    def command(self) -> list[str]:
        return python("-m", "benchmarks.servers.stock_server", str(self.folder), self._handler)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self._settings}
