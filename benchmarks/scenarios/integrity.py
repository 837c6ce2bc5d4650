"""Does every request get its own right answer? Millions of small ones, under the conditions in which one was once lost.

The model gives back the numbers that it is sent, and every request has numbers of its own: an answer that is lost, late
or another's is found. One and eight clients, without a pause and with rests in between (a worker that just falls asleep
is another case than one that is awake), with and without a process beside that keeps a core busy. Several servers
(``--servers ours,stock``) take turns. Exit code 1 if a single request had no right answer.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import models, options
from benchmarks.load.client import Load, Report
from benchmarks.load.generator import LoadGenerator, busy_core, numbers_load
from benchmarks.options import Options
from benchmarks.progress import LiveProgress
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers import Server, running

FACTOR = 1
MODEL = models.multiplier(FACTOR)
REQUESTS, QUICK_REQUESTS = 2_000_000, 40_000
# So many in a row on one server, before the next server or the same again: progress is lost by no more than that.
BLOCK = 25_000
# What no run takes on a machine that is not broken; beyond it the run ends with an error.
MOST_MINUTES = 90
WARM_UP_REQUESTS = 500
SHOWN_LOG_LINES = 20
PACES = ("steady", "rests")
NEIGHBOURS = ("none", "busy")
_TELLING = re.compile(r"killed|given up|[Dd]ied|Traceback|ERROR|Backend worker|restart")


@dataclass(frozen=True)
class IntegrityOptions(Options):
    """``requests`` of all conditions together; these are all combinations of clients, paces and neighbours."""

    servers: tuple[str, ...] = ("ours",)
    requests: int = REQUESTS
    clients: tuple[int, ...] = (1, 8)
    paces: tuple[str, ...] = PACES
    neighbours: tuple[str, ...] = NEIGHBOURS
    log: Path | None = None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> IntegrityOptions:
        """The command line after the scenario's name."""
        parser = options.parser("integrity", __doc__, cls.servers)
        parser.add_argument(
            "--requests",
            type=options.positive,
            metavar="N",
            help=f"in all, shared by the conditions (default {REQUESTS:,}, quick {QUICK_REQUESTS:,})",
        )
        parser.add_argument(
            "--clients", type=options.positive, nargs="+", metavar="N", default=cls.clients, help="default: 1 8"
        )
        parser.add_argument("--paces", nargs="+", choices=PACES, default=PACES, help="default: both")
        parser.add_argument("--neighbours", nargs="+", choices=NEIGHBOURS, default=NEIGHBOURS, help="default: both")
        parser.add_argument("--log", type=Path, metavar="FILE", help="where the first server's log is kept")
        given = parser.parse_args(arguments)
        return cls(
            **options.common(given),
            requests=given.requests or (QUICK_REQUESTS if given.quick else REQUESTS),
            clients=tuple(given.clients),
            paces=tuple(given.paces),
            neighbours=tuple(given.neighbours),
            log=given.log,
        )

    def conditions(self) -> list[Condition]:
        """All combinations, with the requests of each; these add up to ``requests``."""
        combined = list(itertools.product(self.clients, self.paces, self.neighbours))
        each, rest = divmod(self.requests, len(combined))
        return [
            Condition(clients, pace == "rests", neighbour == "busy", each + (number < rest))
            for number, (clients, pace, neighbour) in enumerate(combined)
        ]


@dataclass(frozen=True)
class Condition:
    """Under what so many requests are sent."""

    clients: int
    rests: bool
    busy_core: bool
    requests: int

    def __str__(self) -> str:
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        pace = "with rests" if self.rests else "steady"
        return f"{clients}, {pace}{', busy core beside' if self.busy_core else ''}"


