"""Threads or workers: what one model makes of all cores, alone on the machine.

Ways to use N cores: one worker with one thread, one worker with N threads (OMP_NUM_THREADS), N workers with one thread
each, and N workers with N threads each. Each way is a server of its own with the same models, one per library: MXNet,
ONNX Runtime and XGBoost (with one row, and with 10,000 in one request). They take turns in blocks. One client shows
latency; 4 × N clients show throughput. Every answer must be the first one's.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks import models, options
from benchmarks.load.client import Load, Report
from benchmarks.load.generator import LoadGenerator, body_load
from benchmarks.options import Options
from benchmarks.report import Result, milliseconds, progress
from benchmarks.servers import Server, running
from benchmarks.servers.ours import OurServer
from benchmarks.summary import Ratio, Summary
from mme.capacity.cores import usable_cores

ROWS = 10_000
CLIENTS_PER_CORE = 4
WARM_UP_S = 1.0


class Way(NamedTuple):
    """How the cores are used."""

    workers: int
    threads: int

    @property
    def title(self) -> str:
        """As the table has it."""
        return f"{self.workers} × {self.threads}"

    def server(self) -> Server:
        """One that gives each model so many workers with so many threads, from the start."""
        settings = {
            "MME_PRELOAD": "mxnet,onnx,xgboost",
            "SAGEMAKER_MODEL_SERVER_WORKERS": str(self.workers),
            "OMP_NUM_THREADS": str(self.threads),
        }
        server = OurServer(settings)
        server.name = self.title
        return server


class Question(NamedTuple):
    """What is asked again and again."""

    title: str
    model: str
    body: bytes
    content_type: str


def questions() -> list[Question]:
    """One or more for each library."""
    house = models.HOUSE, models.HOUSE_TYPE
    return [
        Question("MXNet, SqueezeNet", "squeezenet", models.photo(), models.PHOTO_TYPE),
        Question("ONNX Runtime, SqueezeNet", "squeezenet_onnx", models.photo(), models.PHOTO_TYPE),
        Question("XGBoost, 1 row", "house_xgboost", *house),
        Question(f"XGBoost, {ROWS:,} rows", "house_xgboost", b"\n".join([house[0]] * ROWS), house[1]),
    ]


@dataclass(frozen=True)
class ThreadsOptions(Options):
    """``rounds`` blocks of ``seconds`` for each way, question and number of clients."""

    servers: tuple[str, ...] = ("ours",)
    rounds: int = 4
    seconds: int = 3

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> ThreadsOptions:
        """The command line after the scenario's name."""
        parser = options.parser("threads", __doc__, cls.servers)
        parser.add_argument("--rounds", type=options.positive, help="blocks of each (default 4, quick 1)")
        parser.add_argument("--seconds", type=options.positive, help="how long a block takes (default 3, quick 1)")
        given = parser.parse_args(arguments)
        return cls(
            **{**options.common(given), "servers": cls.servers},
            rounds=given.rounds or (1 if given.quick else cls.rounds),
            seconds=given.seconds or (1 if given.quick else cls.seconds),
        )


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = ThreadsOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def ways(cores: int) -> list[Way]:
    """Each once; with one core there is one."""
    return list(dict.fromkeys([Way(1, 1), Way(1, cores), Way(cores, 1), Way(cores, cores)]))


def run(chosen: ThreadsOptions) -> Result:
    """All ways, by turns."""
    cores = max(1, round(usable_cores()))
    asked = questions()
    result = Result("threads", {**chosen.recorded(), "cores": cores})
    folders = models.ensure(sorted({each.model for each in asked}))
    with ExitStack() as stack:
        made = [way.server() for way in ways(cores)]
        progress(f"starting {len(made)} servers: workers × threads = {', '.join(server.name for server in made)}")
        servers = stack.enter_context(running(made))
        for name, server in servers.items():
            for model, folder in folders.items():
                server.install(folder, model)
                server.connection.load(model, server.model_url(model)).must_be_ok(f"{name}: load {model}")
        generator = stack.enter_context(LoadGenerator())
        report(measure(servers, asked, generator, chosen, cores), result)
    return result


Key = tuple[str, int, str]  # question, clients, way


def measure(
    servers: dict[str, Server], asked: Sequence[Question], generator: LoadGenerator, chosen: ThreadsOptions, cores: int
) -> dict[Key, list[Report]]:
    """Reports, one per round."""
    loads = dict(_loads(servers, asked, chosen.seconds, cores))
    for load in loads.values():
        generator.send(replace(load, seconds=WARM_UP_S))
    reports: dict[Key, list[Report]] = defaultdict(list)
    for number in range(chosen.rounds):
        for at, (key, load) in enumerate(loads.items()):
            progress(f"round {number + 1} of {chosen.rounds}: {at + 1} of {len(loads)}")
            reports[key].append(generator.send(replace(load, seed=number + 1)))
    return reports


def _loads(
    servers: dict[str, Server], asked: Sequence[Question], seconds: int, cores: int
) -> Iterator[tuple[Key, Load]]:
    for question in asked:
        _, model, body, content_type = question
        for clients in (1, CLIENTS_PER_CORE * cores):
            for name, server in servers.items():
                first = server.connection.invoke(model, body, content_type).must_be_ok(f"{name}: {model}")
                load = body_load(server.port, model, body, content_type, first.body, clients, seconds=seconds)
                yield (question.title, clients, name), replace(load, keep_times=True)


def report(reports: dict[Key, list[Report]], result: Result) -> None:
    """One row for each; ratios are to one worker with one thread."""
    result.headers = ["model", "clients", "workers × threads", "requests/s", "p50 ms", "p99", "errors", "÷ 1 × 1"]
    base = Way(1, 1).title
    for (title, clients, name), taken in reports.items():
        rates = [[each.right / each.elapsed_s] for each in taken]
        rate = statistics.median(value for (value,) in rates)
        times = Summary.of([time_s for each in taken for time_s in each.times_s] or [float("nan")])
        base_rates = [[each.right / each.elapsed_s] for each in reports[title, clients, base]]
        is_known = all(value for (value,) in base_rates)
        ratio = Ratio.of_rounds(rates, base_rates) if name != base and is_known else None
        failed = sum(each.errors.total() for each in taken)
        figures = [f"{rate:,.1f}", milliseconds(times.p50), milliseconds(times.p99), str(failed), str(ratio or "")]
        result.table.append([title, str(clients), name, *figures])
        result.rows.append(
            {
                "question": title,
                "clients": clients,
                "way": name,
                "requests_per_s": [value for (value,) in rates],
                "latency_s": times,
                "failed": failed,
                "ratio": ratio,
            }
        )
        for each in taken:
            result.errors += [f"{title}, {name}, {clients} clients: {example}" for example in each.examples]
    result.notes.append("requests/s: right answers, median of the rounds; ÷ 1 × 1: to one worker with one thread.")
