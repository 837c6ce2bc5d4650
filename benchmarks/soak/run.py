"""A soak from start to verdict: warm up, count, traffic with faults, unload all, count again, judge.

Prints and writes what happened. Exit code 1 if anything happened that must not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.connection import Connection
from benchmarks.failure import BenchmarkError
from benchmarks.load.generator import busy_core
from benchmarks.report import Result, Target, progress
from benchmarks.soak import endpoint
from benchmarks.soak.catalogue import choose, install_all
from benchmarks.soak.faults import Breaker, Killer, install_broken
from benchmarks.soak.limited_server import LimitedServer, make_limited_server
from benchmarks.soak.options import SoakOptions
from benchmarks.soak.platform import Platform
from benchmarks.soak.record import Record
from benchmarks.soak.traffic import LOAD_HANG_S, Client
from mme.settings import Settings

Census = dict[str, Any]

# The traffic before the first count, as a share of the soak, in which the server and its JVM grow to their size. What
# goes wrong belongs to it: the JVM reads and compiles much for the first killed worker and the first refused load.
WARM_UP_SHARE = 0.2
LONGEST_WARM_UP_S = 90.0
KILL_EVERY_S = 3.0
BREAK_EVERY_S = 4.0
# After everything is unloaded: how long until processes, descriptors and memory must be back, and how long it is waited
# for in any case: the front end collects garbage every 20 s while it is idle, and what is counted is to be in use.
SETTLE_S = 90.0
LEAST_SETTLE_S = 25.0
MEMORY_TOLERANCE = 0.05
PROGRESS_S = 10.0
# So many violations are printed with all that happened around them; a file has all.
SHOWN_VIOLATIONS = 3
_SLEEPS = {"mme_model_sleeps": "models put to sleep", "mme_model_wake_ups": "models woken"}  # docs/metrics.md
# From so long a run on, models that do not fit must have slept and woken: else it shows nothing of that.
_SLEEPS_WITHIN_S = 60.0
_POLL_S = 0.25
# How long clients may take to get their last answers.
_JOIN_S = 400.0


def main(arguments: Sequence[str]) -> int:
    """Runs a soak; returns the exit code."""
    options = SoakOptions.parse(arguments)
    if options.endpoint:
        return endpoint.run(options)
    result = Result("soak", options.recorded())
    server = make_limited_server(options.memory_mb, native=options.native)
    try:
        with busy_core() if options.busy_core else contextlib.nullcontext():
            soak = Soak(server, options, result)
            soak.run()
        explain(soak.record, server, options, result)
    finally:
        if options.log is not None and server.log_file.exists():
            options.log.write_bytes(server.log_file.read_bytes())
        server.stop()
    return result.finish(options.output)


def explain(record: Record, server: LimitedServer, options: SoakOptions, result: Result) -> None:
    """For what was not met: writes what happened around it and keeps the server's log, both beside the result."""
    if not record.violations:
        return
    violations, log = (result.beside(options.output, ending) for ending in ("-violations.txt", "-server.log"))
    explained = [record.explain(each) for each in record.violations]
    violations.write_text("\n\n".join(map("\n".join, explained)) + "\n")
    shutil.copyfile(server.log_file, log)
    for lines in explained[:SHOWN_VIOLATIONS]:
        result.notes += [*lines, ""]
    result.notes.append(f"all violations with what happened around them: {os.path.relpath(violations)}")
    result.notes.append(f"the server's log: {os.path.relpath(log)}")


