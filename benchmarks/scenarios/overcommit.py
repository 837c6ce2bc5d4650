"""More models than fit in memory: how many requests are cold, and how long do they and the others take?

A server limited to 2 GiB holds SqueezeNets: as many as fit, twice and four times as many. Traffic is Zipf's (exponent
1.1): few models take most requests. Two ways, one after the other:

    sleeping    ours with MME_OVERCOMMIT=on, called directly: models sleep and wake up
    unloading   the local endpoint on our container with MME_OVERCOMMIT=off: what does not fit is answered 507, and the
                endpoint unloads a model and loads the other, as SageMaker does

A request is cold where the worker process of its model started after the request was sent, or is gone again when its
answer is there: the kernel says so, whatever the server says.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import models, options
from benchmarks.connection import Answer, Connection
from benchmarks.failure import BenchmarkError
from benchmarks.load.patterns import Chooser
from benchmarks.options import Options
from benchmarks.progress import LiveProgress
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers.endpoint import PREFIX, deploy, local_endpoint, pack
from benchmarks.servers.workers import process_name, started_ticks
from benchmarks.soak.limited_server import LimitedServer, make_limited_server
from benchmarks.summary import Summary
from local_endpoint.storage.location import S3Location, TargetModel

MODEL = "squeezenet"
MEMORY_MB, QUICK_MEMORY_MB = 2048, 700
TIMES = (1, 2, 4)
REQUESTS, QUICK_REQUESTS = 2000, 60
MOST_TRIED = 1000  # models, when it is found out how many fit
PATTERN = "zipf"
SEED = 11
NAME = "overcommit"
OVERCOMMIT = "MME_OVERCOMMIT"
SLEEPING, UNLOADING = "sleeping", "unloading"
MOST_WAKE_UP_MS = 150.0
MOST_OF_UNLOADING = 0.25
MOST_EXAMPLES = 10
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class OvercommitOptions(Options):
    """How many models, as multiples of what fits in ``memory_mb``; ``requests`` of each by ``clients`` connections."""

    servers: tuple[str, ...] = ("ours",)
    memory_mb: int = MEMORY_MB
    times: tuple[int, ...] = TIMES
    requests: int = REQUESTS
    clients: int = 4
    ways: tuple[str, ...] = (SLEEPING, UNLOADING)
    fits: int | None = None
    docker: bool = False

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> OvercommitOptions:
        """The command line after the scenario's name."""
        parser = options.parser("overcommit", __doc__, cls.servers)
        parser.add_argument(
            "--memory-mb",
            type=options.positive,
            metavar="MB",
            help=f"the server's limit in MiB (default {MEMORY_MB}, quick {QUICK_MEMORY_MB})",
        )
        parser.add_argument(
            "--times", type=options.positive, nargs="+", metavar="K", help="times what fits (default 1 2 4, quick 2)"
        )
        parser.add_argument(
            "--requests",
            type=options.positive,
            metavar="N",
            help=f"of each way and number of models (default {REQUESTS:,}, quick {QUICK_REQUESTS})",
        )
        parser.add_argument("--clients", type=options.positive, default=cls.clients, help="connections (default 4)")
        parser.add_argument("--ways", nargs="+", choices=cls.ways, default=cls.ways, help="default: both")
        parser.add_argument(
            "--fits", type=options.positive, metavar="N", help="so many models fit (default: it is found out)"
        )
        parser.add_argument(
            "--docker", action="store_true", help="sleeping: the image in docker run --memory (default: a cgroup)"
        )
        given = parser.parse_args(arguments)
        return cls(
            **{**options.common(given), "servers": cls.servers},
            memory_mb=given.memory_mb or (QUICK_MEMORY_MB if given.quick else MEMORY_MB),
            times=tuple(given.times or ((2,) if given.quick else TIMES)),
            requests=given.requests or (QUICK_REQUESTS if given.quick else REQUESTS),
            clients=given.clients,
            ways=tuple(given.ways),
            fits=given.fits,
            docker=given.docker,
        )


