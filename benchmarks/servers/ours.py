"""Our server: the container's entry point on this machine, with its defaults."""

from __future__ import annotations

from benchmarks.report import ROOT
from benchmarks.servers.base import Server, python

ENTRYPOINT = ROOT / "container" / "dockerd-entrypoint.py"


class OurServer(Server):
    """``dockerd-entrypoint.py serve``. ``MME_`` variables of the caller reach it."""

    name = "ours"

    def command(self) -> list[str]:
        return python(str(ENTRYPOINT), "serve")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MME_HOST": "127.0.0.1"}
