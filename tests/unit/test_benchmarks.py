"""The benchmarks' own arithmetic, report and record, and a real tiny run of one of them."""

from __future__ import annotations

import http.server
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from benchmarks import memory, models, report, run
from benchmarks.connection import Connection
from benchmarks.failure import BenchmarkError
from benchmarks.load.client import Report
from benchmarks.options import Options
from benchmarks.scenarios import cold_load, endpoint_clients, integrity, latency, package_sets, targets
from benchmarks.scenarios import memory as memory_scenario
from benchmarks.servers import base
from benchmarks.summary import Ratio, Summary, percentile
from tests.harness.loaded_model import LoadedModel
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
BENCH = [sys.executable, "-P", "-m", "scripts.programs.bench"]
SCENARIOS = (
    *("cold_load", "memory", "many_models", "latency", "integrity", "targets", "endpoint_overhead"),
    *("traffic", "overcommit", "package_sets", "endpoint_clients"),
)


# ---- logs ----


@pytest.mark.parametrize("errors", [[], ["243 × 503"]])
def test_logs_are_kept_beside_the_result_where_something_was_wrong(tmp_path: Path, errors: list[str]) -> None:
    result = report.Result("endpoint_clients", {}, errors=errors)
    logs = [result.beside(tmp_path / "result.json", f"-{which}.log") for which in ("endpoint", "container")]
    for path in logs:
        path.write_text("it says")
    endpoint_clients.keep_or_remove(logs, result)
    names = ["result-container.log", "result-endpoint.log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == (names if errors else [])
    assert all(any(name in note for note in result.notes) for name in names) == bool(errors)


# ---- arithmetic ----


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 3), (0.95, 4.8), (1, 5), (0.1, 1.4)])
def test_a_percentile_is_interpolated_between_its_neighbours(share: float, expected: float) -> None:
    assert percentile([5, 1, 4, 2, 3], share) == pytest.approx(expected)


def test_a_percentile_of_one_value_is_that_value() -> None:
    assert percentile([7.0], 0.99) == 7.0


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.1), ([1.0], -0.1)])
def test_a_percentile_needs_values_and_a_share(values: list[float], share: float) -> None:
    with pytest.raises(ValueError):
        percentile(values, share)


def test_a_summary_keeps_count_percentiles_and_extremes() -> None:
    summary = Summary.of([float(value) for value in range(101)])
    assert summary == Summary(count=101, p50=50, p95=95, p99=99, lowest=0, highest=100)


def test_a_ratio_is_of_medians_and_its_spread_of_rounds() -> None:
    ratio = Ratio.of_rounds([[10, 12, 14], [20, 20, 20]], [[2, 2, 2], [5, 5, 5]])
    assert ratio == Ratio(value=17 / 3.5, lowest=4, highest=6)


def test_a_ratio_needs_the_same_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError):
        Ratio.of_rounds([[1.0]], [[1.0], [2.0]])


# ---- report ----


def test_a_table_aligns_names_left_and_figures_right() -> None:
    lines = report.table(["model", "ms"], [["tiny", "1.5"], ["ResNet-152", "1200"]])
    assert lines == ["model         ms", "──────────  ────", "tiny         1.5", "ResNet-152  1200"]


@pytest.mark.parametrize(
    ("comparison", "value", "met"), [("≥", 12.0, True), ("≥", 11.9, False), ("≤", 12.0, True), ("≤", 12.1, False)]
)
def test_a_target_is_met_at_its_limit_and_beyond(comparison: str, value: float, met: bool) -> None:
    target = report.Target("what", value, comparison, 12, "MB")
    assert target.met is met
    assert target.cells()[-1] == ("met" if met else "NOT MET")


def test_a_target_that_was_not_measured_is_neither_met_nor_missed() -> None:
    target = report.Target("what", None, "≤", 12)
    assert target.met is None
    assert target.cells() == ["what", "not measured", "≤ 12", "–"]