@dataclass
class Outcome:
    """What came of all blocks of one condition on one server."""

    answered: int = 0
    right: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0
    rested_s: float = 0.0
    longest_s: float = 0.0

    def add(self, report: Report) -> None:
        """Another block."""
        self.answered += report.answered
        self.right += report.right
        self.statuses += report.statuses
        self.errors += report.errors
        self.examples += report.examples
        self.elapsed_s += report.elapsed_s
        self.rested_s += report.rested_s
        self.longest_s = max(self.longest_s, report.longest_s)

    @property
    def requests_per_s(self) -> float:
        """While there was something to do."""
        worked_s = self.elapsed_s - self.rested_s
        return self.answered / worked_s if worked_s > 0 else 0.0


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code: 1 if a single request had no right answer."""
    chosen = IntegrityOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: IntegrityOptions) -> Result:
    """The whole of it."""
    result = Result("integrity", {**chosen.recorded(), "model": MODEL, "block": BLOCK})
    folder = models.ensure([MODEL])[MODEL]
    progress(f"starting {', '.join(chosen.servers)}")
    with LoadGenerator() as generator, running([options.make_server(name) for name in chosen.servers]) as servers:
        loads = {name: prepare(server, folder) for name, server in servers.items()}
        for name, load in loads.items():
            if errors := generator.send(replace(load, requests=WARM_UP_REQUESTS)).errors:
                result.errors.append(f"{name}: warm-up: {dict(errors)}")
        outcomes = measure(chosen, loads, generator)
        report(outcomes, servers, result)
        if chosen.log is not None:
            shutil.copyfile(servers[chosen.servers[0]].log_file, chosen.log)
    return result


def prepare(server: Server, folder: Path) -> Load:
    """Loads the model; what is to be sent to this server."""
    server.install(folder, MODEL)
    server.connection.load(MODEL, server.model_url(MODEL)).must_be_ok(f"{server.name}: load")
    return numbers_load(server.port, MODEL, FACTOR, clients=1)


def measure(
    chosen: IntegrityOptions, loads: dict[str, Load], generator: LoadGenerator
) -> dict[tuple[Condition, str], Outcome]:
    """All conditions, one after the other, in blocks; the servers take turns. Ends early when the time is up."""
    outcomes: dict[tuple[Condition, str], Outcome] = {}
    deadline_s = time.monotonic() + MOST_MINUTES * 60
    seeds = itertools.count(1)
    with LiveProgress("requests", chosen.requests * len(loads)) as live:
        for condition in chosen.conditions():
            live.describe(str(condition))
            outcomes |= {(condition, name): Outcome() for name in loads}
            with busy_core() if condition.busy_core else contextlib.nullcontext():
                for requests in blocks_of(condition.requests):
                    for name, load in loads.items():
                        block = replace(
                            load,
                            clients=condition.clients,
                            rests=condition.rests,
                            requests=requests,
                            seconds=max(0.0, deadline_s - time.monotonic()),
                            seed=next(seeds),
                        )
                        sent = generator.send(block, live.within_block)
                        outcomes[condition, name].add(sent)
                        live.block_done(requests, sent.errors.total())
    return outcomes


def blocks_of(requests: int) -> list[int]:
    """``requests`` in blocks of at most ``BLOCK``."""
    whole, rest = divmod(requests, BLOCK)
    return [BLOCK] * whole + ([rest] if rest else [])


def report(outcomes: dict[tuple[Condition, str], Outcome], servers: dict[str, Server], result: Result) -> None:
    """Fills table, rows, target and errors."""
    result.headers = ["condition", "server", "requests", "right", "errors", "requests/s", "longest ms", "seconds"]
    for (condition, name), outcome in outcomes.items():
        failed = outcome.errors.total()
        figures = [f"{outcome.requests_per_s:,.0f}", milliseconds(outcome.longest_s), f"{outcome.elapsed_s:.0f}"]
        result.table.append(
            [str(condition), name, f"{condition.requests:,}", f"{outcome.right:,}", str(failed), *figures]
        )
        result.rows.append({"server": name, "condition": condition, **vars(outcome)})
        if failed:
            kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(outcome.errors.items()))
            result.errors.append(f"{name}, {condition}: {kinds}")
            result.errors += [f"  {example}" for example in outcome.examples]
        if outcome.right + failed < condition.requests:
            sent = outcome.right + failed
            result.errors.append(f"{name}, {condition}: {sent:,} of {condition.requests:,} requests were sent")
    sent = sum(condition.requests for condition, _ in outcomes)
    failed = sum(outcome.errors.total() for outcome in outcomes.values())
    result.targets.append(Target(f"requests of {sent:,} without their own right answer", float(failed), "≤", 0.0))
    result.notes.append("requests/s: without the rests. The client takes its share of the cores.")
    for name, server in servers.items():
        if any(outcome.errors for (_, which), outcome in outcomes.items() if which == name):
            result.notes += [f"{name}: the log has:", *telling_lines(server.log_file)]


def telling_lines(log_file: Path) -> list[str]:
    """Lines of a server's log that tell of a death, a kill or an error: the first few."""
    lines = log_file.read_text(errors="replace").splitlines() if log_file.exists() else []
    return [f"  | {line[:300]}" for line in lines if _TELLING.search(line)][:SHOWN_LOG_LINES]
