"""Many models in one server, and three ways in which traffic is spread over them: is one as fast as the other?

Uniform over all models; the 11 most popular take 90 %; one takes 90 % (benchmarks/load/patterns.py). Two kinds of
models: house prices by a linear model of scikit-learn, for which next to nothing is computed, and SqueezeNets, which
keep a core busy. Ours holds all of them; then ours and stock Multi Model Server, with one and with two workers per
model, hold as many as fit with stock. One server after the other, each alone on the machine, so that its memory is
its own; the patterns take turns in blocks. Meanwhile: what does the supervisor take, whose loop decides about workers?
At last a burst: how soon does the second worker of a model answer, after the first request, and after the decision?
"""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import models, options
from benchmarks.connection import Connection
from benchmarks.load.client import Load, Report
from benchmarks.load.generator import LoadGenerator, body_load
from benchmarks.options import Options
from benchmarks.report import Result, Target, megabytes, milliseconds, progress
from benchmarks.servers import Server
from benchmarks.servers.loading import load_all
from benchmarks.servers.ours import OurServer
from benchmarks.servers.stock import StockServer
from benchmarks.servers.workers import worker_pids
from benchmarks.summary import Summary
from benchmarks.workloads import PLAIN_MXNET, PLAIN_TABLES

PATTERNS = ("uniform", "popular", "hot")
LOADERS = 4
MEMORY_SHARE = 0.8  # of the free memory, that stock may take
WARM_UP_S = 2.0
WANTED_SLOWEST_OF_FASTEST = 0.9
WANTED_HOT_OF_STOCK = 1.6
WANTED_UNIFORM_OF_STOCK = 1.1
MOST_PSS_OF_STOCK = 0.1
MOST_BURST_S = 0.5
MOST_AFTER_DECISION_S = 0.3
MOST_OF_A_CORE = 0.01  # that the supervisor takes
BURST_MODELS = 5
BURST_CLIENTS = 8
BURST_TIMEOUT_S = 10.0
# The log's line of a decision (docs/scaling.md), as mme.logs words it: local time.
_DECISION = r"^(\d{4}-\d\d-\d\d).(\d\d:\d\d:\d\d),(\d{3}) .*model %s: 2 workers instead of 1 "
# 50 ms of a processor, and who took them: the toolkit's style of script, which our server serves.
BURST_PROGRAM = """\
import json, os, time

def model_fn(model_dir):
    return None

def input_fn(body, content_type):
    return body

def predict_fn(body, model):
    ends_s = time.thread_time() + 0.05
    while time.thread_time() < ends_s:
        pass
    return os.getpid()

def output_fn(pid, accept):
    return json.dumps(pid), "application/json"
"""


@dataclass(frozen=True)
class Kind:
    """What is served, and what stock MMS needs for one model with one worker, rounded up."""

    model: str
    title: str
    wanted: int
    quick: int
    stock_handler: str
    stock_bytes: float
    preload: str
    is_cpu_bound: bool


KINDS = {
    "regressors": Kind("house_sklearn", "regressor", 1000, 20, PLAIN_TABLES, 110e6, "sklearn", False),
    "squeezenets": Kind("squeezenet", "SqueezeNet", 60, 4, PLAIN_MXNET, 190e6, "mxnet", True),
}


