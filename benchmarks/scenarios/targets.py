"""All figures that have a target, in one table: runs latency, cold_load and memory, each as it is by itself.

Takes some six minutes on two idle cores. ``--tests`` times ``./scripts/test`` as well, when nothing else runs. A figure
whose scenario failed is not measured; what failed is among the errors.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import options
from benchmarks.failure import BenchmarkError
from benchmarks.options import Options
from benchmarks.report import ROOT, Result, Target, progress
from benchmarks.scenarios import cold_load, latency, memory

MOST_TEST_MINUTES = 8.0
# A run of the tests that takes longer hangs.
TEST_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class TargetsOptions(Options):
    """``tests``: whether the tests are run and timed as well."""

    tests: bool = False

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> TargetsOptions:
        """The command line after the scenario's name."""
        parser = options.parser("targets", __doc__)
        parser.add_argument("--tests", action="store_true", help="time ./scripts/test, too: 8 more minutes")
        given = parser.parse_args(arguments)
        return cls(**options.common(given), tests=given.tests)

    def scenarios(self) -> dict[str, Callable[[], Result]]:
        """What is run, by name. Memory is of ours alone: no target compares it."""
        short = ["--quick"] if self.quick else []
        servers = ["--servers", ",".join(self.servers)]
        of_latency = latency.LatencyOptions.parse([*short, *servers])
        of_loads = cold_load.ColdLoadOptions.parse([*short, *servers, "--models", "squeezenet", "resnet_152"])
        of_memory = memory.MemoryOptions.parse([*short, "--servers", "ours"])
        return {
            "latency": lambda: latency.run(of_latency),
            "cold_load": lambda: cold_load.run(of_loads),
            "memory": lambda: memory.run(of_memory),
        }


def main(arguments: list[str]) -> int:
    """Runs the scenarios; returns the exit code: a missed target is no failure."""
    chosen = TargetsOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: TargetsOptions) -> Result:
    """One scenario after the other; each prints its own tables when it is done."""
    result = Result("targets", chosen.recorded(), headers=["scenario", "seconds", "errors", "targets missed"])
    for name, measure in chosen.scenarios().items():
        progress(f"---- {name}")
        started_s = time.monotonic()
        try:
            part = measure()
        except BenchmarkError as error:
            result.errors.append(f"{name}: {error}")
            continue
        took_s = time.monotonic() - started_s
        print(part.text(took_s), end="\n\n", flush=True)
        add(part, took_s, result)
    if chosen.tests:
        result.targets.append(time_tests(result))
    else:
        result.targets.append(Target("./scripts/test", None, "≤", MOST_TEST_MINUTES, "min"))
        result.notes.append("./scripts/test is timed with --tests.")
    return result


def add(part: Result, took_s: float, result: Result) -> None:
    """A scenario's targets, rows and errors."""
    missed = sum(target.met is False for target in part.targets)
    result.table.append([part.scenario, f"{took_s:.0f}", str(len(part.errors)), f"{missed} of {len(part.targets)}"])
    result.targets += part.targets
    result.rows.append({"scenario": part.scenario, "duration_s": took_s, "rows": part.rows})
    result.errors += [f"{part.scenario}: {error}" for error in part.errors]


def time_tests(result: Result) -> Target:
    """Minutes of a whole run, whose failure is an error."""
    progress("---- ./scripts/test")
    started_s = time.monotonic()
    command = [str(ROOT / "scripts" / "test")]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TEST_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        result.errors.append(f"./scripts/test: not done within {TEST_TIMEOUT_S / 60:.0f} min")
        return Target("./scripts/test", None, "≤", MOST_TEST_MINUTES, "min")
    if done.returncode != 0:
        result.errors.append(f"./scripts/test: exit code {done.returncode}\n{done.stdout[-2000:]}")
    return Target("./scripts/test", (time.monotonic() - started_s) / 60, "≤", MOST_TEST_MINUTES, "min")
