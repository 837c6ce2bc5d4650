"""The command line that all scenarios share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.servers import SERVERS, Server


def parser(scenario: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every scenario has; scenarios add their own."""
    made = argparse.ArgumentParser(
        prog=f"./scripts/bench {scenario}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="MME_ variables of the caller reach our server, for example MME_WORKERS=spawn.",
    )
    made.add_argument("--quick", action="store_true", help="fewer rounds and models: under 60 s, for a first look")
    made.add_argument(
        "--servers",
        "--targets",
        type=_servers,
        metavar="LIST",
        default=["stock", "ours"],
        help=f"what is measured, separated by commas: {', '.join(SERVERS)} (default stock,ours)",
    )
    made.add_argument("--output", type=Path, metavar="FILE", help="where the JSON result goes (benchmarks/results)")
    return made


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def recorded(options: argparse.Namespace) -> dict[str, Any]:
    """The options as the JSON result has them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def make_server(name: str) -> Server:
    """A target that is not started yet."""
    return SERVERS[name]()


def _servers(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SERVERS]
    if unknown or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(SERVERS)}, each once")
    return names