@dataclass(frozen=True)
class TrafficOptions(Options):
    """How many models of each kind, in ours and where it is compared with stock; rounds of ``seconds`` per pattern."""

    servers: tuple[str, ...] = ("stock", "ours")
    kinds: tuple[str, ...] = tuple(KINDS)
    regressors: int = KINDS["regressors"].wanted
    squeezenets: int = KINDS["squeezenets"].wanted
    stock_models: int | None = None
    clients: int = 8
    rounds: int = 3
    seconds: int = 10
    bursts: int = BURST_MODELS

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> TrafficOptions:
        """The command line after the scenario's name."""
        parser = options.parser("traffic", __doc__)
        parser.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS), help="default: both")
        for name, kind in KINDS.items():
            parser.add_argument(
                f"--{name}",
                type=options.positive,
                metavar="N",
                help=f"models of this kind (default {kind.wanted:,}, quick {kind.quick})",
            )
        parser.add_argument(
            "--stock-models",
            type=options.positive,
            metavar="N",
            help=f"models where ours is compared with stock (default: what fits in {MEMORY_SHARE:g} of the free memory "
            "with two workers each, quick 2)",
        )
        parser.add_argument("--clients", type=options.positive, default=cls.clients, help="connections (default 8)")
        parser.add_argument("--rounds", type=options.positive, help="blocks of each pattern (default 3, quick 1)")
        parser.add_argument("--seconds", type=options.positive, help="how long a block takes (default 10, quick 2)")
        given = parser.parse_args(arguments)
        counts: dict[str, Any] = {
            name: getattr(given, name) or (kind.quick if given.quick else kind.wanted) for name, kind in KINDS.items()
        }
        return cls(
            **options.common(given),
            kinds=tuple(given.kinds),
            **counts,
            stock_models=given.stock_models or (2 if given.quick else None),
            clients=given.clients,
            rounds=given.rounds or (1 if given.quick else cls.rounds),
            seconds=given.seconds or (2 if given.quick else cls.seconds),
            bursts=1 if given.quick else BURST_MODELS,
        )

    def count(self, kind: str) -> int:
        """How many models of this kind our server holds."""
        return int(getattr(self, kind))

    def compared(self, kind: str) -> int:
        """How many models both hold: those that fit with stock and two workers each, at most all."""
        return min(self.count(kind), self.stock_models or stock_models_that_fit(KINDS[kind]))


@dataclass
class Measured:
    """One server with so many models: a sample per round and pattern, and what was there at the end of each block."""

    label: str
    models: int
    reports: dict[str, list[Report]] = field(default_factory=lambda: {pattern: [] for pattern in PATTERNS})
    pss_bytes: dict[str, list[float]] = field(default_factory=lambda: {pattern: [] for pattern in PATTERNS})
    workers: dict[str, list[int]] = field(default_factory=lambda: {pattern: [] for pattern in PATTERNS})
    supervisor_share: list[float] = field(default_factory=list)  # of one core, in each block

    def rates(self, pattern: str) -> list[float]:
        """Right answers per second of each round."""
        return [report.right / report.elapsed_s for report in self.reports[pattern]]

    def rate(self, pattern: str) -> float:
        """The median round's."""
        return statistics.median(self.rates(pattern))

    @property
    def pss(self) -> float:
        """The median of all blocks."""
        return statistics.median(value for values in self.pss_bytes.values() for value in values)

    @property
    def errors(self) -> int:
        """Requests without their right answer."""
        return sum(report.errors.total() for reports in self.reports.values() for report in reports)


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = TrafficOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: TrafficOptions) -> Result:
    """Kind after kind, server after server."""
    result = Result("traffic", {**chosen.recorded(), "warm_up_s": WARM_UP_S, "loaders": LOADERS})
    result.headers = ["server", "models", "pattern", "requests/s", "lowest–highest", "p50 ms", "p95", "p99"]
    result.headers += ["errors", "PSS MB", "workers", "client's CPU"]
    models.ensure([KINDS[name].model for name in chosen.kinds])
    with LoadGenerator() as generator:
        for name in chosen.kinds:
            measured = [
                measure(server(), label, name, count, chosen, generator, result)
                for label, count, server in plan(name, chosen)
            ]
            for each in measured:
                report_rows(KINDS[name], each, result)
            report_targets(name, {each.label: each for each in measured}, chosen, result)
    if "ours" in chosen.servers:
        report_bursts(measure_bursts(chosen, result), result)
    result.notes += [
        f"{chosen.clients} connections of one process, every answer checked; requests/s are right answers, the median "
        f"of {chosen.rounds} blocks of {chosen.seconds} s.",
        "PSS and workers: at the end of a block, median. Every model was asked once before.",
        f"Compared with stock: as many models as fit in {MEMORY_SHARE:.0%} of the free memory with two workers each.",
    ]
    return result


