"""How many models one server holds: time to load them all, memory, threads of the front end, and right answers.

Each model multiplies by a number of its own, so that every answer can be checked. As the platform may load several
models at a time, ``--loaders`` connections do it. Stock holds fewer: see --stock-models. With ``--memory-mb`` our
server is limited, and holds what does not fit asleep (3,000 tiny models in 4 GiB: ``--models 3000 --memory-mb
4096``). With ``--scrapes``: what of a core it takes to be asked for metrics of all models every 10 s.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks import models, options, scrapes
from benchmarks.connection import Answer
from benchmarks.memory import TreeMemory
from benchmarks.options import Options
from benchmarks.report import Result, Target, megabytes, milliseconds, progress
from benchmarks.scenarios.memory import IDLE_S
from benchmarks.servers import Server
from benchmarks.servers.loading import load_all
from benchmarks.servers.ours import OurServer
from benchmarks.servers.workers import worker_pids
from benchmarks.soak.limited_server import LimitedServer, make_limited_server
from benchmarks.summary import Summary

INVOCATIONS = 200
SEED = 7
WANTED_LOAD_S = 100.0
WANTED_BYTES = 8e9
WANTED_MODELS = 1000
# What a model costs on stock MMS, rounded up, and the part of the free memory that may be taken.
STOCK_MODEL_BYTES = 130e6
MEMORY_SHARE = 0.8
# With --asleep: a model that nobody asks for sleeps after so long; then all must within the time.
SLEEP_AFTER_S = 5
ASLEEP_TIMEOUT_S = 120.0
MOST_ASLEEP_BYTES = 1e6
# With --scrapes: how many models have metrics of their own; all, unless the caller says otherwise.
METRICS_SETTING = "MME_METRICS_MODELS"


@dataclass(frozen=True)
class ManyModelsOptions(Options):
    """How many models in our server and in stock MMS, and how many loads at the same time."""

    models: int = WANTED_MODELS
    stock_models: int = 1
    loaders: int = 4
    memory_mb: int | None = None
    docker: bool = False
    asleep: bool = False
    scrapes: bool = False

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> ManyModelsOptions:
        """The command line after the scenario's name."""
        parser = options.parser("many_models", __doc__)
        parser.add_argument("--models", type=options.positive, help="models in our server (default 1000, quick 100)")
        parser.add_argument(
            "--stock-models",
            type=options.positive,
            help=f"models in stock MMS (default: what fits in {MEMORY_SHARE:g} of the free memory at 130 MB each, "
            "quick 8)",
        )
        parser.add_argument(
            "--loaders", type=options.positive, default=cls.loaders, help="loads at the same time (default 4)"
        )
        parser.add_argument(
            "--memory-mb", type=options.positive, metavar="MB", help="limit of our server in MiB (default: none)"
        )
        parser.add_argument(
            "--docker", action="store_true", help="with --memory-mb: the image in docker run --memory, not a cgroup"
        )
        parser.add_argument(
            "--asleep", action="store_true", help="also: what a model of ours costs when all of them have gone to sleep"
        )
        parser.add_argument(
            "--scrapes",
            action="store_true",
            help="also: what scrapes of /metrics cost ours (10 min; MME_METRICS_MODELS)",
        )
        given = parser.parse_args(arguments)
        if given.docker and given.memory_mb is None:
            parser.error("--docker needs --memory-mb")
        if given.scrapes and given.asleep:
            parser.error("--scrapes and --asleep: models would sleep and wake between two scrapes")
        return cls(
            **options.common(given),
            models=given.models or (100 if given.quick else WANTED_MODELS),
            stock_models=given.stock_models or (8 if given.quick else stock_models_that_fit()),
            loaders=given.loaders,
            memory_mb=given.memory_mb,
            docker=given.docker,
            asleep=given.asleep,
            scrapes=given.scrapes,
        )


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = ManyModelsOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: ManyModelsOptions) -> Result:
    """One server after the other."""
    result = Result("many_models", {**chosen.recorded(), "invocations": INVOCATIONS, "warm_up": "none"})
    result.headers = [
        "server",
        "models",
        "load s",
        "load p50 ms",
        "p99",
        "PSS MB",
        "per model",
        "JVM MB",
        "JVM threads",
        "processes",
        "right answers",
        "invoke p50 ms",
        "p99",
    ]
    result.notes = [f"{chosen.loaders} loads at a time; each model is invoked for the first time."]
    for name in chosen.servers:
        count = chosen.stock_models if name == "stock" else chosen.models
        models.ensure([models.multiplier(factor) for factor in range(1, count + 1)])
        progress(f"starting {name}")
        with make_server(name, chosen) as server:
            measure(server, count, chosen, result)
            if isinstance(server, LimitedServer):
                report_limit(server, count, result)
            if chosen.scrapes and name == "ours":
                measure_scrapes(server, count, chosen, result)
            if chosen.asleep and name == "ours":
                report_asleep(server, result.rows[-1]["pss_bytes_empty"], count, result)
    return result


