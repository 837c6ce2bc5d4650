"""What a load test leaves: a table, Locust's report and CSV, the seconds as CSV, and a plot of them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from locust.html import get_html_report
from locust.stats import PERCENTILES_TO_REPORT, StatsCSV

from benchmarks.load_test.options import RESULTS_DIR, LoadTestOptions
from benchmarks.load_test.record import COLD, WARM, Call, Record, latencies_s
from benchmarks.load_test.server_metrics import Sample, Sampler, in_words
from benchmarks.report import ROOT, milliseconds, table
from benchmarks.summary import Summary

HEADERS = ["", "requests", "errors", "answers/s", "p50 ms", "p95 ms", "p99 ms", "longest ms"]
# Later than this a request of an open loop was sent too late by the program itself.
TOLERATED_BEHIND_S = 0.1


def summary(options: LoadTestOptions, models: int, record: Record, sampler: Sampler) -> str:
    """What is printed at the end."""
    lines = [
        "",
        f"{options.destination}, {models:,} models, {options.pattern}, {options.pace}, {record.duration_s:.1f} s",
        "",
        *table(HEADERS, [_row(name, record.of_kind(cold), record) for name, cold in _KINDS]),
        "",
        "cold: sent before the model's first answer in this run",
    ]
    if options.rate is not None and record.most_behind_s > TOLERATED_BEHIND_S:
        lines.append(
            f"this program fell behind by up to {record.most_behind_s:.1f} s: it cannot send {options.rate:g} "
            "requests/s here (latencies count from when a request was due)"
        )
    if sampler.samples:
        lines.append(f"the server: {in_words(sampler.samples) or 'its metrics do not name workers'}")
    else:
        lines.append(f"no workers over time: {sampler.why_none}")
    if record.errors:
        lines += ["", f"{record.failed:,} errors"]
        for kind, count in record.errors.most_common():
            lines += [f"  {count:,} × {kind}", *(f"      {example}" for example in record.examples[kind])]
    else:
        lines.append("no errors")
    return "\n".join(lines)


_KINDS = ((COLD, True), (WARM, False), ("all", None))


def _row(name: str, calls: list[Call], record: Record) -> list[str]:
    times_s = latencies_s(calls)
    errors = record.failed if name == "all" else len(calls) - len(times_s)
    requests = record.sent if name == "all" else len(calls)
    counts = [name, f"{requests:,}", f"{errors:,}", f"{len(times_s) / (record.duration_s or 1):,.1f}"]
    if not times_s:
        return [*counts, *["–"] * 4]
    its = Summary.of(times_s)
    return [*counts, *(milliseconds(value) for value in (its.p50, its.p95, its.p99, its.highest))]


def write_all(options: LoadTestOptions, environment: Any, record: Record, sampler: Sampler) -> list[Path]:
    """Writes everything; returns the files."""
    folder = options.output or RESULTS_DIR / f"{datetime.now():%Y%m%dT%H%M%S}-{options.pattern}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / name for name in ("report.html", "statistics.csv", "failures.csv", "timeline.csv")}
    files["report.html"].write_text(get_html_report(environment, show_download_link=False), encoding="utf-8")
    locusts = StatsCSV(environment, PERCENTILES_TO_REPORT)
    _write_csv(files["statistics.csv"], locusts.requests_csv)
    _write_csv(files["failures.csv"], locusts.failures_csv)
    _write_csv(files["timeline.csv"], lambda rows: rows.writerows(timeline(record, sampler.samples)))
    plot(options, record, sampler.samples, folder / "load_test.png")
    return [*files.values(), folder / "load_test.png"]


def _write_csv(path: Path, write: Callable[[Any], object]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        write(csv.writer(file))


def timeline(record: Record, samples: Sequence[Sample]) -> list[list[object]]:
    """A head, and a row for each second; milliseconds where the head says so."""
    head: list[object] = ["second", "answers", "errors", "p50_ms", "p95_ms", "p99_ms", "workers", "asleep", "wake_ups"]
    at_second = {int(sample.at_s): sample for sample in samples}
    rows = []
    for each in record.seconds():
        sample = at_second.get(each.number)
        percentiles = [_in_ms(value_s) for value_s in (each.p50_s, each.p95_s, each.p99_s)]
        seen = [sample.workers, sample.asleep, sample.wake_ups] if sample else [None] * 3
        counted = ["" if value is None else f"{value:g}" for value in seen]
        rows.append([each.number, each.answers, each.errors, *percentiles, *counted])
    return [head, *rows]


def _in_ms(value_s: float | None) -> str:
    return "" if value_s is None else f"{value_s * 1000:.1f}"


def plot(options: LoadTestOptions, record: Record, samples: Sequence[Sample], path: Path) -> None:
    """Throughput, percentiles, errors and, where they are known, workers and sleeping models, over the seconds."""
    os.environ.setdefault("MPLCONFIGDIR", str(ROOT / ".cache" / "matplotlib"))  # its list of fonts; else in the home
    import matplotlib

    matplotlib.use("Agg")  # there may be no display
    from matplotlib import pyplot

    whole = int(options.duration_s)  # what is answered after the end is no full second
    seconds = [each for each in record.seconds() if each.number < whole] or record.seconds()
    at_s = [each.number for each in seconds]
    rows = 4 if samples else 3
    figure, axes = pyplot.subplots(rows, 1, sharex=True, figsize=(9, 2.2 * rows), layout="constrained")
    figure.suptitle(f"{options.destination}: {options.pattern}, {options.pace}")
    answers, times, errors = axes[:3]
    answers.plot(at_s, [each.answers for each in seconds], color="tab:blue")
    answers.set_ylabel("answers/s")
    for name, colour in (("p50", "tab:green"), ("p95", "tab:orange"), ("p99", "tab:red")):
        values = [getattr(each, f"{name}_s") for each in seconds]
        times.plot(at_s, [float("nan") if value is None else value * 1000 for value in values], colour, label=name)
    times.set_ylabel("ms")
    times.set_yscale("log")
    errors.bar(at_s, [each.errors for each in seconds], width=1.0, color="tab:red")
    errors.set_ylabel("errors/s")
    if samples:
        counts = axes[3]
        for name, colour, label in (("workers", "tab:blue", "workers awake"), ("asleep", "tab:gray", "models asleep")):
            found = [(sample.at_s, getattr(sample, name)) for sample in samples]
            known = [(when_s, value) for when_s, value in found if value is not None]
            if known:
                counts.plot(*zip(*known, strict=True), color=colour, label=label)
        counts.set_ylabel("count")
        if counts.lines:
            counts.legend(loc="upper right")
    for each in (answers, errors, *axes[3:]):
        each.set_ylim(0, max(1.0, each.get_ylim()[1]))
    for each in axes:
        each.grid(alpha=0.3)
    times.legend(loc="upper right")
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def told(files: Sequence[Path]) -> str:
    """Where the results are."""
    folder = files[0].parent.resolve()
    shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"\nresults: {shown}/ ({', '.join(path.name for path in files)})"
