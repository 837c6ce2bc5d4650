"""What a server does with a loaded model: how long a warm invocation takes, and how many it answers in a second.

Latency: SqueezeNet with a 640×480 JPEG and a tiny JSON model, one request after the other on one keep-alive connection
per server, as the platform holds its connections. Beside the servers the same handler runs in a plain Python process
without one. Throughput: the same two models with one and with eight clients, from a process of its own that checks
every answer; minor page faults of the server's Python processes are counted meanwhile, per request. Each model has one
worker. All take turns in blocks of about a second, so that whatever else happens on the machine meets all, and a server
is not only seen in the moment after it was another's turn.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks import models, options
from benchmarks.failure import BenchmarkError
from benchmarks.load.client import Load, Report
from benchmarks.load.generator import LoadGenerator, body_load, numbers_load
from benchmarks.memory import minor_faults
from benchmarks.options import Options
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers import Server, running
from benchmarks.servers.in_process import InProcess
from benchmarks.summary import Ratio, Summary

IMAGE_MODEL = "squeezenet"
FACTOR = 3
NUMBERS_MODEL = models.multiplier(FACTOR)
NUMBERS = [1, 2, 3, 4]
TITLES = {IMAGE_MODEL: "SqueezeNet, JPEG", NUMBERS_MODEL: "tiny, JSON"}
CLIENTS = (1, 8)
WARM_UP_INVOCATIONS = 30
INVOCATIONS_FOR_ONE = {IMAGE_MODEL: 1, NUMBERS_MODEL: 20}  # as many take about as long
WARM_UP_S = 1.0
REQUESTS_AFTER_A_REST = 3
WANTED_OF_IN_PROCESS = 1.2
# stock ÷ ours of the median; ours ÷ stock of requests per second with eight clients; page faults of ours per request
WANTED_LATENCY = {IMAGE_MODEL: 1.05, NUMBERS_MODEL: 1.4}
WANTED_THROUGHPUT = {(IMAGE_MODEL, 8): 1.05}
MOST_FAULTS = {IMAGE_MODEL: 50}
# What performs so many invocations in a row and returns the seconds of those that succeeded.
Block = Callable[[int], list[float]]


@dataclass(frozen=True)
class LatencyOptions(Options):
    """Latency: ``rounds`` blocks of ``block`` pictures, or 20 × as many numbers. Throughput: of ``seconds`` each."""

    rounds: int = 20
    block: int = 50
    throughput_rounds: int = 6
    seconds: int = 2

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> LatencyOptions:
        """The command line after the scenario's name."""
        parser = options.parser("latency", __doc__)
        parser.add_argument("--rounds", type=options.positive, help="blocks of each (default 20, quick 5)")
        parser.add_argument(
            "--block",
            type=options.positive,
            default=cls.block,
            help="pictures per block (default 50), and 20 × as many numbers",
        )
        parser.add_argument(
            "--throughput-rounds", type=options.positive, help="blocks of each for throughput (default 6, quick 2)"
        )
        parser.add_argument(
            "--seconds", type=options.positive, help="how long a block for throughput takes (default 2, quick 1)"
        )
        given = parser.parse_args(arguments)
        return cls(
            **options.common(given),
            rounds=given.rounds or (5 if given.quick else cls.rounds),
            block=given.block,
            throughput_rounds=given.throughput_rounds or (2 if given.quick else cls.throughput_rounds),
            seconds=given.seconds or (1 if given.quick else cls.seconds),
        )


class Sample(NamedTuple):
    """One block of throughput: what the client reports, and page faults of the server's Python processes."""

    report: Report
    faults: int

    @property
    def requests_per_s(self) -> float:
        """Right answers alone count."""
        return self.report.right / self.report.elapsed_s

    @property
    def faults_per_request(self) -> float:
        """The whole server's, so that what another process of it does for a request is in it."""
        return self.faults / max(1, self.report.answered)

    @property
    def client_cpu_share(self) -> float:
        """Of one core: near 1, the client is what was measured."""
        return self.report.cpu_s / self.report.elapsed_s


# Samples, one per round, by model, number of clients and server.
Throughput = Mapping[tuple[str, int, str], Sequence[Sample]]


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = LatencyOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: LatencyOptions) -> Result:
    """Latency, then throughput, of the same servers."""
    settings = {"models": [IMAGE_MODEL, NUMBERS_MODEL], "warm_up_invocations": WARM_UP_INVOCATIONS}
    result = Result("latency", {**chosen.recorded(), **settings})
    folders = models.ensure([IMAGE_MODEL, NUMBERS_MODEL])
    progress(f"starting {', '.join(chosen.servers)}")
    with ExitStack() as stack:
        in_process = stack.enter_context(InProcess(folders[IMAGE_MODEL]))
        servers = stack.enter_context(running([options.make_server(name) for name in chosen.servers]))
        for name, server in servers.items():
            for model, folder in folders.items():
                server.install(folder, model)
                server.connection.load(model, server.model_url(model)).must_be_ok(f"{name}: load {model}")
        ways: dict[tuple[str, str], Block] = {(IMAGE_MODEL, in_process.name): in_process.invoke}
        for model in folders:
            ways |= {(model, name): block_of(server, model, result) for name, server in servers.items()}
        report(take_turns(ways, chosen), chosen, result)
        generator = stack.enter_context(LoadGenerator())
        report_throughput(measure_throughput(servers, generator, chosen), chosen, result)
    return result