def make_server(name: str, chosen: ManyModelsOptions) -> Server:
    """A server that is not started yet; ours is limited where that is asked for."""
    settings = {"MME_SLEEP_AFTER_S": str(SLEEP_AFTER_S)} if chosen.asleep else {}
    if chosen.scrapes and METRICS_SETTING not in os.environ:
        settings[METRICS_SETTING] = str(chosen.models)
    if name == "ours" and chosen.memory_mb is not None:
        return make_limited_server(chosen.memory_mb, native=not chosen.docker, settings=settings)
    return OurServer(settings) if name == "ours" else options.make_server(name)


def measure_scrapes(server: Server, count: int, chosen: ManyModelsOptions, result: Result) -> None:
    """What it costs to scrape metrics of all models, each of which was asked once; and of models that are asked."""
    factors = list(range(1, count + 1))
    invoke_all(server, factors, result)
    scrapes.measure(server, count, lambda: invoke_all(server, factors, result), chosen.quick, result)
    result.notes.append(f"{METRICS_SETTING}={os.environ.get(METRICS_SETTING, count)}.")


def report_asleep(server: Server, empty_bytes: float, count: int, result: Result) -> None:
    """Waits until no model has a worker, and reads the memory: what is left of a model, front end and all."""
    deadline_s = time.monotonic() + ASLEEP_TIMEOUT_S
    while (awake := len(worker_pids(server))) and time.monotonic() < deadline_s:
        time.sleep(IDLE_S / 4)
    value_mb = None
    if awake:
        result.notes.append(f"{awake} of {count} models still had a worker after {ASLEEP_TIMEOUT_S:g} s.")
    else:
        value_mb = (server.memory().total.pss_bytes - empty_bytes) / count / 1e6
    result.rows[-1]["asleep_mb_per_model"] = value_mb
    result.targets.append(
        Target("a sleeping tiny model, everything counted", value_mb, "≤", MOST_ASLEEP_BYTES / 1e6, "MB")
    )


def report_limit(server: LimitedServer, count: int, result: Result) -> None:
    """What a limited server is held against: all loaded, all answer, and the kernel kills nothing."""
    row = result.rows[-1]
    what = f"{count:,} tiny models, {server.where}"
    result.targets += [
        Target(f"{what}: loaded", float(row["loaded"]), "≥", count),
        Target(f"{what}: right answers, each asked once", float(row["right_answers"]), "≥", count),
        Target(f"{what}: kernel kills", float(server.kernel_kills()), "≤", 0.0),
    ]
    result.notes.append(f"ours: {server.where}.")


def stock_models_that_fit() -> int:
    """So many that the machine keeps free memory for others."""
    return max(1, min(WANTED_MODELS, int(psutil.virtual_memory().available * MEMORY_SHARE / STOCK_MODEL_BYTES)))