OURS, OURS_COMPARED = "ours", "ours, as many"
STOCK_1, STOCK_2 = "stock, 1 worker", "stock, 2 workers"


def plan(kind: str, chosen: TrafficOptions) -> list[tuple[str, int, Callable[[], Server]]]:
    """What is started one after the other: label, number of models, server."""
    its = KINDS[kind]
    steps: list[tuple[str, int, Callable[[], Server]]] = []
    count = chosen.count(kind)
    with_stock = "stock" in chosen.servers
    compared = chosen.compared(kind) if with_stock else count

    def ours() -> Server:
        return OurServer({"MME_PRELOAD": its.preload})

    def stock(workers: int) -> Server:
        return StockServer(its.stock_handler, {"SAGEMAKER_MODEL_SERVER_WORKERS": str(workers)})

    if "ours" in chosen.servers:
        steps.append((OURS, count, ours))
        if compared < count:
            steps.append((OURS_COMPARED, compared, ours))
    if with_stock:
        steps += [(STOCK_1, compared, lambda: stock(1)), (STOCK_2, compared, lambda: stock(2))]
    return steps


def stock_models_that_fit(kind: Kind) -> int:
    """So many, with two workers each, that the machine keeps free memory for others."""
    return max(1, int(psutil.virtual_memory().available * MEMORY_SHARE / (2 * kind.stock_bytes)))


def measure(
    server: Server,
    label: str,
    kind: str,
    count: int,
    chosen: TrafficOptions,
    generator: LoadGenerator,
    result: Result,
) -> Measured:
    """Starts the server, loads its models, sends it all patterns, and ends it."""
    its = KINDS[kind]
    measured = Measured(label, count)
    names = [f"m{number:04}-{its.model}" for number in range(count)]
    progress(f"{label}: {count:,} × {its.title}")
    with server:
        for name in names:
            server.install(models.CACHE_DIR / its.model, name)
        load_all(server, names, LOADERS, result.errors)
        load = first_answers(server, names, its, chosen, result.errors)
        generator.send(Load(**{**vars(load), "seconds": WARM_UP_S, "pattern": PATTERNS[0]}))
        for number in range(chosen.rounds):
            for pattern in PATTERNS:
                before = _processor_s(server), time.monotonic()
                sent = generator.send(Load(**{**vars(load), "pattern": pattern, "seed": number + 1}))
                measured.supervisor_share.append((_processor_s(server) - before[0]) / (time.monotonic() - before[1]))
                measured.reports[pattern].append(sent)
                measured.pss_bytes[pattern].append(server.memory().total.pss_bytes)
                measured.workers[pattern].append(len(worker_pids(server)))
                done = f"{sent.right / sent.elapsed_s:,.0f} requests/s, {sent.errors.total()} errors"
                progress(f"  {label}, {pattern}, round {number + 1} of {chosen.rounds}: {done}")
                result.errors += [f"{label}, {pattern}: {example}" for example in sent.examples]
    return measured


def _processor_s(server: Server) -> float:
    """What the server's first process, which is our supervisor, has taken so far."""
    times = server.root_process().cpu_times()
    return times.user + times.system


def first_answers(server: Server, names: Sequence[str], kind: Kind, chosen: TrafficOptions, errors: list[str]) -> Load:
    """Asks every model once, each of which must answer alike; returns the load that is to be sent."""
    body, content_type = models.request_for(kind.model)
    right = server.connection.invoke(names[0], body, content_type).must_be_ok(f"{server.name}: {names[0]}").body
    for name in names[1:]:
        answer = server.connection.invoke(name, body, content_type)
        if answer.status != 200 or answer.body != right:
            errors.append(f"{server.name}: first answer of {name}: {answer.status} {answer.body[:200]!r}")
    return body_load(
        server.port, names, body, content_type, right, chosen.clients, seconds=chosen.seconds, keep_times=True
    )