@dataclass
class Outcome:
    """What became of the requests of one way and one number of models."""

    way: str
    times: int
    models: int
    loaded: int = 0
    cold_s: list[float] = field(default_factory=list)
    warm_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    kernel_kills: int | None = None

    @property
    def answered(self) -> int:
        """How many were answered right."""
        return len(self.cold_s) + len(self.warm_s)

    @property
    def sent(self) -> int:
        """All."""
        return self.answered + len(self.failed)


class ColdCalls:
    """Tells cold calls from warm ones by the start of the worker processes. ``name_of`` a model is its process's."""

    def __init__(self, name_of: Callable[[str], str]) -> None:
        self._name_of = name_of
        self._pids: dict[str, int] = {}

    def is_cold(self, model: str, sent_s: float) -> bool:
        """Call it at once when the answer is there. ``sent_s`` is of ``now_s``."""
        name = self._name_of(model)
        known = self._pids.get(model)
        started = started_ticks(known, name) if known is not None else None
        if started is None:
            found = [(ticks, pid) for pid in psutil.pids() if (ticks := started_ticks(pid, name)) is not None]
            if not found:
                return True  # it has been put to sleep again already
            started, self._pids[model] = min(found)  # others may have come to help the first
        # the kernel rounds down; no worker that was there in the last tick before has answered anybody yet
        return (started + 1) / _TICKS_PER_S > sent_s

    @staticmethod
    def now_s() -> float:
        """The clock by which the kernel notes the starts of processes."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


# What invokes a model by its name, on a connection of the caller's own.
Invoke = Callable[[Connection, str], Answer]


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = OvercommitOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: OvercommitOptions) -> Result:
    """Finds out how many models fit, then way after way with ever more models."""
    folder = models.ensure([MODEL])[MODEL]
    result = Result("overcommit", {**chosen.recorded(), "model": MODEL, "pattern": PATTERN})
    fits = chosen.fits or find_what_fits(chosen, folder)
    outcomes = []
    for times in chosen.times:
        for way in chosen.ways:
            progress(f"{way}: {times} × {fits} models in {chosen.memory_mb} MiB")
            measure = {SLEEPING: measure_sleeping, UNLOADING: measure_unloading}[way]
            outcomes.append(measure(Outcome(way, times, times * fits), folder, chosen))
    report(outcomes, fits, chosen, result)
    return result


def find_what_fits(chosen: OvercommitOptions, folder: Path) -> int:
    """How many models a server takes that never puts one to sleep, until it answers 507."""
    progress(f"how many models fit in {chosen.memory_mb} MiB?")
    with limited_server(chosen, "off") as server:
        for number in range(MOST_TRIED):
            name = f"fit{number:04}"
            server.install(folder, name, copy=True)
            answer = server.connection.load(name, server.model_url(name))
            if answer.status == 507:
                if not number:
                    raise BenchmarkError(f"no model fits in {chosen.memory_mb} MiB: ask for more with --memory-mb.")
                progress(f"{number} models fit")
                return number
            answer.must_be_ok(f"load {name}")
    raise BenchmarkError(f"{MOST_TRIED} models fit in {chosen.memory_mb} MiB: ask for less with --memory-mb.")


def limited_server(chosen: OvercommitOptions, overcommit: str) -> LimitedServer:
    """Ours, limited; not started yet."""
    settings = {OVERCOMMIT: overcommit, "MME_PRELOAD": "mxnet"}
    return make_limited_server(chosen.memory_mb, native=not chosen.docker, settings=settings)


def measure_sleeping(outcome: Outcome, folder: Path, chosen: OvercommitOptions) -> Outcome:
    """All models are loaded into one server, then asked."""
    token = uuid.uuid4().hex[:5]  # the processes' names are this run's alone
    body, content_type = models.request_for(MODEL)

    def invoke(connection: Connection, name: str) -> Answer:
        return connection.invoke(name, body, content_type)

    server = limited_server(chosen, "on")
    with server:
        names = [f"{token}{number:04}" for number in range(outcome.models)]
        for name in names:
            server.install(folder, name, copy=True)
            answer = server.connection.load(name, server.model_url(name))
            if answer.status != 200:
                outcome.failed.append(f"load {name}: {answer.status} {answer.body[:200].decode(errors='replace')}")
                break
            outcome.loaded += 1
        else:
            send_all(outcome, names, invoke, server.port, ColdCalls(process_name), chosen)
        outcome.kernel_kills = server.kernel_kills()
    return outcome


def measure_unloading(outcome: Outcome, folder: Path, chosen: OvercommitOptions) -> Outcome:
    """All models lie in the endpoint's bucket, and are asked; the endpoint loads and unloads."""
    token = uuid.uuid4().hex[:5]
    targets = [f"{token}-{number:04}.tar.gz" for number in range(outcome.models)]
    packed = pack(folder)
    settings = {"MME_MEMORY_LIMIT_MB": str(chosen.memory_mb), OVERCOMMIT: "off", "MME_PRELOAD": "mxnet"}
    with local_endpoint() as (url, _):
        deploy(url, NAME, dict.fromkeys(targets, packed), settings)
        body, content_type = models.request_for(MODEL)
        path = f"/endpoints/{NAME}/invocations"

        def invoke(connection: Connection, target: str) -> Answer:
            headers = {"Content-Type": content_type, "X-Amzn-SageMaker-Target-Model": target}
            return connection.request("POST", path, body, headers)

        def name_of(target: str) -> str:
            return process_name(TargetModel.below(S3Location(NAME, PREFIX), target).name)

        outcome.loaded = outcome.models
        send_all(outcome, targets, invoke, int(url.rpartition(":")[2]), ColdCalls(name_of), chosen)
    return outcome


