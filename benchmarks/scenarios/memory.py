"""What a further model costs: memory of all processes of a server with 1, 10 and 30 models, each invoked once.

Proportional set size (PSS) of the whole tree, so that the front end's share of a model counts as well as its worker
and launcher. Then one ResNet-152: private memory of its own processes against its weights on disk. The servers run
one after the other, so that neither shares pages with the other.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import models, options
from benchmarks.memory import TreeMemory, private_bytes
from benchmarks.report import Result, Target, megabytes, progress
from benchmarks.servers import Server

KINDS = ("tiny", "squeezenet")
LARGE = "resnet_152"
# Most bytes per additional model, most private memory of ResNet-152 in units of its weights.
WANTED_BYTES = {"tiny": 6e6, "squeezenet": 32e6}
WANTED_RATIO = 1.3
# The front end's answer can come before an unloaded worker is gone.
SETTLE_TIMEOUT_S = 30.0
# From the last answer until memory is read: a server may give memory back when it has nothing to do.
IDLE_S = 4.0
# Loaded, invoked and unloaded beforehand: the front end's JVM grows by some 20 MB at its first requests, once.
WARM_UP_MODELS = 5


class Step(NamedTuple):
    """The server's memory with so many models of one kind."""

    models: int
    memory: TreeMemory


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    parser = options.parser("memory", __doc__)
    parser.add_argument(
        "--counts",
        type=options.positive,
        nargs="+",
        metavar="N",
        help="how many models are loaded when memory is read (default 1 10 30, quick 1 4 8)",
    )
    chosen = parser.parse_args(arguments)
    chosen.counts = sorted(set(chosen.counts or ([1, 4, 8] if chosen.quick else [1, 10, 30])))
    if len(chosen.counts) < 2:
        parser.error("--counts: a cost per additional model needs two counts")
    folders = models.ensure([*KINDS, LARGE])
    result = Result("memory", {**options.recorded(chosen), "models": [*KINDS, LARGE], "warm_up_models": WARM_UP_MODELS})
    result.headers = ["model", "server", "models", "PSS MB", "JVM", "workers", "processes", "MB per additional model"]
    result.notes = [
        "MB: millions of bytes of PSS of the whole process tree; per additional model: since the line above.",
        f"{models.TITLES[LARGE]}: private memory of the processes that its load added.",
    ]
    for name in chosen.servers:
        progress(f"starting {name}")
        with options.make_server(name) as server:
            grow(server, KINDS[0], folders[KINDS[0]], [WARM_UP_MODELS])
            for kind in KINDS:
                steps = grow(server, kind, folders[kind], chosen.counts)
                report(server.name, kind, steps, result)
            report_large(server.name, *load_large(server, folders[LARGE]), folders[LARGE], result)
    result.table.sort(key=lambda row: [*models.TITLES.values()].index(row[0]))
    return result.finish(chosen.output)


def grow(server: Server, kind: str, folder: Path, counts: list[int]) -> list[Step]:
    """Loads models up to each of ``counts`` and reads the memory; unloads them all in the end."""
    before = len(server.descendants())
    steps = []
    names = [f"{kind}-{number}" for number in range(counts[-1])]
    for number, name in enumerate(names, start=1):
        add(server, folder, name)
        if number in counts:
            time.sleep(IDLE_S)
            steps.append(Step(number, server.memory()))
            progress(f"{server.name}: {number} × {kind}, {megabytes(steps[-1].memory.total.pss_bytes)} MB")
    for name in names:
        server.connection.unload(name).must_be_ok(f"{server.name}: unload {name}")
        server.remove(name)
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while len(server.descendants()) > before and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return steps


def add(server: Server, folder: Path, name: str) -> None:
    """Loads a model from files of its own and invokes it once. Raises ``BenchmarkError`` where that fails."""
    server.install(folder, name, copy=True)
    server.connection.load(name, server.model_url(name)).must_be_ok(f"{server.name}: load {name}")
    invoked = server.connection.invoke(name, models.photo(), models.PHOTO_TYPE)
    invoked.must_be_ok(f"{server.name}: invoke {name}")


def load_large(server: Server, folder: Path) -> tuple[int, int]:
    """Private bytes of all processes that loading and invoking it once has added, and how many these are."""
    before = server.descendants()
    add(server, folder, LARGE)
    time.sleep(IDLE_S)
    added = [process for pid, process in server.descendants().items() if pid not in before]
    progress(f"{server.name}: {LARGE}, {len(added)} processes")
    return private_bytes(added), len(added)


def report(name: str, kind: str, steps: list[Step], result: Result) -> None:
    """Adds a line per step, and the target."""
    title = models.TITLES[kind]
    costs = []
    previous: Step | None = None
    for step in steps:
        held, cost = step.memory, None
        if previous:
            added_bytes = held.total.pss_bytes - previous.memory.total.pss_bytes
            cost = added_bytes / (step.models - previous.models)
            costs.append(cost)
        figures = [megabytes(part.pss_bytes) for part in (held.total, held.jvm, held.workers)]
        shown = "" if cost is None else megabytes(cost)
        result.table.append([title, name, str(step.models), *figures, str(held.processes), shown])
        result.rows.append(_row(kind, name, step, cost))
        previous = step
    if name == "ours":
        measured_mb = max(costs) / 1e6  # the dearer of the steps
        limit_mb = WANTED_BYTES[kind] / 1e6
        result.targets.append(Target(f"PSS per additional model, {title}", measured_mb, "≤", limit_mb, "MB"))


def _row(kind: str, name: str, step: Step, cost_bytes: float | None) -> dict[str, Any]:
    return {
        "model": kind,
        "server": name,
        "models": step.models,
        "pss_bytes": step.memory.total.pss_bytes,
        "private_bytes": step.memory.total.private_bytes,
        "jvm_pss_bytes": step.memory.jvm.pss_bytes,
        "workers_pss_bytes": step.memory.workers.pss_bytes,
        "supervisor_pss_bytes": step.memory.supervisor.pss_bytes,
        "processes": step.memory.processes,
        "jvm_threads": step.memory.jvm_threads,
        "pss_bytes_per_additional_model": cost_bytes,
    }


def report_large(name: str, private: int, processes: int, folder: Path, result: Result) -> None:
    """Adds the line of the large model, and its target."""
    weights = models.weights_bytes(folder)
    ratio = private / weights
    title = models.TITLES[LARGE]
    shown = f"{megabytes(private)} private = {ratio:.2f} × weights"
    result.table.append([title, name, "1", "", "", "", f"+{processes}", shown])
    result.rows.append(
        {"model": LARGE, "server": name, "private_bytes": private, "weights_bytes": weights, "ratio": ratio}
    )
    if name == "ours":
        what = f"private memory ÷ weights on disk, {title}"
        result.targets.append(Target(what, ratio, "≤", WANTED_RATIO))
