"""How long until a model that is not loaded has answered its first request.

Each round loads every model under a fresh name, invokes it ten times with a 640×480 JPEG (--framework: with what its
models take) and unloads it, in each of the servers in turn. What counts is load + first invocation: a warm-up inside
the load moves work from one to the other. The first invocation beside the tenth tells what the warm-up has left to do.

Afterwards each server is started anew, several times, and loads four tiny models as soon as it says that it is ready:
what it has put off until the first load is in the first one's time.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks import models, options
from benchmarks.options import Options
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers import Server, running
from benchmarks.summary import Ratio, Summary
from benchmarks.workloads import WORKLOADS

WARM_UP_ROUNDS = 1
INVOCATIONS = 10
MOST_TIMES_THE_LAST = 1.5  # the first invocation, of ours
FIRST_LOADS = 4
MOST_TIMES_A_LATER_LOAD = 2.0  # the first load after a start, of ours
FIRST_LOADS_MODEL = "tiny"


class Sample(NamedTuple):
    """Seconds of one cold start."""

    load_s: float
    first_invocation_s: float
    last_invocation_s: float

    @property
    def sum_s(self) -> float:
        """What the first caller waits."""
        return self.load_s + self.first_invocation_s


@dataclass(frozen=True)
class ColdLoadOptions(Options):
    """``rounds`` count, each with all ``models``; ``starts`` of each server are for the first loads."""

    rounds: int = 10
    models: tuple[str, ...] = WORKLOADS["mxnet"].cold_models
    starts: int = 5

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> ColdLoadOptions:
        """The command line after the scenario's name."""
        parser = options.parser("cold_load", __doc__)
        parser.add_argument("--rounds", type=options.positive, help="rounds that count (default 10, quick 3)")
        options.framework_option(parser)
        parser.add_argument("--models", nargs="+", choices=sorted(models.TITLES), help="default: all of the framework")
        parser.add_argument(
            "--starts", type=options.whole, help="how often each server is started anew (default 5, quick 1)"
        )
        given = parser.parse_args(arguments)
        return cls(
            **options.with_framework(given),
            rounds=given.rounds or (3 if given.quick else cls.rounds),
            models=tuple(given.models or WORKLOADS[given.framework].cold_models),
            starts=_starts(given) if given.starts is None else given.starts,
        )


def _starts(given: argparse.Namespace) -> int:
    """Only MXNet's first loads are measured unless asked for."""
    return 0 if given.framework != "mxnet" else 1 if given.quick else ColdLoadOptions.starts


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = ColdLoadOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: ColdLoadOptions) -> Result:
    """Rounds of cold loads, then starts with first loads."""
    result = Result("cold_load", {**chosen.recorded(), "warm_up_rounds": WARM_UP_ROUNDS})
    samples = measure(chosen, models.ensure(chosen.models), result)
    report(chosen, samples, result)
    report_frameworks(chosen, samples, result)
    report_first_loads(measure_first_loads(chosen), result)
    return result


def measure(chosen: ColdLoadOptions, folders: dict[str, Path], result: Result) -> dict[tuple[str, str], list[Sample]]:
    """Samples by (model, server); one per round where nothing failed."""
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    progress(f"starting {', '.join(chosen.servers)}")
    with running([options.make_server(name, chosen.workload) for name in chosen.servers]) as servers:
        for number in range(WARM_UP_ROUNDS + chosen.rounds):
            is_warm_up = number < WARM_UP_ROUNDS
            progress("warm-up round" if is_warm_up else f"round {number} of {chosen.rounds}")
            for model, folder in folders.items():
                for server in servers.values():
                    sample = cold_start(server, folder, f"{model}-{number}", result, *models.request_for(model))
                    if sample and not is_warm_up:
                        samples[model, server.name].append(sample)
    return samples


def cold_start(
    server: Server, folder: Path, name: str, result: Result, body: bytes, content_type: str
) -> Sample | None:
    """Loads, invokes and unloads; None where one of them failed, which is noted among the result's errors."""
    server.install(folder, name)
    loaded = server.connection.load(name, server.model_url(name))
    if loaded.status != 200:
        result.errors.append(f"{server.name}: load {name}: {loaded.status} {loaded.body[:200]!r}")
        return None
    invoked = [server.connection.invoke(name, body, content_type) for _ in range(INVOCATIONS)]
    unloaded = server.connection.unload(name)
    server.remove(name)
    for doing, answer in (*(("invoke", each) for each in invoked), ("unload", unloaded)):
        if answer.status != 200:
            result.errors.append(f"{server.name}: {doing} {name}: {answer.status} {answer.body[:200]!r}")
            return None
    return Sample(loaded.elapsed_s, invoked[0].elapsed_s, invoked[-1].elapsed_s)