def send_all(
    outcome: Outcome, names: Sequence[str], invoke: Invoke, port: int, calls: ColdCalls, chosen: OvercommitOptions
) -> None:
    """Asks every model once, which does not count, then sends the traffic and fills the outcome."""
    with Connection(port) as connection:
        right = invoke(connection, names[-1]).must_be_ok(f"{outcome.way}: {names[-1]}").body
        for name in reversed(names[:-1]):  # the most popular ones last, as traffic would have left it
            invoke(connection, name).must_be_ok(f"{outcome.way}: {name}")
    wanted = iter_models(names, chosen.requests)
    lock = threading.Lock()
    with LiveProgress("requests", chosen.requests) as live:
        live.describe(f"{outcome.way}, {len(names)} models")

        def work() -> None:
            with Connection(port) as connection:
                while True:
                    with lock:
                        name = next(wanted, None)
                    if name is None:
                        return
                    one(connection, name)

        def one(connection: Connection, name: str) -> None:
            sent_s = calls.now_s()
            try:
                answer = invoke(connection, name)
            except (OSError, BenchmarkError) as error:
                with lock:
                    outcome.failed.append(f"{name}: {error}")
                return
            is_right = answer.status == 200 and answer.body == right
            is_cold = is_right and calls.is_cold(name, sent_s)
            with lock:
                if is_right:
                    (outcome.cold_s if is_cold else outcome.warm_s).append(answer.elapsed_s)
                else:
                    said = answer.body[:600].decode(errors="replace")
                    outcome.failed.append(f"{name}: {answer.status} {said}")
                live.within_block(outcome.sent, len(outcome.failed))

        threads = [threading.Thread(target=work) for _ in range(chosen.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def iter_models(names: Sequence[str], requests: int) -> Iterator[str]:
    """So many names, by the pattern; the same ones in each run."""
    chooser = Chooser(PATTERN, len(names), SEED)
    return (names[chooser.next()] for _ in range(requests))


def report(outcomes: Sequence[Outcome], fits: int, chosen: OvercommitOptions, result: Result) -> None:
    """Table, rows, targets and errors."""
    result.headers = ["way", "models", "times what fits", "loaded", "requests", "answered", "cold"]
    result.headers += ["cold p50 ms", "p95", "p99", "warm p50 ms", "p95", "p99", "kernel kills"]
    for each in outcomes:
        share = len(each.cold_s) / each.answered if each.answered else None
        cold, warm = _summary(each.cold_s), _summary(each.warm_s)
        result.table.append(
            [
                each.way,
                str(each.models),
                str(each.times),
                str(each.loaded),
                f"{each.sent:,}",
                f"{each.answered:,}",
                "–" if share is None else f"{share:.1%}",
                *_figures(cold),
                *_figures(warm),
                "–" if each.kernel_kills is None else str(each.kernel_kills),
            ]
        )
        result.rows.append(
            {
                "way": each.way,
                "models": each.models,
                "times": each.times,
                "loaded": each.loaded,
                "requests": each.sent,
                "answered": each.answered,
                "cold_share": share,
                "cold_s": cold,
                "warm_s": warm,
                "kernel_kills": each.kernel_kills,
            }
        )
        report_failures(each, result)
    result.targets = targets(outcomes)
    result.notes += [
        f"{fits} models fit in {chosen.memory_mb} MiB; {chosen.clients} connections; Zipf's traffic, exponent 1.1. "
        "Each model was asked once before.",
        "cold: the model's worker process started after the request was sent, or is gone again.",
        "unloading: the limit is MME_MEMORY_LIMIT_MB; the local endpoint itself is not limited.",
    ]


def report_failures(outcome: Outcome, result: Result) -> None:
    """Errors of ours; what the endpoint has refused is a note, for it is what sleeping is compared with."""
    if not outcome.failed:
        return
    where = f"{outcome.way}, {outcome.models} models"
    if outcome.way == UNLOADING:
        result.notes.append(f"{where}: {len(outcome.failed)} requests were refused, for example {outcome.failed[0]}")
        return
    result.errors += [f"{where}: {failed}" for failed in outcome.failed[:MOST_EXAMPLES]]
    if len(outcome.failed) > MOST_EXAMPLES:
        result.errors.append(f"{where}: {len(outcome.failed) - MOST_EXAMPLES} more like these")


def targets(outcomes: Sequence[Outcome]) -> list[Target]:
    """Of the largest overcommit that was measured."""
    of = {(each.way, each.times): each for each in outcomes}
    most = max((each.times for each in outcomes if each.way == SLEEPING), default=None)
    if most is None:
        return []
    asleep, unloaded = of[SLEEPING, most], of.get((UNLOADING, most))
    answered = asleep.answered / asleep.sent if asleep.loaded == asleep.models and asleep.sent else None
    p95_s = Summary.of(asleep.cold_s).p95 if asleep.cold_s else None
    ratio = p95_s / Summary.of(unloaded.cold_s).p95 if p95_s and unloaded and unloaded.cold_s else None
    what = f"{most} × overcommit, Zipf 1.1"
    in_ms = None if p95_s is None else p95_s * 1000
    return [
        Target(f"{what}: share of requests answered", answered, "≥", 1.0),
        Target(f"{what}: p95 of a wake-up, SqueezeNet", in_ms, "≤", MOST_WAKE_UP_MS, "ms"),
        Target(f"{what}: p95 of a wake-up ÷ of unloading and loading again", ratio, "≤", MOST_OF_UNLOADING),
    ]


def _summary(times_s: list[float]) -> Summary | None:
    return Summary.of(times_s) if times_s else None


def _figures(summary: Summary | None) -> list[str]:
    if summary is None:
        return ["–"] * 3
    return [milliseconds(value) for value in (summary.p50, summary.p95, summary.p99)]
