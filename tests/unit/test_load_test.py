"""Load tests: how requests are spread, what is recorded and written, and runs against real servers of a few models."""

from __future__ import annotations

import csv
import re
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client import Counter as Counter_

from benchmarks.load.patterns import PATTERNS, Chooser, shares
from benchmarks.load_test import options, server_metrics
from benchmarks.load_test.endpoint import Endpoint
from scripts.programs.console import Failure
from tests.harness import scripted_handler
from tests.harness.programs import run_load_test
from tests.harness.server import ServerProcess

MODELS = 4
SECONDS = "1"


# ---- patterns ----


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("models", [1, 2, 11, 12, 1000])
def test_the_shares_of_a_pattern_add_up_to_one(pattern: str, models: int) -> None:
    found = shares(pattern, models)
    assert len(found) == models
    assert sum(found) == pytest.approx(1)
    assert min(found) > 0


def test_uniform_gives_every_model_the_same() -> None:
    assert set(shares("uniform", 1000)) == {1 / 1000}


@pytest.mark.parametrize(("pattern", "leaders"), [("popular", 11), ("hot", 1)])
def test_the_leaders_take_nine_tenths_and_the_others_share_the_rest(pattern: str, leaders: int) -> None:
    found = shares(pattern, 1000)
    assert sum(found[:leaders]) == pytest.approx(0.9)
    assert len(set(found[:leaders])) == len(set(found[leaders:])) == 1


def test_zipf_falls_with_the_rank_to_the_power_of_1_1() -> None:
    found = shares("zipf", 100)
    assert found[0] / found[9] == pytest.approx(10**1.1)
    assert found == sorted(found, reverse=True)


def test_where_all_models_are_popular_each_takes_the_same() -> None:
    assert shares("popular", 11) == shares("uniform", 11)
    assert shares("hot", 1) == [1]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_models_are_drawn_by_their_shares_and_alike_for_the_same_seed(pattern: str) -> None:
    drawn, again = ([chooser.next() for _ in range(20_000)] for chooser in (Chooser(pattern, 20, 3) for _ in "ab"))
    assert drawn == again
    counts = Counter(drawn)
    for model, share in enumerate(shares(pattern, 20)):
        # five standard deviations of a binomial count
        assert abs(counts[model] - 20_000 * share) <= 5 * (20_000 * share * (1 - share)) ** 0.5


# ---- an endpoint ----