class Soak:
    """One run; fills ``result``."""

    def __init__(self, server: LimitedServer, options: SoakOptions, result: Result) -> None:
        self.server = server
        self.options = options
        self.result = result
        self.record = Record(server.log_file)
        self.models = choose(options.models)
        self.platform = Platform(server, [model.name for model in self.models], self.record)
        self.duration_s = options.minutes * 60

    def run(self) -> None:
        """The whole of it. Raises ``BenchmarkError`` where the server does not start or ends."""
        progress(f"installing {len(self.models)} models and finding their right answers")
        install_all(self.models, self.server)
        install_broken(self.server)
        self.server.start()
        progress(f"the server runs: {self.server.where}")
        fresh = self.server.census()
        warm_up_s = min(self.duration_s * WARM_UP_SHARE, LONGEST_WARM_UP_S)
        progress(f"warming up for {warm_up_s:.0f} s")
        self.traffic(warm_up_s)
        start = self.settle()
        progress(f"{self.options.clients} clients for {self.duration_s:.0f} s, {_in_words(start)} at the start")
        self.traffic(self.duration_s)
        end = self.settle(start)
        self.judge(fresh, start, end, self.server.kernel_kills())

    def traffic(self, duration_s: float) -> None:
        """All clients, the killer and the breaker, for so long, until their last answers."""
        stopping = threading.Event()
        seed = self.options.seed
        threads: list[threading.Thread] = [
            Client(number, seed, self.server, self.platform, self.models, self.record, stopping)
            for number in range(self.options.clients)
        ]
        threads.append(self._killer(stopping))
        threads.append(Breaker(seed, BREAK_EVERY_S, self.server, self.platform, self.record, stopping))
        for thread in threads:
            thread.start()
        try:
            self._watch(duration_s)
        finally:
            stopping.set()
        deadline_s = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
            if thread.is_alive():
                self.record.violates("nothing hangs", f"{thread.name} did not end within {_JOIN_S:.0f} s")
        with Connection(self.server.port, timeout_s=LOAD_HANG_S) as connection:
            self._count_sleeps(connection)  # also before the first count: the first call starts the process for metrics
            self.platform.unload_all(connection)

    def _killer(self, stopping: threading.Event) -> Killer:
        also = self.options.also_kill
        return Killer(self.options.seed, KILL_EVERY_S, self.server, self.platform, self.record, stopping, also)

    def _count_sleeps(self, connection: Connection) -> None:
        """How often models were put to sleep and woken since the server's start, as its metrics say."""
        metrics = connection.request("GET", "/metrics").must_be_ok("metrics").body.decode()
        for family in text_string_to_metric_families(metrics):
            if family.name in _SLEEPS:
                so_far = sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
                what = _SLEEPS[family.name]
                self.record.count(what, int(so_far) - self.record.counts[what])

    def _watch(self, duration_s: float) -> None:
        """Tells what happens, every few seconds, and sees that the server lives."""
        started_s = told_s = time.monotonic()
        while (now_s := time.monotonic()) < started_s + duration_s:
            if not self.server.is_running():
                raise BenchmarkError(f"the server ended\n{self.server.program.log_tail()}")
            if now_s - told_s >= PROGRESS_S:
                told_s = now_s
                progress(f"{now_s - started_s:5.0f} s  {self._so_far()}")
            time.sleep(_POLL_S)

    def _so_far(self) -> str:
        record, counts = self.record, self.record.counts
        return (
            f"{record.total('invoke')} invocations, {counts['right answers']} right, "
            f"{record.total('load')} loads, {record.total('load', 507)} × 507, {record.total('unload')} unloads, "
            f"{counts['workers killed']} killed, {record.violation_counts.total()} violations"
        )

    def settle(self, wanted: Census | None = None) -> Census:
        """The census when it is as ``wanted``, or else does not change any more, or when time is up."""
        began_s = time.monotonic()
        time.sleep(LEAST_SETTLE_S)
        found = self.server.census()
        while time.monotonic() < began_s + SETTLE_S:
            time.sleep(1.0)
            before, found = found, self.server.census()
            if wanted is not None and not leaks(wanted, found):
                break
            still = all(found[each] == before[each] for each in ("processes", "descriptors"))
            if wanted is None and still and abs(found["memory_bytes"] - before["memory_bytes"]) < 1e6:
                break
        return found

    # ---- the verdict ----

    def judge(self, fresh: Census, start: Census, end: Census, kernel_kills: int) -> None:
        """Fills the result from what was recorded and counted."""
        record, result = self.record, self.result
        if kernel_kills:
            record.violates("the kernel kills nothing", f"{kernel_kills} processes")
        for leak in leaks(start, end):
            record.violates("processes, descriptors and memory are back at their start", leak)
        for role in ("front_ends", "zygotes"):
            if role == "zygotes" and "zygote" in self.options.also_kill:
                continue  # there is another one now, and it is counted with the processes
            if start[role] != end[role]:
                record.violates("the front end and the zygote live on", f"{role}: {start[role]} became {end[role]}")
        with Connection(self.server.port) as connection:
            ping = connection.ping()
            listed = connection.request("GET", "/models")
        if ping.status != 200 or b'"Healthy"' not in ping.body:
            record.violates("the server is healthy at the end", f"{ping.status} {ping.body!r}")
        if b'"modelName"' in listed.body:
            record.violates("the server is healthy at the end", f"models are left: {listed.body[:300]!r}")
        for missing in missing_sleeps(record.counts, self.duration_s, Settings.from_environment()):
            record.violates("models sleep and wake", missing)
        excused = sum(number for what, number in record.counts.items() if what.startswith("excused"))
        result.headers = ["", ""]
        rows: list[tuple[str, Any]] = [
            ("memory limit", self.server.where),
            ("models, clients", f"{len(self.models)}, {self.options.clients}"),
            ("kernel kills", kernel_kills),
            *sorted(record.statuses.items()),
            *sorted(record.counts.items()),
            (
                "longest answer, s",
                ", ".join(f"{call} {took_s:.1f}" for call, took_s in sorted(record.longest_s.items())),
            ),
            ("fresh server", _in_words(fresh)),
            ("at the start", _in_words(start)),
            ("at the end", _in_words(end)),
        ]
        result.table = [[name, str(value)] for name, value in rows]
        result.rows = [
            {
                "where": self.server.where,
                "kernel_kills": kernel_kills,
                "statuses": dict(record.statuses),
                "counts": dict(record.counts),
                "excused": excused,
                "longest_s": record.longest_s,
                "fresh": fresh,
                "start": start,
                "end": end,
                "violations": dict(record.violation_counts),
            }
        ]
        growth = end["memory_bytes"] / start["memory_bytes"] - 1
        result.targets = [
            Target("kernel kills", float(kernel_kills), "≤", 0.0),
            Target(
                "requests without their right answer, not excused",
                float(record.counts["wrong or missing answers"]),
                "≤",
                0.0,
            ),
            Target("processes left", float(end["processes"] - start["processes"]), "≤", 0.0),
            Target("descriptors left", float(end["descriptors"] - start["descriptors"]), "≤", 0.0),
            Target("memory grown", growth * 100, "≤", MEMORY_TOLERANCE * 100, "%"),
        ]
        result.errors = [
            f"NOT MET: {each.requirement} ({record.violation_counts[each.requirement]} ×): {each.example}"
            for each in record.violations
        ]