def test_a_result_is_printed_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report.Result("sample", {"rounds": 2}, ["server", "ms"], [["ours", "3.0"]])
    result.rows.append({"server": "ours", "sum_s": Summary.of([0.003])})
    result.targets.append(report.Target("speed", 3.0, "≥", 4))
    assert result.finish(tmp_path / "result.json") == 0

    printed = capsys.readouterr().out
    assert "ours    3.0" in printed
    assert "NOT MET" in printed
    assert "0 errors" in printed
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["schema_version"] == report.SCHEMA_VERSION
    assert record["rows"][0]["sum_s"]["p95"] == 0.003
    assert record["targets"][0]["met"] is False
    assert record["machine"]["cores"] >= 1
    assert record["versions"]["mxnet"] == "1.9.1"
    assert record["versions"]["java"].split(".")[0].isdigit()
    assert set(record["commit"]) == {"id", "modified"}


def test_a_result_with_errors_fails_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report.Result("sample", {}, ["server"], [["ours"]], errors=["ours: load: 500"])
    assert result.finish(tmp_path / "result.json") == 1
    assert "1 errors\n  ours: load: 500" in capsys.readouterr().out


# ---- memory ----


def test_a_rollup_is_read_in_bytes() -> None:
    head = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\n"
    text = f"{head}Rss: 900 kB\nPss: 400 kB\nPrivate_Clean: 30 kB\nPrivate_Dirty: 70 kB\n"
    assert memory.parse_rollup(text) == memory.Memory(400 * 1024, 100 * 1024, 70 * 1024)


def test_memory_of_a_tree_counts_grandchildren() -> None:
    holds = "import sys; held = bytearray(b'x' * 50_000_000); print('ready', flush=True); sys.stdin.read()"
    starts = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {holds!r}]))"
    with subprocess.Popen([sys.executable, "-c", starts], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        tree = memory.of_tree(psutil.Process(process.pid))
        process.stdin.close()
    assert tree.processes == 2
    assert tree.workers.pss_bytes > 50e6
    assert tree.total.pss_bytes == tree.supervisor.pss_bytes + tree.workers.pss_bytes
    assert tree.jvm == memory.Memory()


def test_a_process_that_has_ended_holds_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert memory.of_process(process.pid) == memory.Memory()


def test_minor_faults_are_read_whatever_a_process_is_called() -> None:
    stat = "12 (mme a) 7 (b) S 1 12 12 0 -1 4194368 9503 11 22 33 261 3 0 0 20 0 1 0 120724 1 2"
    assert memory.parse_minor_faults(stat) == 9503


def test_minor_faults_are_of_a_servers_children() -> None:
    touches = "import sys; sys.stdin.readline(); held = b'x' * 20_000_000; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", touches], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        before = memory.minor_faults(psutil.Process())[process.pid]
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        after = memory.minor_faults(psutil.Process())[process.pid]
        process.stdin.close()
    assert after > before


def test_processor_time_of_a_tree_grows_while_it_works() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            before_s = memory.cpu_s(psutil.Process())
            wait_until(lambda: memory.cpu_s(psutil.Process()) > before_s + 0.1, "it has computed", 60)
        finally:
            process.kill()


# ---- scenarios ----


def test_the_conditions_of_integrity_share_all_requests() -> None:
    options = integrity.IntegrityOptions.parse(["--requests", "1003"])
    conditions = options.conditions()
    assert sum(condition.requests for condition in conditions) == 1003
    assert len({(each.clients, each.rests, each.busy_core) for each in conditions}) == len(conditions) == 8
    assert {str(each) for each in conditions} >= {"1 client, steady", "8 clients, with rests, busy core beside"}


@pytest.mark.parametrize(
    ("requests", "blocks"), [(1, [1]), (25_000, [25_000]), (60_000, [25_000, 25_000, 10_000]), (0, [])]
)
def test_requests_are_sent_in_blocks(requests: int, blocks: list[int]) -> None:
    assert integrity.blocks_of(requests) == blocks


