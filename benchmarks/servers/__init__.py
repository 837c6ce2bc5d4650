"""What is measured: ``stock``, ``ours`` and, where its image is built, ``docker``."""

from __future__ import annotations

from benchmarks.servers.base import Server, running
from benchmarks.servers.docker import DockerServer
from benchmarks.servers.ours import OurServer
from benchmarks.servers.stock import StockServer

SERVERS: dict[str, type[Server]] = {"stock": StockServer, "ours": OurServer, "docker": DockerServer}

__all__ = ["SERVERS", "Server", "running"]
