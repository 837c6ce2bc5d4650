"""How long until a model that is not loaded has answered its first request.

Each round loads every model under a fresh name, invokes it ten times with a 640×480 JPEG and unloads it, in each of
the servers in turn. What counts is load + first invocation: a warm-up inside the load moves work from one to the other.
The first invocation beside the tenth tells what the warm-up has left to do.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks import models, options
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers import Server, running
from benchmarks.summary import Ratio, Summary

MODELS = ("tiny", "squeezenet", "resnet_18", "resnet_152")
WARM_UP_ROUNDS = 1
# stock ÷ ours of load + first invocation
WANTED = {"squeezenet": 12, "resnet_152": 4}
INVOCATIONS = 10
MOST_TIMES_THE_LAST = 1.5  # the first invocation, of ours


class Sample(NamedTuple):
    """Seconds of one cold start."""

    load_s: float
    first_invocation_s: float
    last_invocation_s: float

    @property
    def sum_s(self) -> float:
        """What the first caller waits."""
        return self.load_s + self.first_invocation_s


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    parser = options.parser("cold_load", __doc__)
    parser.add_argument("--rounds", type=options.positive, help="rounds that count (default 10, quick 3)")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=list(MODELS), help=f"default: {' '.join(MODELS)}"
    )
    chosen = parser.parse_args(arguments)
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 10)
    result = Result("cold_load", {**options.recorded(chosen), "warm_up_rounds": WARM_UP_ROUNDS})
    samples = measure(chosen, models.ensure(chosen.models), result)
    report(chosen, samples, result)
    return result.finish(chosen.output)


def measure(
    chosen: argparse.Namespace, folders: dict[str, Path], result: Result
) -> dict[tuple[str, str], list[Sample]]:
    """Samples by (model, server); one per round where nothing failed."""
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    progress(f"starting {', '.join(chosen.servers)}")
    with running([options.make_server(name) for name in chosen.servers]) as servers:
        for number in range(WARM_UP_ROUNDS + chosen.rounds):
            is_warm_up = number < WARM_UP_ROUNDS
            progress("warm-up round" if is_warm_up else f"round {number} of {chosen.rounds}")
            for model, folder in folders.items():
                for server in servers.values():
                    sample = cold_start(server, folder, f"{model}-{number}", result)
                    if sample and not is_warm_up:
                        samples[model, server.name].append(sample)
    return samples


def cold_start(server: Server, folder: Path, name: str, result: Result) -> Sample | None:
    """Loads, invokes and unloads; None where one of them failed, which is noted among the result's errors."""
    server.install(folder, name)
    loaded = server.connection.load(name, server.model_url(name))
    if loaded.status != 200:
        result.errors.append(f"{server.name}: load {name}: {loaded.status} {loaded.body[:200]!r}")
        return None
    invoked = [server.connection.invoke(name, models.photo(), models.PHOTO_TYPE) for _ in range(INVOCATIONS)]
    unloaded = server.connection.unload(name)
    server.remove(name)
    for doing, answer in (*(("invoke", each) for each in invoked), ("unload", unloaded)):
        if answer.status != 200:
            result.errors.append(f"{server.name}: {doing} {name}: {answer.status} {answer.body[:200]!r}")
            return None
    return Sample(loaded.elapsed_s, invoked[0].elapsed_s, invoked[-1].elapsed_s)


def report(chosen: argparse.Namespace, samples: dict[tuple[str, str], list[Sample]], result: Result) -> None:
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
                result.targets.append(
                    Target(
                        f"first ÷ tenth invocation, {title}",
                        warmth.value,
                        "≤",
                        MOST_TIMES_THE_LAST,
                        spread=f"({warmth.lowest:.2f}–{warmth.highest:.2f})",
                    )
                )
            if name == "ours" and model in WANTED:
                result.targets.append(
                    Target(
                        f"load + first invocation, {title}, stock ÷ ours",
                        ratio.value if ratio else None,
                        "≥",
                        WANTED[model],
                        spread=f"({ratio.lowest:.1f}–{ratio.highest:.1f})" if ratio else "",
                    )
                )