def _outcome(**of_report: Any) -> integrity.Outcome:
    outcome = integrity.Outcome()
    outcome.add(Report(**of_report))
    return outcome


@pytest.mark.parametrize(
    ("outcome", "errors"),
    [
        (_outcome(answered=9, right=9), []),
        (_outcome(answered=9, right=8, errors=Counter({"status 500": 1}), examples=["e"]), ["1 × status 500", "e"]),
        (_outcome(answered=8, right=8), ["8 of 9 requests were sent"]),
    ],
)
def test_integrity_fails_where_one_request_has_no_right_answer(outcome: integrity.Outcome, errors: list[str]) -> None:
    result = report.Result("integrity", {})
    condition = integrity.Condition(1, rests=False, busy_core=False, requests=9)
    integrity.report({(condition, "ours"): outcome}, {}, result)
    assert len(result.errors) == len(errors)
    assert all(expected in found for expected, found in zip(errors, result.errors, strict=True))
    assert result.targets[0].met is not any("×" in error for error in errors)
    assert result.table[0][:5] == ["1 client, steady", "ours", "9", str(outcome.right), str(outcome.errors.total())]


def test_throughput_is_held_against_stock_round_by_round() -> None:
    def sample(right: int, faults: int = 0) -> latency.Sample:
        return latency.Sample(Report(answered=right, right=right, elapsed_s=2.0, cpu_s=0.5, times_s=[0.1]), faults)

    samples = {
        (latency.IMAGE_MODEL, 1, "ours"): [sample(100, 3000)],
        (latency.IMAGE_MODEL, 8, "stock"): [sample(100), sample(200), sample(120)],
        (latency.IMAGE_MODEL, 8, "ours"): [sample(110), sample(180), sample(132)],
    }
    result = report.Result("latency", {})
    latency.report_throughput(samples, latency.LatencyOptions(), result)
    faults, throughput = result.targets
    assert (faults.value, faults.met) == (30, True)
    assert throughput.value == pytest.approx(1.1)
    assert throughput.spread == "(0.90–1.10)"
    assert throughput.met
    assert [row["requests_per_s"] for row in result.rows] == [[50], [50, 100, 60], [55, 90, 66]]
    assert not result.errors


def test_the_cost_of_a_further_model_is_read_before_anything_is_idle() -> None:
    def tree(mb: float) -> memory.TreeMemory:
        nothing = memory.Memory()
        return memory.TreeMemory(nothing, nothing, memory.Memory(pss_bytes=int(mb * 1e6)), 1, 0)

    steps = [memory_scenario.Step(1, tree(110), tree(100)), memory_scenario.Step(11, tree(150), tree(140))]
    assert memory_scenario.costs_at_once(steps) == [5e6]
    assert memory_scenario.costs_idle(steps) == [4e6]


def test_the_first_load_after_a_start_is_held_against_the_fourth() -> None:
    result = report.Result("cold_load", {})
    cold_load.report_first_loads({"ours": [[0.6, 0.03, 0.03, 0.03], [0.4, 0.02, 0.02, 0.02]]}, result)
    (target,) = result.targets
    assert target.value == pytest.approx(20)
    assert target.met is False


def test_a_second_model_of_a_set_is_held_against_one_without_packages() -> None:
    result = report.Result("package_sets", {})
    times_s = {package_sets.PLAIN: [0.02, 0.03, 0.04], package_sets.PACKAGED: [0.03, 0.06, 0.04]}
    package_sets.report(times_s, 1.5, 4, result)
    (target,) = result.targets
    assert target.value == pytest.approx(4 / 3) and target.met
    assert target.spread == "(1.00–2.00)"
    assert [row["failed_rounds"] for row in result.rows] == [1, 1]


