"""The command line of a soak, and what becomes of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.options import positive
from benchmarks.soak.faults import KILLABLE


@dataclass(frozen=True)
class SoakOptions:
    """What a soak is told. ``memory_mb`` in MiB."""

    minutes: float = 10.0
    clients: int = 8
    models: int = 60
    memory_mb: int = 2048
    seed: int = 1
    native: bool = False
    busy_core: bool = False
    endpoint: bool = False
    also_kill: tuple[str, ...] = ()
    output: Path | None = None
    log: Path | None = None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> SoakOptions:
        """The command line."""
        parser = argparse.ArgumentParser(
            prog="./scripts/soak",
            description="Drives the server to its limits as SageMaker would: many models in little memory, several "
            "clients, workers killed at random, broken artifacts and bad requests in between. Judges what happened.",
            epilog="With a Docker engine the server runs in `docker run --memory`, else in a cgroup of its own (as "
            "root), else under MME_MEMORY_LIMIT_MB. MME_ variables of the caller reach it. "
            "Exit code 0: all requirements are met; 1: one is not, or something failed; 2: used wrongly.",
        )
        parser.add_argument(
            "--minutes", type=_minutes, default=cls.minutes, help="how long traffic flows (default 10, may be 0.5)"
        )
        parser.add_argument(
            "--clients", type=positive, default=cls.clients, help="requests in flight at once (default 8)"
        )
        parser.add_argument("--models", type=positive, default=cls.models, help="how many models (default 60)")
        parser.add_argument(
            "--memory",
            dest="memory_mb",
            type=_memory_mb,
            default=cls.memory_mb,
            metavar="SIZE",
            help="the limit, default 2g",
        )
        parser.add_argument("--seed", type=int, default=cls.seed, help="of all that is random (default 1)")
        parser.add_argument("--native", action="store_true", help="without Docker, even where there is an engine")
        parser.add_argument(
            "--endpoint",
            action="store_true",
            help="the local endpoint instead, with three kinds of endpoints whose instances are killed, scaled and "
            "updated; of the other options, --minutes, --clients, --seed, --output and --log count",
        )
        parser.add_argument("--busy-core", action="store_true", help="keep a core busy beside it, all the time")
        parser.add_argument(
            "--also-kill",
            nargs="+",
            choices=list(KILLABLE),
            default=(),
            metavar="WHAT",
            help=f"now and then, instead of a worker: {', '.join(KILLABLE)}",
        )
        parser.add_argument(
            "--output", type=Path, metavar="FILE", help="where the JSON result goes (benchmarks/results)"
        )
        parser.add_argument("--log", type=Path, metavar="FILE", help="where the server's log is kept")
        given = vars(parser.parse_args(arguments))
        return cls(**{**given, "also_kill": tuple(given["also_kill"])})

    def recorded(self) -> dict[str, Any]:
        """The options as the JSON result has them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.05 <= value <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes from 0.05 to 1440")
    return value


def _memory_mb(text: str) -> int:
    """MiB of ``2g``, ``1500m`` or a plain number of MiB."""
    number, unit = (text[:-1], text[-1:].lower()) if text[-1:].lower() in "gm" else (text, "m")
    if not number.isdigit() or int(number) * (1024 if unit == "g" else 1) < 512:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 512m, such as 2g")
    return int(number) * (1024 if unit == "g" else 1)