def report_rows(kind: Kind, measured: Measured, result: Result) -> None:
    """A line for each pattern."""
    for pattern, reports in measured.reports.items():
        times = Summary.of([time_s for report in reports for time_s in report.times_s] or [float("nan")])
        rates = measured.rates(pattern)
        failed = sum(report.errors.total() for report in reports)
        cpu_share = statistics.median(report.cpu_s / report.elapsed_s for report in reports)
        pss_bytes = statistics.median(measured.pss_bytes[pattern])
        workers = round(statistics.median(measured.workers[pattern]))
        result.table.append(
            [
                measured.label,
                f"{measured.models:,} × {kind.title}",
                pattern,
                f"{measured.rate(pattern):,.0f}",
                f"{min(rates):,.0f}–{max(rates):,.0f}",
                *(milliseconds(value) for value in (times.p50, times.p95, times.p99)),
                str(failed),
                megabytes(pss_bytes),
                str(workers),
                f"{cpu_share:.0%}",
            ]
        )
        result.rows.append(
            {
                "server": measured.label,
                "kind": kind.model,
                "models": measured.models,
                "pattern": pattern,
                "requests_per_s": rates,
                "latency_s": times,
                "errors": failed,
                "pss_bytes": measured.pss_bytes[pattern],
                "workers": measured.workers[pattern],
                "client_cpu_share": cpu_share,
                "supervisor_share": measured.supervisor_share,
            }
        )


def report_targets(kind: str, of: Mapping[str, Measured], chosen: TrafficOptions, result: Result) -> None:
    """The ratios that are wanted, of this kind; those whose servers were not measured are left out."""
    ours = of.get(OURS)
    if ours is None:
        return
    title = KINDS[kind].title
    rates = [ours.rate(pattern) for pattern in PATTERNS]
    slowest = min(rates) / max(rates) if max(rates) else None
    what = f"{ours.models:,} × {title}: throughput, slowest ÷ fastest of the three patterns"
    result.targets.append(Target(what, slowest, "≥", WANTED_SLOWEST_OF_FASTEST))
    errors = sum(each.errors for label, each in of.items() if label in (OURS, OURS_COMPARED))
    result.targets.append(Target(f"{title}: errors in all patterns, ours", float(errors), "≤", 0.0))
    what = f"{ours.models:,} × {title}: the supervisor's part of a core, median of all blocks"
    shares = ours.supervisor_share
    spread = f"({min(shares):.2%}–{max(shares):.2%})"
    result.targets.append(Target(what, statistics.median(shares), "≤", MOST_OF_A_CORE, spread=spread))
    same = of.get(OURS_COMPARED, ours)
    stock_1, stock_2 = of.get(STOCK_1), of.get(STOCK_2)
    if stock_1 is not None:
        if KINDS[kind].is_cpu_bound:
            result.targets.append(_rates_target(title, "hot", same, stock_1, WANTED_HOT_OF_STOCK))
        result.targets.append(_rates_target(title, "uniform", same, stock_1, WANTED_UNIFORM_OF_STOCK))
    if stock_2 is not None:
        what = f"{same.models:,} × {title}: PSS, ours ÷ stock with 2 workers"
        result.targets.append(Target(what, same.pss / stock_2.pss, "≤", MOST_PSS_OF_STOCK))