def measure(server: Server, count: int, chosen: ManyModelsOptions, result: Result) -> None:
    """Loads ``count`` models, invokes some, reads the memory and reports."""
    factors = range(1, count + 1)
    names = [models.multiplier(factor) for factor in factors]
    for name in names:
        server.install(models.CACHE_DIR / name, name)
    empty = server.memory()
    started_s = time.monotonic()
    load_times_s = load_all(server, names, chosen.loaders, result.errors)
    load_s = time.monotonic() - started_s
    invoke_times_s, right = invoke_all(server, factors_to_ask(server, list(factors)), result)
    time.sleep(IDLE_S)
    full = server.memory()
    report(server, count, load_s, load_times_s, (empty, full), invoke_times_s, right, result)


def factors_to_ask(server: Server, factors: list[int]) -> list[int]:
    """Which models are invoked: some at random, and each once where what does not fit is asleep."""
    chance = random.Random(SEED)
    if isinstance(server, LimitedServer):
        return chance.sample(factors, len(factors))
    return chance.choices(factors, k=INVOCATIONS)


def invoke_all(server: Server, factors: list[int], result: Result) -> tuple[list[float], int]:
    """Seconds of each invocation, and how many were answered right."""
    chance = random.Random(SEED)
    times_s, right = [], 0
    for factor in factors:
        numbers = [chance.randint(1, 100) for _ in range(models.FEATURES)]
        body = json.dumps([numbers]).encode()
        answer = server.connection.invoke(models.multiplier(factor), body, "application/json")
        times_s.append(answer.elapsed_s)
        if answer.status == 200 and numbers_of(answer) == [number * factor for number in numbers]:
            right += 1
        else:
            result.errors.append(f"{server.name}: {factor} × {numbers}: {answer.status} {answer.body[:200]!r}")
    return times_s, right


def numbers_of(answer: Answer) -> Any:
    """The one row of the answer: ours wraps the rows in an object, a plain handler does not."""
    rows = json.loads(answer.body)
    if isinstance(rows, dict):
        rows = rows["predictions"]
    return rows[0]


def report(
    server: Server,
    count: int,
    load_s: float,
    load_times_s: list[float],
    memory: tuple[TreeMemory, TreeMemory],
    invoke_times_s: list[float],
    right: int,
    result: Result,
) -> None:
    """Adds a server's line and, for ours, the targets. ``memory``: before and after the loads."""
    empty, full = memory
    loads = Summary.of(load_times_s or [float("nan")])
    invocations = Summary.of(invoke_times_s)
    per_model = (full.total.pss_bytes - empty.total.pss_bytes) / count
    result.table.append(
        [
            server.name,
            str(count),
            f"{load_s:.1f}",
            milliseconds(loads.p50),
            milliseconds(loads.p99),
            megabytes(full.total.pss_bytes),
            megabytes(per_model),
            megabytes(full.jvm.pss_bytes),
            str(full.jvm_threads),
            str(full.processes),
            f"{right:,}/{len(invoke_times_s):,}",
            milliseconds(invocations.p50),
            milliseconds(invocations.p99),
        ]
    )
    result.rows.append(
        {
            "server": server.name,
            "models": count,
            "loaded": len(load_times_s),
            "load_all_s": load_s,
            "load_s": loads,
            "pss_bytes": full.total.pss_bytes,
            "pss_bytes_empty": empty.total.pss_bytes,
            "pss_bytes_per_model": per_model,
            "jvm_pss_bytes": full.jvm.pss_bytes,
            "jvm_threads": full.jvm_threads,
            "processes": full.processes,
            "right_answers": right,
            "invoke_s": invocations,
        }
    )
    if server.name == "ours" and not isinstance(server, LimitedServer):
        measured = count >= WANTED_MODELS
        what = f"{WANTED_MODELS:,} tiny models"
        total_gb = full.total.pss_bytes / 1e9
        result.targets += [
            Target(f"{what}: all loaded in", load_s if measured else None, "≤", WANTED_LOAD_S, "s"),
            Target(f"{what}: PSS in all", total_gb if measured else None, "≤", WANTED_BYTES / 1e9, "GB"),
            Target(f"{what}: right answers of {INVOCATIONS}", right if measured else None, "≥", INVOCATIONS),
        ]