# ---- latency ----


def block_of(server: Server, model: str, result: Result) -> Block:
    """Invokes a model of this server, and looks at each answer."""
    body, content_type = question(model)
    right = right_answer(server, model)

    def invoke(count: int) -> list[float]:
        times_s = []
        for _ in range(count):
            answer = server.connection.invoke(model, body, content_type)
            if answer.status == 200 and answer.body == right:
                times_s.append(answer.elapsed_s)
            else:
                result.errors.append(f"{server.name}: {model}: {answer.status} {answer.body[:200]!r}")
        return times_s

    return invoke


def question(model: str) -> tuple[bytes, str]:
    """The body that a model is sent again and again, and its Content-Type."""
    if model == IMAGE_MODEL:
        return models.photo(), models.PHOTO_TYPE
    return json.dumps([NUMBERS]).encode(), "application/json"


def right_answer(server: Server, model: str) -> bytes:
    """What this server answers to ``question``: for numbers it is looked at, a picture's has five labels."""
    answer = server.connection.invoke(model, *question(model)).must_be_ok(f"{server.name}: {model}")
    said = json.loads(answer.body)
    if model == NUMBERS_MODEL:
        rows = said["predictions"] if isinstance(said, dict) else said
        is_right = rows == [[number * FACTOR for number in NUMBERS]]
    else:
        is_right = len(said) == 5 and "class=" in said[0]
    if not is_right:
        raise BenchmarkError(f"{server.name}: {model} answers {answer.body[:300]!r}")
    return answer.body


def take_turns(ways: dict[tuple[str, str], Block], chosen: LatencyOptions) -> dict[tuple[str, str], list[list[float]]]:
    """Seconds by model, server and round."""
    for invoke in ways.values():
        invoke(WARM_UP_INVOCATIONS)
    rounds: dict[tuple[str, str], list[list[float]]] = {way: [] for way in ways}
    for number in range(chosen.rounds):
        progress(f"round {number + 1} of {chosen.rounds}")
        for (model, name), invoke in ways.items():
            rounds[model, name].append(invoke(chosen.block * INVOCATIONS_FOR_ONE[model]))
    return rounds


def report(rounds: dict[tuple[str, str], list[list[float]]], chosen: LatencyOptions, result: Result) -> None:
    """Fills table, rows and targets of latency."""
    result.headers = ["model", "where", "invocations", "p50 ms", "p95", "p99", "errors", "stock ÷ this", "÷ in-process"]
    for (model, name), times_s in rounds.items():
        taken = [value for block in times_s for value in block]
        failed = chosen.rounds * chosen.block * INVOCATIONS_FOR_ONE[model] - len(taken)
        title = TITLES[model]
        if not all(times_s):
            result.table.append([title, name, str(len(taken)), "–", "–", "–", str(failed), "", ""])
            continue
        summary = Summary.of(taken)
        of_stock = _ratio(rounds.get((model, "stock")), times_s) if name == "ours" else None
        of_in_process = _ratio(times_s, rounds.get((model, InProcess.name))) if name != InProcess.name else None
        figures = [milliseconds(value) for value in (summary.p50, summary.p95, summary.p99)]
        shown = [str(of_stock or ""), str(of_in_process or "")]
        result.table.append([title, name, str(len(taken)), *figures, str(failed), *shown])
        result.rows.append(
            {
                "model": model,
                "server": name,
                "latency_s": summary,
                "failed": failed,
                "stock_ratio": of_stock,
                "in_process_ratio": of_in_process,
            }
        )
        if name == "ours":
            if "stock" in chosen.servers:
                what = f"warm latency p50, one client, {title}, stock ÷ ours"
                result.targets.append(Target.of_ratio(what, of_stock, "≥", WANTED_LATENCY[model]))
            if of_in_process:
                what = "warm latency p50 ÷ in-process p50"
                result.targets.append(Target.of_ratio(what, of_in_process, "≤", WANTED_OF_IN_PROCESS))


def _ratio(above: list[list[float]] | None, below: list[list[float]] | None) -> Ratio | None:
    if not above or not below or not all(above) or not all(below):
        return None
    return Ratio.of_rounds(above, below)