def test_a_set_of_packages_that_no_round_loaded_is_not_measured() -> None:
    result = report.Result("package_sets", {})
    package_sets.report({package_sets.PLAIN: [], package_sets.PACKAGED: []}, 1.5, 4, result)
    assert [target.met for target in result.targets] == [None]


def test_the_targets_of_scenarios_are_gathered_with_their_errors() -> None:
    part = report.Result("latency", {}, rows=[{"a": 1}], errors=["ours: 500"])
    part.targets = [report.Target("one", 1.0, "≥", 2), report.Target("two", 3.0, "≥", 2)]
    result = report.Result("targets", {})
    targets.add(part, 12.4, result)
    assert result.table == [["latency", "12", "1", "1 of 2"]]
    assert result.targets == part.targets
    assert result.errors == ["latency: ours: 500"]


def test_targets_measure_memory_of_ours_alone_and_all_else_beside_stock() -> None:
    options = targets.TargetsOptions.parse([])
    assert options.servers == ("stock", "ours")
    assert set(options.scenarios()) == {"latency", "cold_load", "memory"}


@pytest.mark.parametrize(
    "options",
    [
        integrity.IntegrityOptions.parse([]),
        latency.LatencyOptions.parse([]),
        cold_load.ColdLoadOptions.parse([]),
        memory_scenario.MemoryOptions.parse([]),
        package_sets.PackageSetsOptions.parse([]),
    ],
)
def test_options_are_recorded_and_nothing_changes_them(options: Options) -> None:
    assert options.recorded()["servers"] == options.servers
    with pytest.raises(AttributeError):
        options.quick = True  # type: ignore[misc]


# ---- connection ----


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ports: list[int]

    def do_GET(self) -> None:
        self.ports.append(self.client_address[1])
        self.send_response(200)
        if self.path == "/without-length":
            self.close_connection = True
        elif self.path == "/close":
            self.send_header("Connection", "close")
        if self.path != "/without-length":
            self.send_header("Content-Length", "200000")
        self.end_headers()
        self.wfile.write(b"x" * 200_000)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _web_server() -> Iterator[tuple[int, list[int]]]:
    """Yields the server's port and the list of client ports that requests came from."""
    ports: list[int] = []
    handler = type("Handler", (_Handler,), {"ports": ports})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], ports
        finally:
            server.shutdown()
            thread.join()


def test_a_connection_is_kept_until_the_server_closes_it() -> None:
    with _web_server() as (port, client_ports), Connection(port) as connection:
        for path in ("/", "/close", "/"):
            answer = connection.request("GET", path)
            assert (answer.status, len(answer.body)) == (200, 200_000)
            assert answer.elapsed_s > 0
    assert client_ports[0] == client_ports[1]
    assert client_ports[1] != client_ports[2]


def test_an_answer_without_length_is_refused() -> None:
    with _web_server() as (port, _), Connection(port) as connection, pytest.raises(BenchmarkError):
        connection.request("GET", "/without-length")


# ---- models ----


def test_the_photo_is_the_same_jpeg_of_640_by_480_every_time() -> None:
    body = models.photo()
    models.photo.cache_clear()
    assert models.photo() == body
    with Image.open(io.BytesIO(body)) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (640, 480), "RGB")


