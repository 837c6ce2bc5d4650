"""What an empty server takes, and what a further model costs: memory of all processes of a server.

Proportional set size (PSS) of the whole tree, so that the front end's share of a model counts as well as its worker
and launcher: with 1, 10 and 30 models, each invoked once, at once after the last answer and four idle seconds later.
Then one ResNet-152: private memory of its own processes against its weights on disk. The empty server is measured
twice, with MXNet preloaded and with nothing. The servers run one after the other, so that none shares pages with
another.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import models, options
from benchmarks.failure import BenchmarkError
from benchmarks.memory import TreeMemory, cpu_s, private_bytes
from benchmarks.options import Options
from benchmarks.report import Result, Target, megabytes, progress
from benchmarks.servers import Server
from benchmarks.servers.ours import OurServer

# Most private memory of ResNet-152 in units of its weights, most bytes of an empty server by what it preloads.
WANTED_RATIO = 1.3
WANTED_EMPTY_BYTES = {"mxnet": 320e6, "none": 170e6}
EMPTY_TITLES = {"mxnet": "MXNet preloaded", "none": "nothing preloaded"}
# The front end's answer can come before an unloaded worker is gone.
SETTLE_TIMEOUT_S = 30.0
# From the last answer until memory is read again: a server may give memory back when it has nothing to do.
IDLE_S = 4.0
# How much processor time an idle server's Python processes take in IDLE_S at most, and how long it is waited for.
IDLE_CPU_S = 0.1
PREPARED_TIMEOUT_S = 120.0
# Loaded, invoked and unloaded beforehand: the front end's JVM grows by some 20 MB at its first requests, once.
WARM_UP_MODELS = 5


class Step(NamedTuple):
    """The server's memory with so many models of one kind: at once after the last answer, and ``IDLE_S`` later."""

    models: int
    at_once: TreeMemory
    idle: TreeMemory


@dataclass(frozen=True)
class MemoryOptions(Options):
    """``counts``: how many models are loaded when memory is read."""

    counts: tuple[int, ...] = (1, 10, 30)

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> MemoryOptions:
        """The command line after the scenario's name."""
        parser = options.parser("memory", __doc__)
        parser.add_argument(
            "--counts",
            type=options.positive,
            nargs="+",
            metavar="N",
            help="how many models are loaded when memory is read (default 1 10 30, quick 1 4 8)",
        )
        options.framework_option(parser)
        given = parser.parse_args(arguments)
        counts = tuple(sorted(set(given.counts or ([1, 4, 8] if given.quick else cls.counts))))
        if len(counts) < 2:
            parser.error("--counts: a cost per additional model needs two counts")
        return cls(**options.with_framework(given), counts=counts)


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = MemoryOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: MemoryOptions) -> Result:
    """One server after the other."""
    workload = chosen.workload
    kinds, large = workload.memory_models, workload.large
    measured = [*kinds, *([large] if large else [])]
    folders = models.ensure(measured)
    result = Result("memory", {**chosen.recorded(), "models": measured, "warm_up_models": WARM_UP_MODELS})
    result.headers = ["model", "server", "models", "PSS MB", "JVM", "workers", "processes"]
    result.headers += ["MB per additional model", f"after {IDLE_S:.0f} idle s"]
    result.notes = [
        "MB: millions of bytes of PSS of the whole process tree; per additional model: since the line above.",
        "PSS is read at once after the last model's first answer; the last column is read later.",
    ]
    if large:
        result.notes.append(f"{models.TITLES[large]}: private memory of the processes that its load added.")
    for name in chosen.servers:
        progress(f"starting {name}")
        with options.make_server(name, workload) as server:
            if name == "stock" and large:
                report_empty(name, "stock", empty(server), result)
            grow(server, kinds[0], folders[kinds[0]], [WARM_UP_MODELS])
            for kind in kinds:
                steps = grow(server, kind, folders[kind], chosen.counts)
                report(server.name, kind, steps, result, workload.further_bytes[kind])
            if large:
                report_large(server.name, *load_large(server, large, folders[large]), large, folders[large], result)
        if name == "ours" and large:
            for preloaded in WANTED_EMPTY_BYTES:
                progress(f"starting ours with MME_PRELOAD={preloaded}")
                with OurServer({"MME_PRELOAD": preloaded}) as server:
                    report_empty(name, preloaded, empty(server), result)
    order = ["empty server", *models.TITLES.values()]
    result.table.sort(key=lambda row: order.index(row[0].partition(",")[0]))
    return result


def empty(server: Server) -> TreeMemory:
    """Memory of a server without models, when it has nothing left to prepare: it may say before that it is ready."""
    deadline_s = time.monotonic() + PREPARED_TIMEOUT_S
    used_s = cpu_s(server.root_process())
    while True:
        time.sleep(IDLE_S)
        before_s, used_s = used_s, cpu_s(server.root_process())
        if used_s - before_s <= IDLE_CPU_S:
            return server.memory()
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"{server.name}: still busy {PREPARED_TIMEOUT_S:.0f} s after its start")


def grow(server: Server, kind: str, folder: Path, counts: Sequence[int]) -> list[Step]:
    """Loads models up to each of ``counts`` and reads the memory; unloads them all in the end."""
    before = len(server.descendants())
    steps = []
    names = [f"{kind}-{number}" for number in range(counts[-1])]
    for number, name in enumerate(names, start=1):
        add(server, folder, name, *models.request_for(kind))
        if number in counts:
            at_once = server.memory()
            time.sleep(IDLE_S)
            steps.append(Step(number, at_once, server.memory()))
            progress(f"{server.name}: {number} × {kind}, {megabytes(at_once.total.pss_bytes)} MB")
    for name in names:
        server.connection.unload(name).must_be_ok(f"{server.name}: unload {name}")
        server.remove(name)
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while len(server.descendants()) > before and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return steps


