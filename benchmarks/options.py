"""The command line that all scenarios share, and what becomes of it: options that nothing changes any more."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import SERVERS, Server
from benchmarks.servers.ours import OurServer
from benchmarks.servers.stock import StockServer
from benchmarks.workloads import WORKLOADS, Workload


@dataclass(frozen=True)
class Options:
    """What every scenario is told. Each has a subclass with its own, which ``parse`` makes of a command line."""

    quick: bool = False
    servers: tuple[str, ...] = ("stock", "ours")
    output: Path | None = None
    framework: str = "mxnet"

    @property
    def workload(self) -> Workload:
        """What is measured of the framework."""
        return WORKLOADS[self.framework]

    def recorded(self) -> dict[str, Any]:
        """The options as the JSON result has them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def parser(scenario: str, description: str | None, servers: Sequence[str] = Options.servers) -> argparse.ArgumentParser:
    """A parser with the options that every scenario has; scenarios add their own. ``servers``: the default."""
    made = argparse.ArgumentParser(
        prog=f"./scripts/bench {scenario}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="MME_ variables of the caller reach our server, for example MME_WORKERS=spawn.",
    )
    made.add_argument("--quick", action="store_true", help="fewer rounds and models: under 60 s, for a first look")
    made.add_argument(
        "--servers",
        "--targets",  # its name until the servers were called so
        type=_servers,
        metavar="LIST",
        default=tuple(servers),
        help=f"what is measured, separated by commas: {', '.join(SERVERS)} (default {','.join(servers)})",
    )
    made.add_argument("--output", type=Path, metavar="FILE", help="where the JSON result goes (benchmarks/results)")
    return made


def common(given: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``Options`` out of what a parser has read."""
    return {"quick": given.quick, "servers": given.servers, "output": given.output}


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def whole(text: str) -> int:
    """An argparse type: a whole number."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def with_framework(given: argparse.Namespace) -> dict[str, Any]:
    """``common`` and the framework, with the servers that its models are measured on."""
    servers = WORKLOADS[given.framework].servers
    return {**common(given), "framework": given.framework, **({"servers": servers} if servers else {})}


def framework_option(parser: argparse.ArgumentParser) -> None:
    """Adds ``--framework`` for the scenarios that can measure others than MXNet."""
    parser.add_argument("--framework", choices=WORKLOADS, default="mxnet", help="whose models are measured")


def make_server(name: str, workload: Workload = WORKLOADS["mxnet"]) -> Server:
    """A server that is not started yet, for the models of ``workload``."""
    if name == StockServer.name:
        return StockServer(workload.stock_handler)
    if name == OurServer.name:
        return OurServer(workload.preload)
    return SERVERS[name]()


def _servers(text: str) -> tuple[str, ...]:
    names = text.split(",")
    unknown = [name for name in names if name not in SERVERS]
    if unknown or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(SERVERS)}, each once")
    return tuple(names)
