"""The benchmarks of traffic and of overcommit: what is started, what is cold, what is reported; and tiny real runs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scrapes
from benchmarks.load.client import Report
from benchmarks.report import Result
from benchmarks.scenarios import many_models, overcommit, threads, traffic
from benchmarks.scenarios.overcommit import SLEEPING, UNLOADING, ColdCalls, Outcome
from benchmarks.servers.workers import process_name, started_ticks
from mme.logs import TextFormatter
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


# ---- traffic ----


def test_ours_is_measured_with_all_models_and_with_as_many_as_stock_holds() -> None:
    chosen = traffic.TrafficOptions.parse(["--regressors", "50", "--stock-models", "7"])
    labels = [(label, count) for label, count, _ in traffic.plan("regressors", chosen)]
    assert labels == [("ours", 50), ("ours, as many", 7), ("stock, 1 worker", 7), ("stock, 2 workers", 7)]


def test_ours_is_measured_once_where_stock_holds_as_many() -> None:
    chosen = traffic.TrafficOptions.parse(["--squeezenets", "5", "--stock-models", "7"])
    assert [label for label, _, _ in traffic.plan("squeezenets", chosen)] == [
        "ours",
        "stock, 1 worker",
        "stock, 2 workers",
    ]


def measured(label: str, models: int, rates: dict[str, list[int]], pss_mb: float) -> traffic.Measured:
    made = traffic.Measured(label, models)
    for pattern, each in rates.items():
        made.reports[pattern] = [Report(right=right, elapsed_s=1.0, times_s=[0.01], cpu_s=0.1) for right in each]
        made.pss_bytes[pattern] = [pss_mb * 1e6] * len(each)
        made.workers[pattern] = [models] * len(each)
        made.supervisor_share += [0.002, 0.004, 0.012]
    return made


def test_traffic_is_held_against_stock_with_the_same_models() -> None:
    even = {"uniform": [100, 110, 120], "popular": [100, 100, 100], "hot": [90, 99, 99]}
    of = {
        "ours": measured("ours", 60, even, 900),
        "ours, as many": measured("ours, as many", 7, {**even, "hot": [160, 170, 180]}, 300),
        "stock, 1 worker": measured("stock, 1 worker", 7, {**even, "hot": [80, 100, 90]}, 1500),
        "stock, 2 workers": measured("stock, 2 workers", 7, even, 3000),
    }
    result = Result("traffic", {})
    traffic.report_targets("squeezenets", of, traffic.TrafficOptions(), result)
    spread, errors, supervisor, hot, uniform, pss = result.targets
    assert spread.value == pytest.approx(99 / 110)
    assert (errors.value, errors.met) == (0, True)
    assert (supervisor.value, supervisor.spread, supervisor.met) == (0.004, "(0.20%–1.20%)", True)
    assert (hot.value, hot.spread) == (pytest.approx(170 / 90), "(1.70–2.00)")
    assert uniform.value == pytest.approx(1)
    assert (pss.value, pss.met) == (pytest.approx(0.1), True)


def test_a_burst_without_a_second_worker_is_not_measured_and_noted() -> None:
    result = Result("traffic", {})
    one, other = traffic.Burst(0.2, 0.1), traffic.Burst(0.4, 0.35)
    traffic.report_bursts([one, None], result)
    assert [each.met for each in result.targets] == [None, None]
    assert "1 of 2 models had no second worker" in result.notes[0]
    traffic.report_bursts([one, other], result)
    assert [(each.value, each.met) for each in result.targets[2:]] == [(0.4, True), (0.35, False)]


def test_a_decision_is_read_from_the_servers_log() -> None:
    model = "model m-1: %d workers instead of %d (5 requests wait, 1 workers are busy)"
    lines = []
    for created_s, message in ((90.0, model % (3, 2)), (100.25, model % (2, 1)), (101.0, model % (2, 1))):
        record = logging.makeLogRecord({"name": "mme.supervisor.scaling", "levelname": "INFO", "msg": message})
        record.created, record.msecs = created_s, created_s % 1 * 1000
        lines.append(TextFormatter().format(record))
    assert traffic.decision_s("\n".join(lines), "m-1") == 100.25
    assert traffic.decision_s("\n".join(lines), "m") is None


# ---- overcommit ----


@contextmanager
def process_called(name: str) -> Iterator[int]:
    """A process that the kernel knows by this name."""
    program = (
        "import sys; open('/proc/self/comm', 'w').write(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", program, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


def test_a_call_is_cold_where_its_worker_started_after_it_was_sent() -> None:
    name = f"t{os.getpid()}"
    calls = ColdCalls(process_name)
    sent_s = calls.now_s()
    with process_called(process_name(name)) as pid:
        assert calls.is_cold(name, sent_s)
        started = started_ticks(pid, process_name(name))
        assert started is not None
        wait_until(lambda: calls.now_s() > (started + 1) / os.sysconf("SC_CLK_TCK"), "the clock's next tick")
        assert not calls.is_cold(name, calls.now_s())
    assert calls.is_cold(name, calls.now_s()), "it is gone, so it was not there to stay"


def test_the_start_of_a_process_is_that_of_its_name_alone() -> None:
    with process_called("mme a) b") as pid:
        assert started_ticks(pid, "mme a) b") is not None
        assert started_ticks(pid, "mme a") is None
    assert started_ticks(pid, "mme a) b") is None


def test_overcommit_is_held_against_unloading_by_the_largest_number_of_models() -> None:
    outcomes = [
        Outcome(SLEEPING, 1, 10, 10, cold_s=[9.0], warm_s=[0.01] * 9),
        Outcome(SLEEPING, 4, 40, 40, cold_s=[0.1] * 3, warm_s=[0.01] * 7),
        Outcome(UNLOADING, 4, 40, 40, cold_s=[0.8] * 3, warm_s=[0.01] * 6, failed=["x: 507"]),
    ]
    answered, p95, ratio = overcommit.targets(outcomes)
    assert (answered.value, answered.met) == (1, True)
    assert (p95.value, p95.met) == (pytest.approx(100), True)
    assert (ratio.value, ratio.met) == (pytest.approx(0.125), True)


def test_overcommit_that_could_not_load_its_models_is_not_measured_and_is_an_error() -> None:
    chosen = overcommit.OvercommitOptions()
    result = Result("overcommit", {})
    overcommit.report([Outcome(SLEEPING, 2, 10, 5, failed=["load m5: 507"])], 5, chosen, result)
    assert [target.met for target in result.targets] == [None, None, None]
    assert result.errors == ["sleeping, 10 models: load m5: 507"]


def test_what_the_endpoint_refuses_is_counted_and_noted_but_no_error() -> None:
    result = Result("overcommit", {})
    outcome = Outcome(UNLOADING, 2, 10, 10, cold_s=[0.5], warm_s=[0.1] * 8, failed=["m1: 507"])
    overcommit.report([outcome], 5, overcommit.OvercommitOptions(), result)
    assert result.table[0][4:6] == ["10", "9"]
    assert not result.errors
    assert "unloading, 10 models: 1 requests were refused, for example m1: 507" in result.notes


def test_zipfs_requests_are_the_same_in_each_run() -> None:
    names = [str(number) for number in range(50)]
    first, second = (list(overcommit.iter_models(names, 500)) for _ in range(2))
    assert first == second
    assert len(first) == 500
    assert first.count("0") > first.count("9")


def test_many_models_asks_each_once_where_memory_is_limited(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        many_models.ManyModelsOptions.parse(["--docker"])
    assert "--docker needs --memory-mb" in capsys.readouterr().err
    chosen = many_models.ManyModelsOptions.parse(["--models", "3000", "--memory-mb", "4096"])
    assert (chosen.models, chosen.memory_mb) == (3000, 4096)


# ---- scrapes ----


def test_scrapes_need_models_that_stay_awake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        many_models.ManyModelsOptions.parse(["--scrapes", "--asleep"])
    assert "--scrapes and --asleep" in capsys.readouterr().err
    assert many_models.ManyModelsOptions.parse(["--scrapes"]).scrapes


def test_scrapes_are_of_all_models_unless_the_caller_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = many_models.ManyModelsOptions.parse(["--scrapes", "--models", "300"])
    for said, expected in ((None, "300"), ("100", "100")):
        if said is not None:
            monkeypatch.setenv(many_models.METRICS_SETTING, said)
        server = many_models.make_server("ours", chosen)
        try:
            assert server.environment()[many_models.METRICS_SETTING] == expected
        finally:
            server.remove_folders()


def block(is_scraped: bool, **used_s: float) -> scrapes.Block:
    return scrapes.Block(is_scraped, 5, used_s)


def test_a_scrape_costs_what_blocks_with_scrapes_took_more() -> None:
    quiet = block(False, JVM=1.0, supervisor=0.1)
    cost = scrapes.cost_of(
        [
            quiet,
            block(True, metrics=0.4, JVM=1.1, supervisor=0.1),
            block(True, metrics=0.4, JVM=1.2, supervisor=0.1),
            quiet,
        ]
    )
    assert cost.pairs_s == [pytest.approx(0.1), pytest.approx(0.12)]
    assert cost.scrape_s == pytest.approx(0.11)
    assert cost.by_role_s == {
        "metrics": pytest.approx(0.08),
        "JVM": pytest.approx(0.03),
        "supervisor": pytest.approx(0),
    }


def test_scrapes_are_held_against_one_percent_of_a_core() -> None:
    result = Result("many_models", {})
    cost = scrapes.Cost([0.08, 0.12], {"metrics": 0.09, "JVM": 0.02, "supervisor": -0.01})
    line = scrapes.report("all asked", 1000, b"a 1\nb 2\n", cost, result)
    (target,) = result.targets
    assert (target.value, target.met, target.spread) == (pytest.approx(1.0), True, "(0.80%–1.20%)")
    assert line == ["all asked", "1,000", "2", "0.00", "100", "90.0", "20.0", "-10.0", "1.00%", "0.80%–1.20%"]
    assert len(line) == len(scrapes.HEADERS)


# ---- real runs ----


def bench(output: Path, *arguments: str) -> dict[str, Any]:
    """The record of a run without errors."""
    command = [sys.executable, "-P", "-m", "scripts.programs.bench", *arguments, "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    record: dict[str, Any] = json.loads(output.read_text())
    return record


@pytest.mark.ci
@pytest.mark.slow
def test_traffic_runs_and_leaves_its_record(tmp_path: Path) -> None:
    few = ("--kinds", "regressors", "--regressors", "2", "--servers", "ours", "--seconds", "1")
    record = bench(tmp_path / "traffic.json", "traffic", "--quick", *few)
    patterns = [row["pattern"] for row in record["rows"] if "pattern" in row]
    assert patterns == ["uniform", "popular", "hot"]
    assert all(min(row["workers"]) >= 2 for row in record["rows"] if "pattern" in row)
    assert len(record["targets"]) == 5


@pytest.mark.ci
@pytest.mark.slow
def test_overcommit_runs_and_leaves_its_record(tmp_path: Path) -> None:
    few = ("--fits", "2", "--times", "1", "--ways", "sleeping", "--requests", "20", "--memory-mb", "1200")
    record = bench(tmp_path / "overcommit.json", "overcommit", "--quick", *few)
    (row,) = record["rows"]
    assert (row["loaded"], row["answered"], row["cold_share"]) == (2, 20, 0)


@pytest.mark.ci
@pytest.mark.slow
def test_scrapes_are_measured_without_what_workers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERY_S", "REST_S", "WINDOW_S"):
        monkeypatch.setattr(scrapes, name, 0.2)
    chosen = many_models.ManyModelsOptions(servers=("ours",), models=3, quick=True, scrapes=True)
    result = many_models.run(chosen)
    assert result.errors == []
    rows = [row for row in result.rows if "scrapes" in row]
    assert [[block.is_scraped for block in row["blocks"]] for row in rows] == [[False, True]] * 2
    assert all({"metrics", "JVM", "supervisor"} <= set(block.used_s) for row in rows for block in row["blocks"])
    assert all("worker" not in block.used_s for row in rows for block in row["blocks"])
    assert all(row["size_bytes"] > 3000 for row in rows)


# ---- threads ----


def test_each_way_to_use_the_cores_is_measured_once() -> None:
    assert threads.ways(4) == [(1, 1), (1, 4), (4, 1), (4, 4)]
    assert threads.ways(1) == [(1, 1)]


def test_ways_are_held_against_one_worker_with_one_thread_and_errors_are_told() -> None:
    result = Result("threads", {})
    reports = {
        ("q", 8, "1 × 1"): [Report(right=100, elapsed_s=1.0, times_s=[0.01]) for _ in range(2)],
        ("q", 8, "2 × 1"): [Report(right=right, elapsed_s=1.0, times_s=[0.01]) for right in (180, 200)],
        ("q", 8, "1 × 2"): [Report(elapsed_s=1.0, errors=Counter(refused=3), examples=["refused"])] * 2,
    }
    threads.report(reports, result)
    assert [row["ratio"] and round(row["ratio"].value, 2) for row in result.rows] == [None, 1.9, 0.0]
    assert [row["failed"] for row in result.rows] == [0, 0, 6]
    assert result.errors == ["q, 1 × 2, 8 clients: refused"] * 2