def test_an_endpoint_that_cannot_answer_is_not_asked_again(body: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Unavailable(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.headers["X-Amzn-SageMaker-Target-Model"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(503)  # which boto3 would try again
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """To nobody."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Unavailable) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            parsed = options.parse(["--endpoint", "e", "--models", "2", "--names", "m-{}", "--body", str(body)])
            caller = Endpoint(parsed).caller()
            outcomes = [caller.call(model, parsed.bodies[0]) for model in ("m-0", "m-1")]
        finally:
            server.shutdown()
    assert [outcome.error for outcome in outcomes] == ["503 (503)"] * 2
    assert asked == ["m-0", "m-1"]


# ---- the command line ----


@pytest.fixture
def body(tmp_path: Path) -> Path:
    file = tmp_path / "body.json"
    file.write_text(scripted_handler.command("echo", 1))
    return file


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("a.json", "application/json"), ("a.csv", "text/csv"), ("a.jpg", "image/jpeg"), ("a.npy", "application/x-npy")],
)
def test_the_type_of_a_body_is_told_by_its_name(tmp_path: Path, name: str, content_type: str) -> None:
    (tmp_path / name).write_bytes(b"1")
    assert options.read_body(tmp_path / name, None).content_type == content_type
    assert options.read_body(tmp_path / name, "text/plain").content_type == "text/plain"


def test_a_body_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no-such-file cannot be read: No such file"):
        options.parse(["--url", "http://127.0.0.1:1", "--body", str(tmp_path / "no-such-file")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of the arguments --endpoint --url is required"),
        (["--endpoint", "e", "--url", "http://localhost:1"], "not allowed with"),
        (["--url", "https://localhost:1"], "is not http://HOST:PORT"),
        (["--url", "http://localhost:1/models"], "has a path"),
        (["--url", "http://localhost:1", "--users", "1", "--rate", "1"], "not allowed with"),
        (["--url", "http://localhost:1", "--rate", "0"], "is not a number above 0"),
        (["--url", "http://localhost:1", "--pattern", "square"], "invalid choice"),
        (["--endpoint", "e", "--load-from", "models"], "--load-from needs --url"),
        (["--endpoint", "e", "--names", "m-{}"], "--names needs --models"),
        (["--endpoint", "e", "--models", "2", "--names", "m"], "has no place for a number"),
        (["--endpoint", "e", "--models", "2", "--names", "m-{}-{}"], "has no place for a number"),
    ],
)
def test_wrong_use_is_explained(
    arguments: list[str], said: str, body: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        options.parse([*arguments, "--body", str(body)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# ---- the server's metrics ----


def test_workers_and_sleeping_models_are_read_from_prometheus_text() -> None:
    registry = CollectorRegistry()
    Gauge("mme_workers", "", registry=registry).set(12)
    Gauge("mme_models_asleep", "", registry=registry).set(3)
    Gauge("mme_models_loaded", "", registry=registry).set(99)
    asleep = Gauge("mme_model_workers_asleep", "", ["model"], registry=registry)
    woken = Counter_("mme_model_wake_ups", "", ["model"], registry=registry)
    for model, number in (("a", 1), ("b", 2)):
        asleep.labels(model).set(number)
        woken.labels(model).inc(number * 10)
    first = server_metrics.parse(generate_latest(registry).decode(), 1.5)
    assert first == server_metrics.Sample(1.5, workers=9, asleep=3, wake_ups=30)
    woken.labels("b").inc(4)
    last = server_metrics.parse(generate_latest(registry).decode(), 2.5)
    assert server_metrics.in_words([first, last]) == "9 to 9 workers awake, 3 to 3 models asleep, 4 wake-ups"


def test_metrics_of_another_server_say_nothing() -> None:
    sample = server_metrics.parse("# HELP up x\n# TYPE up gauge\nup 1\n", 0)
    assert (sample.workers, sample.asleep, sample.wake_ups) == (None, None, None)
    assert server_metrics.in_words([sample]) == ""


# ---- runs ----


def load_test(*arguments: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the program; fails on another exit code."""
    done = run_load_test(*arguments, **environment)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def counts(printed: str) -> dict[str, tuple[int, int]]:
    """Requests and errors by the rows of the printed table."""
    rows = re.findall(r"^(cold|warm|all) +([\d,]+) +([\d,]+) ", printed, re.MULTILINE)
    return {name: (int(requests.replace(",", "")), int(errors.replace(",", ""))) for name, requests, errors in rows}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(MME_PRELOAD="none", SAGEMAKER_HANDLER=scripted_handler.HANDLER) as running:
        for number in range(MODELS):
            scripted_handler.make_model(running.model_dir(f"healthy/model-{number}"))
        yield running


def loaded(server: ServerProcess) -> list[str]:
    """Names of the models that the server has."""
    return [each["modelName"] for each in server.list_models().json()["models"]]


KILLED = """
from gevent import monkey
monkey.patch_all()
import sys, types
import gevent
from benchmarks.load_test import options, record, users
from benchmarks.load_test.destinations import Outcome

def answer(model, body):
    gevent.sleep(0.1)
    return Outcome()

caller = types.SimpleNamespace(call=answer)
destination = types.SimpleNamespace(models=["m"], caller=lambda: caller)
ignored = types.SimpleNamespace(fire=lambda **_: None)
environment = types.SimpleNamespace(events=types.SimpleNamespace(request=ignored))
its_record = record.Record()
traffic = users.Traffic(options.parse(["--url", "http://localhost:1", "--body", sys.argv[1]]), destination, its_record)
user = gevent.spawn(lambda: traffic.begin_call(environment).join())
while not its_record.sent:
    gevent.sleep(0)
user.kill()
traffic.finish(10)
print(its_record.sent, len(its_record.calls), its_record.failed)
"""


def test_a_request_whose_user_is_killed_is_still_counted(body: Path) -> None:
    """As Locust does with a user that begins its next task in the moment of the end."""
    done = run_load_test(body, code=KILLED)
    assert done.stdout.split() == ["1", "1", "0"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "pattern", ["uniform", *(pytest.param(each, marks=pytest.mark.ci) for each in ("popular", "hot"))]
)
def test_a_closed_loop_on_a_container_loads_calls_and_unloads_its_models(
    server: ServerProcess, body: Path, tmp_path: Path, pattern: str
) -> None:
    where = (
        "--url",
        server.url,
        "--load-from",
        server.models_dir / "healthy",
        "--models",
        "3",
        "--output",
        tmp_path / "out",
    )
    done = load_test(*where, "--pattern", pattern, "--users", "2", "--duration", SECONDS, "--body", body)
    assert "loaded 3 models" in done.stdout
    assert "no errors" in done.stdout
    found = counts(done.stdout)
    assert found["all"][0] == found["cold"][0] + found["warm"][0]
    assert 3 <= found["cold"][0] <= 6  # each user may have met each model before its first answer
    assert found["warm"][0] > 0
    assert loaded(server) == []


@pytest.mark.slow
@pytest.mark.ci  # tests/endpoint/test_load_test.py has one on an endpoint
def test_an_open_loop_sends_at_its_rate_and_leaves_all_files(server: ServerProcess, body: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    where = ("--url", server.url, "--load-from", server.models_dir / "healthy", "--output", folder)
    done = load_test(*where, "--rate", "100", "--duration", SECONDS, "--body", body)
    sent, errors = counts(done.stdout)["all"]
    assert errors == 0
    assert 50 <= sent <= 150  # a Poisson process: 100 are expected, ten is its standard deviation
    files = {"report.html", "statistics.csv", "failures.csv", "timeline.csv", "load_test.png"}
    assert {path.name for path in folder.iterdir()} == files
    assert "cold" in (folder / "report.html").read_text()
    assert (folder / "load_test.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "timeline.csv").open() as file:
        seconds = list(csv.DictReader(file))
    assert sum(int(row["answers"]) for row in seconds) == sent
    assert any(float(row["workers"] or 0) >= MODELS for row in seconds)
    assert {float(row["asleep"]) for row in seconds if row["asleep"]} == {0}
    assert "workers awake, 0 to 0 models asleep" in done.stdout
    with (folder / "statistics.csv").open() as file:
        kinds = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file)}
    assert kinds["Aggregated"] == sent == kinds["cold"] + kinds["warm"]


@pytest.mark.slow
def test_every_error_is_counted_and_listed(server: ServerProcess, tmp_path: Path) -> None:
    failing, echoing = tmp_path / "failing.json", tmp_path / "echoing.json"
    failing.write_text(scripted_handler.command("fail", "as told"))
    echoing.write_text(scripted_handler.command("echo", 1))
    where = ("--url", server.url, "--load-from", server.models_dir / "healthy", "--output", tmp_path / "out")
    done = load_test(*where, "--rate", "50", "--duration", SECONDS, "--body", failing, echoing, code=1)
    found = counts(done.stdout)
    assert 0 < found["all"][1] < found["all"][0]
    assert f"{found['all'][1]:,} errors" in done.stdout
    assert f"{found['all'][1]:,} × status 5" in done.stdout
    with (tmp_path / "out" / "failures.csv").open() as file:
        assert sum(int(row["Occurrences"]) for row in csv.DictReader(file)) == found["all"][1]


@pytest.mark.slow
def test_a_model_that_the_server_refuses_ends_the_program_with_its_reason(
    server: ServerProcess, body: Path, tmp_path: Path
) -> None:
    for name, on_load in (("bad", ("fail", "as told")), ("good", ())):
        scripted_handler.make_model(server.model_dir(f"mixed/{name}"), *on_load)
    where = ("--url", server.url, "--load-from", server.models_dir / "mixed")
    done = load_test(*where, "--duration", SECONDS, "--body", body, "--output", tmp_path, code=1)
    assert "the server refused bad: 500" in done.stderr
    assert loaded(server) == []


@pytest.mark.slow
def test_a_server_that_is_not_there_is_named(body: Path) -> None:
    done = load_test("--url", "http://127.0.0.1:1", "--body", body, code=1)
    assert "http://127.0.0.1:1 does not say which models it has" in done.stderr
