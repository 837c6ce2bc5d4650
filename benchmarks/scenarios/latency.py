"""What a server adds to a warm invocation: SqueezeNet with a 640×480 JPEG, one request after the other.

One keep-alive connection per server, as the platform holds its connections. Beside the servers the same handler runs
in a plain Python process without one. All take turns in blocks, so that whatever else happens on the machine meets all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks import models, options
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers import Server, running
from benchmarks.servers.in_process import InProcess
from benchmarks.summary import Ratio, Summary

MODEL = "squeezenet"
WARM_UP_INVOCATIONS = 30
WANTED_RATIO = 1.2
# What performs so many invocations in a row and returns the seconds of those that succeeded.
Block = Callable[[int], list[float]]


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    parser = options.parser("latency", __doc__)
    parser.add_argument("--rounds", type=options.positive, help="blocks of each (default 20, quick 5)")
    parser.add_argument("--block", type=options.positive, default=50, help="invocations per block (default 50)")
    chosen = parser.parse_args(arguments)
    chosen.rounds = chosen.rounds or (5 if chosen.quick else 20)
    result = Result("latency", {**options.recorded(chosen), "model": MODEL, "warm_up_invocations": WARM_UP_INVOCATIONS})
    folder = models.ensure([MODEL])[MODEL]
    progress(f"starting {', '.join(chosen.servers)}")
    with ExitStack() as stack:
        in_process = stack.enter_context(InProcess(folder))
        servers = stack.enter_context(running([options.make_server(name) for name in chosen.servers]))
        blocks: dict[str, Block] = {in_process.name: in_process.invoke}
        for name, server in servers.items():
            server.install(folder, MODEL)
            server.connection.load(MODEL, server.model_url(MODEL)).must_be_ok(f"{name}: load")
            blocks[name] = block_of(server, result)
        rounds = take_turns(blocks, chosen)
    report(rounds, chosen, result)
    return result.finish(chosen.output)


def block_of(server: Server, result: Result) -> Block:
    """Invokes this server."""

    def invoke(count: int) -> list[float]:
        times_s = []
        for _ in range(count):
            answer = server.connection.invoke(MODEL, models.photo(), models.PHOTO_TYPE)
            if answer.status == 200:
                times_s.append(answer.elapsed_s)
            else:
                result.errors.append(f"{server.name}: {answer.status} {answer.body[:200]!r}")
        return times_s

    return invoke


def take_turns(blocks: dict[str, Block], chosen: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Seconds by name and round."""
    for invoke in blocks.values():
        invoke(WARM_UP_INVOCATIONS)
    rounds: dict[str, list[list[float]]] = {name: [] for name in blocks}
    for number in range(chosen.rounds):
        progress(f"round {number + 1} of {chosen.rounds}")
        for name, invoke in blocks.items():
            rounds[name].append(invoke(chosen.block))
    return rounds


def report(rounds: dict[str, list[list[float]]], chosen: argparse.Namespace, result: Result) -> None:
    """Fills the result's table, rows and target."""
    result.headers = ["where", "invocations", "p50 ms", "p95", "p99", "errors", "p50 ÷ in-process"]
    alone = rounds[InProcess.name]
    for name, times_s in rounds.items():
        taken = [value for block in times_s for value in block]
        failed = chosen.rounds * chosen.block - len(taken)
        if not all(times_s):
            result.table.append([name, str(len(taken)), "–", "–", "–", str(failed), ""])
            continue
        summary = Summary.of(taken)
        ratio = Ratio.of_rounds(times_s, alone)
        shown = "" if name == InProcess.name else str(ratio)
        figures = [milliseconds(value) for value in (summary.p50, summary.p95, summary.p99)]
        result.table.append([name, str(len(taken)), *figures, str(failed), shown])
        result.rows.append({"server": name, "latency_s": summary, "failed": failed, "in_process_ratio": ratio})
        if name == "ours":
            spread = f"({ratio.lowest:.2f}–{ratio.highest:.2f})"
            what = "warm latency p50 ÷ in-process p50"
            result.targets.append(Target(what, ratio.value, "≤", WANTED_RATIO, spread=spread))
