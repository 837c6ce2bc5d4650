"""Finds the scenario that was asked for and runs it.

A scenario is a module in benchmarks/scenarios with a function ``main(arguments: list[str]) -> int``: it is given the
command line after its own name, and returns the exit code. The first line of its docstring says what it measures.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import signal
from pathlib import Path

from benchmarks.failure import BenchmarkError
from scripts.programs.console import Failure
from scripts.programs.server_process import interrupt

SCENARIOS_DIR = Path(__file__).parent / "scenarios"


def main(arguments: list[str]) -> int:
    """Runs the scenario named first; its own options follow."""
    summaries = scenarios()
    parser = argparse.ArgumentParser(
        prog="./scripts/bench",
        description="Measures the server beside stock Multi Model Server, in the same run.",
        epilog="scenarios:\n"
        + "".join(f"  {name:<18} {summary}\n" for name, summary in summaries.items())
        + "\nEach has a --help of its own, prints one table and writes a JSON result: benchmarks/README.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", choices=summaries, metavar="SCENARIO", help=", ".join(summaries))
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the scenario, for example --quick")
    parsed = parser.parse_args(arguments)
    module = importlib.import_module(f"benchmarks.scenarios.{parsed.scenario}")
    numbers = (signal.SIGINT, signal.SIGTERM)  # either ends the servers in order
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        return module.main(parsed.options)
    except BenchmarkError as error:
        raise Failure(str(error)) from error
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def scenarios() -> dict[str, str]:
    """Name and first docstring line of each scenario, read without importing it."""
    found = {}
    for path in sorted(SCENARIOS_DIR.glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = docstring.partition("\n")[0]
    return found