# ---- throughput ----


def measure_throughput(servers: dict[str, Server], generator: LoadGenerator, chosen: LatencyOptions) -> Throughput:
    """The servers take turns in blocks; every model with every number of clients."""
    samples: dict[tuple[str, int, str], list[Sample]] = defaultdict(list)
    wanted = dict(conditions(servers, chosen))
    for (_, _, name), load in wanted.items():
        send(servers[name], generator, replace(load, seconds=WARM_UP_S))
    for number in range(chosen.throughput_rounds):
        progress(f"throughput, round {number + 1} of {chosen.throughput_rounds}")
        for (model, clients, name), load in wanted.items():
            seeded = replace(load, seed=number + 1)
            samples[model, clients, name].append(send(servers[name], generator, seeded))
    return samples


def conditions(servers: dict[str, Server], chosen: LatencyOptions) -> Iterator[tuple[tuple[str, int, str], Load]]:
    """What is sent, in the order in which it is sent."""
    for model in (NUMBERS_MODEL, IMAGE_MODEL):
        for clients in CLIENTS:
            for name, server in servers.items():
                if model == NUMBERS_MODEL:
                    load = numbers_load(server.port, model, FACTOR, clients, seconds=chosen.seconds)
                else:
                    answer = right_answer(server, model)
                    load = body_load(server.port, model, *question(model), answer, clients, seconds=chosen.seconds)
                yield (model, clients, name), replace(load, keep_times=True)


def send(server: Server, generator: LoadGenerator, load: Load) -> Sample:
    """One block, after a few requests of each client that do not count: while it was another server's turn, this one
    may have given memory back."""
    generator.send(replace(load, requests=REQUESTS_AFTER_A_REST * load.clients, seconds=None))
    before = minor_faults(server.root_process())
    sent = generator.send(load)
    after = minor_faults(server.root_process())
    return Sample(sent, sum(count - before[pid] for pid, count in after.items() if pid in before))


def report_throughput(samples: Throughput, chosen: LatencyOptions, result: Result) -> None:
    """Fills the second table, its rows, targets and errors."""
    headers = ["model", "clients", "server", "requests/s", "lowest–highest", "p50 ms", "p99", "page faults/request"]
    headers += ["client's CPU", "errors", "this ÷ stock"]
    table = []
    for (model, clients, name), taken in samples.items():
        title = TITLES[model]
        rates = [sample.requests_per_s for sample in taken]
        faults = statistics.median(sample.faults_per_request for sample in taken)
        failed = sum(sample.report.errors.total() for sample in taken)
        times = Summary.of([time_s for sample in taken for time_s in sample.report.times_s] or [float("nan")])
        cpu_share = statistics.median(sample.client_cpu_share for sample in taken)
        ratio = None
        if name != "stock" and (stock := samples.get((model, clients, "stock"))) and all(rates):
            stock_rates = [[sample.requests_per_s] for sample in stock]
            ratio = Ratio.of_rounds([[rate] for rate in rates], stock_rates) if all(map(all, stock_rates)) else None
        spread = f"{min(rates):,.0f}–{max(rates):,.0f}"
        figures = [f"{statistics.median(rates):,.0f}", spread, milliseconds(times.p50), milliseconds(times.p99)]
        figures += [f"{faults:.1f}", f"{cpu_share:.0%}"]
        table.append([title, str(clients), name, *figures, str(failed), str(ratio or "")])
        result.rows.append(
            {
                "model": model,
                "clients": clients,
                "server": name,
                "requests_per_s": rates,
                "latency_s": times,
                "page_faults_per_request": faults,
                "client_cpu_share": cpu_share,
                "failed": failed,
                "stock_ratio": ratio,
            }
        )
        for sample in taken:
            result.errors += [f"{name}: {title}, {clients} clients: {each}" for each in sample.report.examples]
        if name != "ours":
            continue
        if (model, clients) in WANTED_THROUGHPUT and "stock" in chosen.servers:
            what = f"requests/s, {clients} clients, {title}, ours ÷ stock"
            result.targets.append(Target.of_ratio(what, ratio, "≥", WANTED_THROUGHPUT[model, clients]))
        if model in MOST_FAULTS and clients == 1:
            what = f"page faults per warm request, {title}"
            result.targets.append(Target(what, faults, "≤", MOST_FAULTS[model]))
    result.further_tables.append((headers, table))
    result.notes += [
        "requests/s: right answers, median of the rounds. Every answer is checked: numbers against the request's own, "
        "a picture's against the first.",
        "Client's CPU: of one core, by the process that sends the load (benchmarks/load, plain sockets in Python).",
        "Page faults: minor ones of all processes of a server but the JVM.",
    ]