def missing_sleeps(counts: Mapping[str, int], duration_s: float, settings: Settings) -> list[str]:
    """What did not happen in a run that is to show it. The server has the caller's ``settings``."""
    if not settings.overcommit or settings.workers == "spawn" or duration_s < _SLEEPS_WITHIN_S:
        return []
    remedy = "take more --models, or less --memory"
    return [f"no {what} in {duration_s:.0f} s: {remedy}" for what in _SLEEPS.values() if not counts.get(what)]


def leaks(start: Census, end: Census) -> list[str]:
    """What is more at the end than at the start, in words."""
    leaks = []
    if end["processes"] > start["processes"]:
        more = _more(Counter(start["names"]), Counter(end["names"]))
        leaks.append(f"{end['processes']} processes, {start['processes']} at the start: {more}")
    if end["descriptors"] > start["descriptors"]:
        more = _more(start["held"], end["held"])
        leaks.append(f"{end['descriptors']} descriptors, {start['descriptors']} at the start: {more}")
    if end["memory_bytes"] > start["memory_bytes"] * (1 + MEMORY_TOLERANCE):
        more = _more(start["process_bytes"], end["process_bytes"], 1e6)
        leaks.append(
            f"{end['memory_bytes'] / 1e6:.0f} MB, {start['memory_bytes'] / 1e6:.0f} MB at the start: {more} (MB)"
        )
    return leaks


def _more(start: Mapping[str, int], end: Mapping[str, int], unit: float = 1) -> str:
    """What differs, by name, the largest gain first: ``+2 java: pipe, -1 zygote: tcp socket in state 01``."""
    changes = {name: (end.get(name, 0) - start.get(name, 0)) / unit for name in {*start, *end}}
    told = [f"{change:+.3g} {name}" for name, change in sorted(changes.items(), key=_by_gain) if change]
    return ", ".join(told)


def _by_gain(change: tuple[str, float]) -> tuple[float, str]:
    return -change[1], change[0]


def _in_words(census: Census) -> str:
    return (
        f"{census['processes']} processes, {census['descriptors']} descriptors, {census['memory_bytes'] / 1e6:.0f} MB "
        f"(front end {census['front_end_bytes'] / 1e6:.0f})"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