def add(server: Server, folder: Path, name: str, body: bytes, content_type: str) -> None:
    """Loads a model from files of its own and invokes it once. Raises ``BenchmarkError`` where that fails."""
    server.install(folder, name, copy=True)
    server.connection.load(name, server.model_url(name)).must_be_ok(f"{server.name}: load {name}")
    invoked = server.connection.invoke(name, body, content_type)
    invoked.must_be_ok(f"{server.name}: invoke {name}")


def load_large(server: Server, name: str, folder: Path) -> tuple[int, int]:
    """Private bytes of all processes that loading and invoking it once has added, and how many these are."""
    before = server.descendants()
    add(server, folder, name, *models.request_for(name))
    time.sleep(IDLE_S)
    added = [process for pid, process in server.descendants().items() if pid not in before]
    progress(f"{server.name}: {name}, {len(added)} processes")
    return private_bytes(added), len(added)


def costs_at_once(steps: Sequence[Step]) -> list[float]:
    """Bytes per additional model from each step to the next.

    ``at_once`` of the later step is held against ``idle`` of the earlier one: these are its models when the later ones
    come.
    """
    return [
        (after.at_once.total.pss_bytes - before.idle.total.pss_bytes) / (after.models - before.models)
        for before, after in itertools.pairwise(steps)
    ]


def costs_idle(steps: Sequence[Step]) -> list[float]:
    """The same when all have been idle."""
    return [
        (after.idle.total.pss_bytes - before.idle.total.pss_bytes) / (after.models - before.models)
        for before, after in itertools.pairwise(steps)
    ]


def report(name: str, kind: str, steps: list[Step], result: Result, most_bytes: float) -> None:
    """Adds a line per step, and the target."""
    title = models.TITLES[kind]
    costs: list[tuple[float, float] | None] = [None, *zip(costs_at_once(steps), costs_idle(steps), strict=True)]
    for step, cost in zip(steps, costs, strict=True):
        held = step.at_once
        figures = [megabytes(part.pss_bytes) for part in (held.total, held.jvm, held.workers)]
        shown = ["", ""] if cost is None else [megabytes(each) for each in cost]
        result.table.append([title, name, str(step.models), *figures, str(held.processes), *shown])
        result.rows.append(_row(kind, name, step, cost))
    if name == "ours":
        # From the first step to the last: the JVM's heap, which comes and goes, weighs least.
        (measured_bytes,) = costs_at_once([steps[0], steps[-1]])
        what = f"PSS per further model, at once after its first answer, {title}"
        result.targets.append(Target(what, measured_bytes / 1e6, "≤", most_bytes / 1e6, "MB"))


def _row(kind: str, name: str, step: Step, cost_bytes: tuple[float, float] | None) -> dict[str, Any]:
    at_once = step.at_once
    return {
        "model": kind,
        "server": name,
        "models": step.models,
        "pss_bytes": at_once.total.pss_bytes,
        "pss_bytes_idle": step.idle.total.pss_bytes,
        "private_bytes": at_once.total.private_bytes,
        "jvm_pss_bytes": at_once.jvm.pss_bytes,
        "workers_pss_bytes": at_once.workers.pss_bytes,
        "supervisor_pss_bytes": at_once.supervisor.pss_bytes,
        "processes": at_once.processes,
        "jvm_threads": at_once.jvm_threads,
        "pss_bytes_per_additional_model": cost_bytes[0] if cost_bytes else None,
        "pss_bytes_per_additional_model_idle": cost_bytes[1] if cost_bytes else None,
    }


def report_empty(name: str, preloaded: str, held: TreeMemory, result: Result) -> None:
    """Adds the line of an empty server, and its target."""
    title = EMPTY_TITLES.get(preloaded)
    figures = [megabytes(part.pss_bytes) for part in (held.total, held.jvm, held.workers)]
    result.table.append(
        [f"empty server, {title}" if title else "empty server", name, "0", *figures, str(held.processes), "", ""]
    )
    result.rows.append(
        {
            "model": None,
            "server": name,
            "preloaded": preloaded,
            "models": 0,
            "pss_bytes": held.total.pss_bytes,
            "jvm_pss_bytes": held.jvm.pss_bytes,
            "workers_pss_bytes": held.workers.pss_bytes,
            "supervisor_pss_bytes": held.supervisor.pss_bytes,
            "processes": held.processes,
        }
    )
    if preloaded in WANTED_EMPTY_BYTES:
        limit_mb = WANTED_EMPTY_BYTES[preloaded] / 1e6
        result.targets.append(Target(f"empty server, {title}", held.total.pss_bytes / 1e6, "≤", limit_mb, "MB"))


def report_large(name: str, private: int, processes: int, kind: str, folder: Path, result: Result) -> None:
    """Adds the line of the large model, and its target."""
    weights = models.weights_bytes(folder)
    ratio = private / weights
    title = models.TITLES[kind]
    shown = f"{megabytes(private)} private = {ratio:.2f} × weights"
    result.table.append([title, name, "1", "", "", "", f"+{processes}", "", shown])
    result.rows.append(
        {"model": kind, "server": name, "private_bytes": private, "weights_bytes": weights, "ratio": ratio}
    )
    if name == "ours":
        what = f"private memory ÷ weights on disk, {title}"
        result.targets.append(Target(what, ratio, "≤", WANTED_RATIO))
