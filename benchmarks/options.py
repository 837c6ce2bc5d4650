"""The command line that all scenarios share, and what becomes of it: options that nothing changes any more."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.servers import SERVERS, Server

FRAMEWORKS = ("mxnet", "onnx")  # whose models are measured


@dataclass(frozen=True)
class Options:
    """What every scenario is told. Each has a subclass with its own, which ``parse`` makes of a command line."""

    quick: bool = False
    servers: tuple[str, ...] = ("stock", "ours")
    output: Path | None = None

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


def add_framework(made: argparse.ArgumentParser) -> None:
    """The option that chooses the models by their framework."""
    made.add_argument("--framework", choices=FRAMEWORKS, default=FRAMEWORKS[0], help=f"default: {FRAMEWORKS[0]}")


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


def make_server(name: str) -> Server:
    """A server that is not started yet."""
    return SERVERS[name]()


def _servers(text: str) -> tuple[str, ...]:
    names = text.split(",")
    unknown = [name for name in names if name not in SERVERS]
    if unknown or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(SERVERS)}, each once")
    return tuple(names)