@pytest.mark.ci  # trains
def test_the_script_of_house_prices_answers_alike_in_stock_and_in_ours(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from benchmarks import models
from benchmarks.plain_script import handle
from tests.harness import requests
models._make_houses("house_script", Path(sys.argv[1]))
context = requests.context_for(Path(sys.argv[1]))
handle(None, context)
body, content_type = models.request_for("house_script")
print(requests.call(handle, context, ({"Content-Type": content_type}, body))[0][2])
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (stock,) = json.loads(done.stdout)
    (ours,) = LoadedModel(tmp_path).answer(*models.request_for("house_script"))
    assert ours == pytest.approx(stock)


def test_the_packages_of_the_measured_script_are_in_its_archive(tmp_path: Path) -> None:
    models._make_script("script_packaged", tmp_path)
    assert [each.name for each in (tmp_path / "code/wheels").iterdir()] == [f"{models.PACKAGE}-1.0-py3-none-any.whl"]
    assert (tmp_path / "code/requirements.txt").read_text() == f"{models.PACKAGE}==1.0\n"
    assert f"import {models.PACKAGE}" in (tmp_path / "code/inference.py").read_text()


def test_what_configures_servers_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MXNET_SUBGRAPH_BACKEND", "OMP_NUM_THREADS", "SAGEMAKER_HANDLER", "MMS_CONFIG_FILE", "MME_WORKERS"):
        monkeypatch.setenv(name, "1")
    inherited = base.clean_environment()
    assert "MME_WORKERS" in inherited
    assert not [name for name in inherited if name.startswith(("MXNET_", "OMP_", "SAGEMAKER_", "MMS_"))]


# ---- the program ----


def test_scenarios_are_found_with_what_they_measure() -> None:
    found = run.scenarios()
    assert set(SCENARIOS) <= set(found)
    assert all(found.values())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_explains_itself(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"benchmarks.scenarios.{scenario}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert f"./scripts/bench {scenario}" in printed
    assert "--quick" in printed


@pytest.mark.parametrize(
    "arguments", [[], ["no_such_benchmark"], ["latency", "--servers", "stock,stock"], ["memory", "--counts", "3"]]
)
def test_wrong_use_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    assert ended.value.code == 2
    assert "usage: ./scripts/bench" in capsys.readouterr().err


def test_the_program_lists_its_scenarios() -> None:
    done = subprocess.run([*BENCH, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert all(scenario in done.stdout for scenario in SCENARIOS)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a path short enough for Unix sockets below it."""
    with tempfile.TemporaryDirectory(prefix="mt-") as path:
        yield Path(path)


@contextmanager
def _bench(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program with its temporary files in ``folder``/tmp and its messages in ``folder``/log."""
    (folder / "tmp").mkdir()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*BENCH, *arguments],
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate()


def _messages(folder: Path) -> str:
    return (folder / "log").read_text()


@pytest.mark.ci
@pytest.mark.slow
def test_a_real_run_measures_both_servers_and_leaves_nothing(folder: Path) -> None:
    output = folder / "result.json"
    options = ["--rounds", "1", "--starts", "0", "--models", "tiny"]
    with _bench(folder, "cold_load", *options, "--output", str(output)) as bench:
        printed, _ = bench.communicate(timeout=170)
    assert bench.returncode == 0, printed + _messages(folder)
    assert "stock ÷ this" in printed
    record = json.loads(output.read_text())
    assert [row["server"] for row in record["rows"]] == ["stock", "ours"]
    for row in record["rows"]:
        assert row["failed_rounds"] == 0
        assert 0 < row["load_s"]["p50"] < row["sum_s"]["p50"] < 120
        assert row["first_to_tenth_invocation_ratio"]["value"] > 0
    assert not list((folder / "tmp").iterdir())


@pytest.mark.ci
@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing(folder: Path) -> None:
    with _bench(folder, "latency", "--servers", "ours", "--rounds", "100000") as bench:
        wait_until(lambda: "round 1 of" in _messages(folder), "the run is under way", 120)
        started = psutil.Process(bench.pid).children(recursive=True)
        bases = {base_dir for process in started if (base_dir := process.environ().get("SAGEMAKER_BASE_DIR"))}
        assert len(started) >= 3 and bases
        bench.send_signal(signal.SIGINT)
        bench.communicate(timeout=60)
    assert bench.returncode == 130, _messages(folder)
    assert not [process for process in started if process.is_running()]
    assert not [base_dir for base_dir in bases if ROOT in Path(base_dir).parents and Path(base_dir).exists()]
    assert not list((folder / "tmp").iterdir())