def report(chosen: ColdLoadOptions, samples: dict[tuple[str, str], list[Sample]], result: Result) -> None:
    """Fills the result's table, rows and targets."""
    result.headers = ["model", "server", "load ms", "first ms", "first ÷ tenth", "sum p50", "p95", "p99"]
    result.headers += ["errors", "stock ÷ this"]
    sums = {key: [[sample.sum_s] for sample in taken] for key, taken in samples.items()}
    for model in chosen.models:
        for name in chosen.servers:
            taken = samples.get((model, name), [])
            failed = chosen.rounds - len(taken)
            title = models.TITLES[model]
            if not taken:
                result.table.append([title, name, *["–"] * 6, str(failed), ""])
                continue
            load = Summary.of([sample.load_s for sample in taken])
            first = Summary.of([sample.first_invocation_s for sample in taken])
            total = Summary.of([sample.sum_s for sample in taken])
            stock = sums.get((model, "stock"), [])
            comparable = name != "stock" and len(stock) == len(taken)
            ratio = Ratio.of_rounds(stock, sums[model, name]) if comparable else None
            warmth = Ratio.of_rounds(
                [[sample.first_invocation_s] for sample in taken], [[sample.last_invocation_s] for sample in taken]
            )
            times = [milliseconds(each) for each in (load.p50, first.p50, total.p50, total.p95, total.p99)]
            cells = [*times[:2], f"{warmth.value:.2f}", *times[2:], str(failed), str(ratio or "")]
            result.table.append([title, name, *cells])
            result.rows.append(
                {
                    "model": model,
                    "server": name,
                    "load_s": load,
                    "first_invocation_s": first,
                    "first_to_tenth_invocation_ratio": warmth,
                    "sum_s": total,
                    "failed_rounds": failed,
                    "stock_ratio": ratio,
                }
            )
            if name == "ours":
                what = f"first ÷ tenth invocation, {title}"
                if chosen.framework in ("mxnet", "onnx"):  # others answer in a millisecond, the front end's above all
                    result.targets.append(Target.of_ratio(what, warmth, "≤", MOST_TIMES_THE_LAST))
                wanted = chosen.workload.cold_ratios
                if model in wanted and "stock" in chosen.servers:
                    what = f"load + first invocation, {title}, stock ÷ ours"
                    result.targets.append(Target.of_ratio(what, ratio, "≥", wanted[model]))


def report_frameworks(chosen: ColdLoadOptions, samples: dict[tuple[str, str], list[Sample]], result: Result) -> None:
    """Fills the targets that compare a model with the same one of another framework."""
    for model, (beside, most) in chosen.workload.most_of.items():
        of_each = [[[sample.sum_s] for sample in samples.get((name, "ours"), [])] for name in (model, beside)]
        if of_each[0] and len(of_each[0]) == len(of_each[1]):
            what = f"load + first invocation, {models.TITLES[model]} ÷ {models.TITLES[beside]}, ours"
            result.targets.append(Target.of_ratio(what, Ratio.of_rounds(*of_each), "≤", most))


def measure_first_loads(chosen: ColdLoadOptions) -> dict[str, list[list[float]]]:
    """Seconds of the first loads after each start, by server. Raises ``BenchmarkError`` where one fails."""
    folder = models.ensure([FIRST_LOADS_MODEL])[FIRST_LOADS_MODEL]
    found: dict[str, list[list[float]]] = defaultdict(list)
    for number in range(chosen.starts):
        progress(f"start {number + 1} of {chosen.starts}")
        for name in chosen.servers:
            with options.make_server(name) as server:
                found[name].append([load_once(server, folder, f"first-{each}") for each in range(FIRST_LOADS)])
    return found


def load_once(server: Server, folder: Path, name: str) -> float:
    """Seconds of one load."""
    server.install(folder, name)
    return server.connection.load(name, server.model_url(name)).must_be_ok(f"{server.name}: load {name}").elapsed_s


def report_first_loads(found: dict[str, list[list[float]]], result: Result) -> None:
    """Fills a row per server, a note, and the target."""
    for name, starts in found.items():
        ratio = Ratio.of_rounds([[times_s[0]] for times_s in starts], [[times_s[-1]] for times_s in starts])
        by_number = [Summary.of(times_s) for times_s in zip(*starts, strict=True)]
        shown = ", ".join(milliseconds(each.p50) for each in by_number)
        title = models.TITLES[FIRST_LOADS_MODEL]
        result.notes.append(
            f"{name}: loads of {title} after {len(starts)} starts, p50 of the first to fourth: {shown} ms"
        )
        result.rows.append(
            {"model": FIRST_LOADS_MODEL, "server": name, "loads_after_start_s": by_number, "ratio": ratio}
        )
        if name == "ours":
            what = f"first load after the start ÷ fourth, {title}"
            result.targets.append(Target.of_ratio(what, ratio, "≤", MOST_TIMES_A_LATER_LOAD))
