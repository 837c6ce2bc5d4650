"""How long a second model of a set of packages takes to load, beside the same model without packages.

Both are a script of a few lines. One brings code/requirements.txt, the wheel that it asks for (in code/wheels, so that
no network is used), and imports it. The set's first model installs it and stays loaded; what it imported is imported
in the set's own template. From then on the two take turns: each round loads one of either kind under a fresh name,
invokes it and unloads it. Stock installs no packages in multi-model mode: ours alone is measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import models, options
from benchmarks.failure import BenchmarkError
from benchmarks.options import Options
from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers import Server
from benchmarks.servers.ours import OurServer
from benchmarks.summary import Ratio, Summary

PLAIN, PACKAGED = "script_plain", "script_packaged"
FIRST = "first-of-the-set"
WARM_UP_ROUNDS = 2
MOST_TIMES_ONE_WITHOUT = 1.5
# What the log says once the set's template has imported what the first model did.
PREPARED = "has imported beforehand what its first model did"
PREPARED_TIMEOUT_S = 60.0
POLL_S = 0.05


@dataclass(frozen=True)
class PackageSetsOptions(Options):
    """``rounds`` count, each with one model of either kind."""

    servers: tuple[str, ...] = ("ours",)
    rounds: int = 30

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> PackageSetsOptions:
        """The command line after the scenario's name."""
        parser = options.parser("package_sets", __doc__, cls.servers)
        parser.add_argument("--rounds", type=options.positive, help="rounds that count (default 30, quick 8)")
        given = parser.parse_args(arguments)
        return cls(
            **{**options.common(given), "servers": cls.servers},
            rounds=given.rounds or (8 if given.quick else cls.rounds),
        )


def main(arguments: list[str]) -> int:
    """Runs the scenario; returns the exit code."""
    chosen = PackageSetsOptions.parse(arguments)
    return run(chosen).finish(chosen.output)


def run(chosen: PackageSetsOptions) -> Result:
    """The first model of the set, then rounds of both kinds."""
    folders = models.ensure([PLAIN, PACKAGED])
    result = Result("package_sets", {**chosen.recorded(), "warm_up_rounds": WARM_UP_ROUNDS})
    progress("starting ours")
    with OurServer({"MME_PRELOAD": "script"}) as server:
        first_s = load_first(server, folders[PACKAGED])
        report(measure(server, folders, chosen.rounds, result), first_s, chosen.rounds, result)
    return result


def load_first(server: Server, folder: Path) -> float:
    """Seconds of the load that installs the set; returns when its template is prepared. Raises ``BenchmarkError``."""
    progress("the first model of the set")
    server.install(folder, FIRST)
    loaded = server.connection.load(FIRST, server.model_url(FIRST)).must_be_ok(f"{server.name}: load {FIRST}")
    body, content_type = models.request_for(PACKAGED)
    server.connection.invoke(FIRST, body, content_type).must_be_ok(f"{server.name}: invoke {FIRST}")
    deadline_s = time.monotonic() + PREPARED_TIMEOUT_S
    while PREPARED not in server.log_file.read_text(errors="replace"):
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"{server.name}: the set's template is not prepared after {PREPARED_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    return loaded.elapsed_s


def measure(server: Server, folders: dict[str, Path], rounds: int, result: Result) -> dict[str, list[float]]:
    """Seconds of each load, by kind; one per round where nothing failed."""
    times_s: dict[str, list[float]] = {kind: [] for kind in folders}
    for number in range(WARM_UP_ROUNDS + rounds):
        is_warm_up = number < WARM_UP_ROUNDS
        taken_s = {kind: load_once(server, folder, f"{kind}-{number}", result) for kind, folder in folders.items()}
        if is_warm_up or None in taken_s.values():
            continue
        for kind, seconds in taken_s.items():
            times_s[kind].append(seconds or 0.0)
    return times_s


def load_once(server: Server, folder: Path, name: str, result: Result) -> float | None:
    """Loads, invokes and unloads; None where one of them failed, which is noted among the result's errors."""
    server.install(folder, name)
    answers = {
        "load": server.connection.load(name, server.model_url(name)),
        "invoke": server.connection.invoke(name, *models.request_for(PACKAGED)),
        "unload": server.connection.unload(name),
    }
    server.remove(name)
    for doing, answer in answers.items():
        if answer.status != 200:
            result.errors.append(f"{server.name}: {doing} {name}: {answer.status} {answer.body[:200]!r}")
            return None
    return answers["load"].elapsed_s


def report(times_s: dict[str, list[float]], first_s: float, rounds: int, result: Result) -> None:
    """Fills the table, a note and the target."""
    result.headers = ["model", "load ms p50", "p95", "lowest", "highest", "failed rounds"]
    for kind, taken_s in times_s.items():
        failed = rounds - len(taken_s)
        load = Summary.of(taken_s) if taken_s else None
        shown = [milliseconds(each) for each in (load.p50, load.p95, load.lowest, load.highest)] if load else ["–"] * 4
        result.table.append([models.TITLES[kind], *shown, str(failed)])
        result.rows.append({"model": kind, "load_s": load, "failed_rounds": failed})
    result.notes.append(f"the first model of the set, with its installation: {milliseconds(first_s)} ms")
    plain, packaged = ([[each] for each in times_s[kind]] for kind in (PLAIN, PACKAGED))
    ratio = Ratio.of_rounds(packaged, plain) if plain else None
    what = "load, second model of a set of packages ÷ one without packages"
    result.targets.append(Target.of_ratio(what, ratio, "≤", MOST_TIMES_ONE_WITHOUT))
