"""Our server: the container's entry point on this machine, with its defaults."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.report import ROOT
from benchmarks.servers.base import Server, python

ENTRYPOINT = ROOT / "container" / "dockerd-entrypoint.py"


class OurServer(Server):
    """``dockerd-entrypoint.py serve``. ``MME_`` variables of the caller reach it; ``settings`` come on top."""

    name = "ours"

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._settings = dict(settings or {})

    def command(self) -> list[str]:
        return python(str(ENTRYPOINT), "serve")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "MME_HOST": "127.0.0.1", **self._settings}