def _rates_target(title: str, pattern: str, ours: Measured, stock: Measured, wanted: float) -> Target:
    what = f"{ours.models:,} × {title}: {pattern}, requests/s, ours ÷ stock with 1 worker"
    if not stock.rate(pattern):
        return Target(what, None, "≥", wanted)
    each = [mine / its for mine, its in zip(ours.rates(pattern), stock.rates(pattern), strict=True) if its]
    spread = f"({min(each):.2f}–{max(each):.2f})"
    return Target(what, ours.rate(pattern) / stock.rate(pattern), "≥", wanted, spread=spread)


# ---- bursts ----


@dataclass(frozen=True)
class Burst:
    """Seconds until the first answer of a second worker, from the first request and from the decision."""

    from_request_s: float
    from_decision_s: float


def measure_bursts(chosen: TrafficOptions, result: Result) -> list[Burst | None]:
    """Of each model; None: it got no second worker."""
    progress(f"a burst of {BURST_CLIENTS} clients on each of {chosen.bursts} models")
    with OurServer({"MME_PRELOAD": "none"}) as server, tempfile.TemporaryDirectory(dir=server.base_dir) as folder:
        code = Path(folder) / "code"
        code.mkdir()
        (code / "inference.py").write_text(BURST_PROGRAM)
        taken = []
        for number in range(chosen.bursts):
            name = f"burst-{number}"
            shutil.copytree(folder, server.models_dir / name / "model")
            server.connection.load(name, server.model_url(name)).must_be_ok(f"load {name}")
            server.connection.invoke(name, b"1", "application/json").must_be_ok(name)
            taken.append(burst(server, name, result))
    return taken


def burst(server: Server, model: str, result: Result) -> Burst | None:
    """All clients send one request after the other, until two workers have answered or the time is up."""
    answered_s: dict[bytes, float] = {}
    lock = threading.Lock()
    started_s = time.time()  # the log's clock

    def is_over() -> bool:
        return len(answered_s) > 1 or time.time() - started_s > BURST_TIMEOUT_S

    def ask() -> None:
        with Connection(server.port) as connection:
            while not is_over():
                answer = connection.invoke(model, b"1", "application/json")
                with lock:
                    if answer.status != 200:
                        result.errors.append(f"{model}: {answer.status} {answer.body[:200]!r}")
                        return
                    answered_s.setdefault(answer.body, time.time())

    clients = [threading.Thread(target=ask) for _ in range(BURST_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    decided_s = decision_s(server.log_file.read_text(errors="replace"), model)
    if len(answered_s) < 2 or decided_s is None:
        return None
    second_s = sorted(answered_s.values())[1]
    return Burst(second_s - started_s, second_s - decided_s)


def decision_s(log: str, model: str) -> float | None:
    """When the log says that ``model`` is to have a second worker, as ``time.time()``; None: it does not."""
    found = re.search(_DECISION % re.escape(model), log, re.MULTILINE)
    return found and datetime.fromisoformat("{}T{}.{}".format(*found.groups())).timestamp()


def report_bursts(bursts: Sequence[Burst | None], result: Result) -> None:
    """The targets; a model whose second worker never answered makes them unmeasured, and is a note."""
    known = [each for each in bursts if each is not None]
    for what, limit_s, values_s in (
        ("a burst's first request", MOST_BURST_S, [each.from_request_s for each in known]),
        ("the decision", MOST_AFTER_DECISION_S, [each.from_decision_s for each in known]),
    ):
        value = max(values_s) if known and len(known) == len(bursts) else None
        spread = f"({min(values_s):.2f}–{max(values_s):.2f})" if known else ""
        said = f"from {what} to the second worker's first answer, longest"
        result.targets.append(Target(said, value, "≤", limit_s, "s", spread))
    if len(known) < len(bursts):
        missing = len(bursts) - len(known)
        result.notes.append(f"{missing} of {len(bursts)} models had no second worker within {BURST_TIMEOUT_S:g} s.")
    row: dict[str, Any] = {
        "burst_s": [each and each.from_request_s for each in bursts],
        "after_decision_s": [each and each.from_decision_s for each in bursts],
    }
    result.rows.append(row)
