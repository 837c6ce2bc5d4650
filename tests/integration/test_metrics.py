"""GET /metrics of a real server: what it says under load, after deaths, at which ports; and metrics in the log."""

from __future__ import annotations

import json
import signal
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mme.metrics.families import OTHERS
from tests.harness.ports import free_port
from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import is_gone, worker
from tests.integration.test_drain import ask_to_stop, is_refused
from tests.unit.test_metrics import OPENMETRICS, check_emf

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
SETTINGS: dict[str, Any] = {"SAGEMAKER_HANDLER": HANDLER, "MME_PRELOAD": "none", "MME_AUTOSCALE": "off"}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(**SETTINGS, MME_METRICS_TARGET_MODEL="on", SAGEMAKER_MAX_PAYLOAD_IN_MB="1") as running:
        yield running


def load(server: ServerProcess, *, name: str = "", properties: str = "") -> str:
    name = name or uuid.uuid4().hex
    make_model(server.model_dir(name))
    (server.model_dir(name) / "serving.properties").write_text(properties)
    answer = server.load(name)
    assert answer.status_code == 200, answer.text
    return name


def scrape(server: ServerProcess, url: str = "", accept: str = "") -> Samples:
    """All samples by name and labels, without ``target_model``."""
    answer = requests.get((url or server.url) + "/metrics", headers={"Accept": accept} if accept else {}, timeout=60)
    assert answer.status_code == 200, answer.text
    is_openmetrics = "openmetrics" in answer.headers["Content-Type"]
    assert is_openmetrics == (accept == OPENMETRICS), answer.headers
    parse = parse_openmetrics if is_openmetrics else parse_text
    return {
        (
            sample.name,
            tuple(sorted((name, value) for name, value in sample.labels.items() if name != "target_model")),
        ): (sample.value)
        for family in parse(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def exporters(server: ServerProcess) -> list[psutil.Process]:
    return [each for each in server.processes_with("mme.metrics.exporter") if not is_gone(each)]


# ---- what it says ----


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_requests_and_times_of_a_model(server: ServerProcess, accept: str) -> None:
    name = load(server)
    for _ in range(3):
        server.invoke(name, command("echo", 1))
    server.invoke(name, command("run_out_of_memory"))
    samples = scrape(server, accept=accept)
    assert of(samples, "mme_model_requests_total", model=name, status="2xx") == 3
    assert of(samples, "mme_model_requests_total", model=name, status="507") == 1
    for histogram in ("queue", "handler", "request"):
        assert of(samples, f"mme_model_{histogram}_seconds_count", model=name) == 4
        assert of(samples, f"mme_model_{histogram}_seconds_bucket", model=name, le="+Inf") == 4
        assert of(samples, f"mme_model_{histogram}_seconds_sum", model=name) > 0
    assert of(samples, "mme_model_workers", model=name) == 1
    assert of(samples, "mme_model_loads_total", model=name) == 1
    assert of(samples, "mme_model_memory_bytes", model=name) > 0


def test_the_container_as_a_whole(server: ServerProcess) -> None:
    before = scrape(server)
    name = load(server)
    broken = uuid.uuid4().hex
    make_model(server.model_dir(broken), "fail", "as told")
    assert server.load(broken).status_code == 500
    assert server.load(name).status_code == 409
    assert server.load("not there").status_code == 404
    assert server.request("POST", "/models").status_code == 400
    greedy = uuid.uuid4().hex
    (make_model(server.model_dir(greedy)) / "serving.properties").write_text("required_memory_mb=100000000\n")
    assert server.load(greedy).status_code == 507
    assert server.invoke("nobody", "{}").status_code == 404
    assert server.invoke(name, b" " * (2 << 20)).status_code == 413
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert requests.post(f"{server.url}/models/{name}/invoke", "no form", headers=form, timeout=60).status_code == 400
    assert server.unload(name).status_code == 200
    after = scrape(server)

    def added(metric: str, **labels: str) -> float:
        return of(after, metric, **labels) - of(before, metric, **labels)

    assert added("mme_loads_total", result="loaded") == 1
    assert added("mme_loads_total", result="failed") == 1
    for result in ("conflict", "not_found", "refused", "no_memory"):
        assert added("mme_loads_total", result=result) == 1, result
    for reason in ("unknown_model", "body_too_large", "invalid_request"):
        assert added("mme_refusals_total", reason=reason) == 1, reason
    assert added("mme_unloads_total") == 1
    assert added("mme_models_loaded") == 0
    assert of(after, "mme_templates") >= 1
    assert of(after, "mme_memory_limit_bytes") > of(after, "mme_memory_used_bytes") > 0
    assert of(after, "mme_memory_reserve_bytes") > 0


def test_what_waits_and_what_is_under_way(server: ServerProcess, tmp_path: Path) -> None:
    name = load(server)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.invoke, name, command("wait_for", str(tmp_path / "go"))) for _ in range(3)]
        try:
            wait_until(lambda: of(scrape(server), "mme_model_queue_length", model=name) == 2, "two wait")
            samples = scrape(server)
            assert of(samples, "mme_model_requests_under_way", model=name) == 1
            assert of(samples, "mme_model_workers_busy", model=name) == 1
            assert of(samples, "mme_model_workers_wanted", model=name) == 1
            assert of(samples, "mme_queue_length") == 2
            assert of(samples, "mme_requests_under_way") == 1
            assert of(samples, "mme_workers") >= 1
        finally:
            (tmp_path / "go").touch()
        assert all(answer.result().status_code == 200 for answer in answers)
    samples = scrape(server)
    assert of(samples, "mme_model_queue_length", model=name) == of(samples, "mme_queue_length") == 0


def test_each_way_in_which_a_request_may_end_has_its_status(server: ServerProcess, tmp_path: Path) -> None:
    name = load(server, properties="job_queue_size=1\n")
    full = of(scrape(server), "mme_refusals_total", reason="queue_full")
    for status in (302, 404):
        assert server.invoke(name, command("set_status", status)).status_code == status
    assert server.invoke(name, command("fail", "as told")).status_code == 503
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.invoke, name, command("wait_for", str(tmp_path / "go")))
        try:
            wait_until(lambda: of(scrape(server), "mme_model_workers_busy", model=name) == 1, "one is under way")
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                head = f"POST /models/{name}/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]"
                connection.sendall(head.encode())
                wait_until(lambda: of(scrape(server), "mme_model_queue_length", model=name) == 1, "one waits")
                assert server.invoke(name, command("echo", 1)).status_code == 503
            wait_until(lambda: of(scrape(server), "mme_model_queue_length", model=name) == 0, "it has hung up")
        finally:
            (tmp_path / "go").touch()
        assert answer.result().status_code == 200
    samples = scrape(server)
    for end in ("2xx", "3xx", "4xx", "5xx", "refused", "abandoned"):
        assert of(samples, "mme_model_requests_total", model=name, status=end) == 1, end
    assert of(samples, "mme_model_requests_total", model=name, status="507") == 0
    assert of(samples, "mme_refusals_total", reason="queue_full") == full + 1


def test_a_killed_worker_loses_nothing(server: ServerProcess) -> None:
    name = load(server)
    for _ in range(5):
        server.invoke(name, command("echo", 1))
    before = scrape(server)
    process = worker(server, name)
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: of(scrape(server), "mme_model_worker_loads_total", model=name) == 2, "another worker")
    assert server.invoke(name, command("echo", 1)).status_code == 200
    after = scrape(server)
    assert of(after, "mme_model_worker_exits_total", model=name) == 1
    assert of(after, "mme_model_requests_total", model=name, status="2xx") == 6
    assert of(after, "mme_model_request_seconds_count", model=name) == 6
    counters = [key for key in before if key[0].endswith(("_total", "_count", "_sum", "_bucket"))]
    assert all(after[key] >= before[key] for key in counters)


def test_scrapes_under_load_say_what_clients_count(server: ServerProcess) -> None:
    names = [load(server) for _ in range(3)]

    def client(number: int) -> int:
        with requests.Session() as session:
            url = f"{server.url}/models/{names[number % 3]}/invoke"
            return sum(session.post(url, command("echo", 1), timeout=60).status_code == 200 for _ in range(60))

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        seen: list[Samples] = []
        while not all(each.done() for each in clients):
            seen.append(scrape(server, accept=OPENMETRICS if len(seen) % 2 else ""))
        assert [each.result() for each in clients] == [60] * 6
    seen.append(scrape(server))
    for name in names:
        counts = [of(samples, "mme_model_requests_total", model=name, status="2xx") for samples in seen]
        assert counts == sorted(counts)
        assert counts[-1] == 120
        assert of(seen[-1], "mme_model_request_seconds_count", model=name) == 120


def test_names_are_escaped(server: ServerProcess) -> None:
    name = load(server, name='é"\\{},=%d 語')
    server.invoke(name, command("echo", 1))
    for accept in ("", OPENMETRICS):
        assert of(scrape(server, accept=accept), "mme_model_requests_total", model=name, status="2xx") == 1


def test_the_target_of_the_last_request_is_a_label_by_choice(server: ServerProcess) -> None:
    name = load(server)
    for target in ("first.tar.gz", 'folder/"second".tar.gz'):
        server.invoke(name, command("echo", 1), headers={"X-Amzn-SageMaker-Target-Model": target})
    text = server.request("GET", "/metrics").text
    found = {
        sample.labels["target_model"]
        for family in parse_text(text)
        for sample in family.samples
        if sample.labels.get("model") == name
    }
    assert found == {'folder/"second".tar.gz'}


# ---- how it is asked ----


def test_only_get_of_exactly_this_path_is_there(server: ServerProcess) -> None:
    assert server.request("POST", "/metrics").status_code == 405
    assert server.request("DELETE", "/metrics").status_code == 405
    assert server.request("GET", "/metrics/models").status_code == 404
    answer = server.request("GET", "/metrics?name=x")
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, "text/plain")


def test_another_process_takes_the_place_of_one_that_dies(server: ServerProcess) -> None:
    scrape(server)
    (process,) = exporters(server)
    process.kill()
    wait_until(lambda: is_gone(process), "it has ended")
    name = load(server)

    def is_back() -> bool:  # the first connection may have been turned away
        answer = server.request("GET", "/metrics")
        assert answer.status_code == 200 or "does not answer" in answer.json()["message"]
        return answer.status_code == 200

    wait_until(is_back, "metrics are there again")
    assert of(scrape(server), "mme_model_loads_total", model=name) == 1
    assert len(exporters(server)) == 1


def test_who_asks_for_no_metrics_has_no_process_for_them(tmp_path: Path) -> None:
    port = free_port()
    with ServerProcess(**SETTINGS, MME_METRICS_PORT=str(port), MME_METRICS_MODELS="1") as server:
        first, second = load(server), load(server)
        assert server.invoke(second, command("echo", 1)).status_code == 200
        assert exporters(server) == []
        for url in (f"http://127.0.0.1:{port}", server.url):
            samples = scrape(server, url)
            assert of(samples, "mme_model_loads_total", model=first) == 1
            assert of(samples, "mme_model_requests_total", model=OTHERS, status="2xx") == 1
            assert {dict(labels).get("model") for _, labels in samples} == {None, first, OTHERS}
            assert "target_model" not in requests.get(f"{url}/metrics", timeout=60).text
        assert requests.get(f"http://127.0.0.1:{port}/", timeout=60).status_code == 404
        assert len(exporters(server)) == 1
        log = server.log()
        assert "Running" not in log  # MMS's line for each call of an endpoint
        assert "/metrics" not in log
        with ThreadPoolExecutor(1) as pool, requests.Session() as open_before:
            invocation = f"{server.url}/models/{second}/invoke"
            assert open_before.post(invocation, command("echo", 1), timeout=60).status_code == 200
            answer = pool.submit(server.invoke, first, command("wait_for", str(tmp_path / "go")))
            own_port = f"http://127.0.0.1:{port}"
            try:
                wait_until(lambda: of(scrape(server, own_port), "mme_requests_under_way") == 1, "it is under way")
                ask_to_stop(server)
                wait_until(lambda: is_refused(server), "new connections are refused")
                assert open_before.post(invocation, command("echo", 1), timeout=60).status_code == 503
                assert of(scrape(server, own_port), "mme_refusals_total", reason="stopping") == 1
            finally:
                (tmp_path / "go").touch()
            assert answer.result().status_code == 200


def test_a_port_that_is_taken_ends_the_start_with_its_name(server: ServerProcess) -> None:
    other = ServerProcess(**SETTINGS, MME_METRICS_PORT=str(server.port))
    try:
        other.launch()
        process = other.process
        assert process is not None
        wait_until(lambda: process.poll() is not None, "the start has failed")
        assert process.returncode == 1
        assert f"{server.port} (MME_METRICS_PORT)" in other.log()
    finally:
        other.discard()


def test_one_model_alone_whose_handler_counts_for_mms(tmp_path: Path) -> None:
    debug: dict[str, Any] = {**SETTINGS, "SAGEMAKER_CONTAINER_LOG_LEVEL": "10"}
    with ServerProcess(single_model_dir=make_model(tmp_path), **debug, SAGEMAKER_MODEL_SERVER_WORKERS="1") as server:
        assert server.post("/invocations", command("echo", 1)).status_code == 200
        samples = scrape(server)
        assert of(samples, "mme_models_loaded") == 1
        answered = [value for (name, labels), value in samples.items() if ("status", "2xx") in labels]
        assert answered == [1]
        wait_until(lambda: "Scripted.Count:1" in server.log(), "what it counts is logged")


@pytest.mark.ci
def test_workers_that_are_spawned() -> None:
    with ServerProcess(**SETTINGS, MME_WORKERS="spawn") as server:
        name = load(server)
        assert server.invoke(name, command("echo", 1)).status_code == 200
        samples = scrape(server)
        assert of(samples, "mme_model_requests_total", model=name, status="2xx") == 1
        assert (of(samples, "mme_model_memory_bytes", model=name), of(samples, "mme_templates")) == (0, 0)


# ---- in the log ----


@pytest.fixture(scope="module", params=[pytest.param("text", marks=pytest.mark.ci), "json"])
def emitting(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server with metrics in its log, whose models sleep after a second."""
    settings: dict[str, Any] = {**SETTINGS, "MME_EMF": "on", "MME_EMF_PERIOD_S": "1", "MME_SLEEP_AFTER_S": "1"}
    with ServerProcess(**settings, MME_LOG_FORMAT=request.param, SAGEMAKER_CONTAINER_LOG_LEVEL="30") as running:
        yield running


def emitted(server: ServerProcess) -> list[dict[str, Any]]:
    """What the log has for CloudWatch."""
    lines = [line for line in server.log().splitlines() if line.startswith("{") and '"_aws"' in line]
    return [check_emf(line) for line in lines]


def of_container(server: ServerProcess) -> list[dict[str, Any]]:
    return [each for each in emitted(server) if each.get("Scope") == "Container"]


def emitted_requests(server: ServerProcess, name: str) -> int:
    return sum(each["Requests"] for each in emitted(server) if each.get("ModelName") == name)


def test_embedded_metrics_are_lines_of_the_log(emitting: ServerProcess) -> None:
    name = load(emitting)
    emitting.invoke(name, command("echo", 1))
    wait_until(lambda: emitted_requests(emitting, name) == 1, "the request is in a line")
    assert sum(each["Loads"] for each in of_container(emitting)) == 1
    # and nothing else: neither MMS's own metrics, nor our own process
    assert not [line for line in emitting.log().splitlines() if "Level:Host" in line or "ModelName:" in line]
    if emitting.settings["MME_LOG_FORMAT"] == "json":
        assert all(isinstance(json.loads(line), dict) for line in emitting.log().splitlines() if line)
    assert emitting.unload(name).status_code == 200


def test_embedded_metrics_go_on_where_their_process_was_killed(emitting: ServerProcess) -> None:
    name = load(emitting)
    assert emitting.invoke(name, command("echo", 1)).status_code == 200
    wait_until(lambda: emitted_requests(emitting, name) == 1, "the request is in a line")
    loads = sum(each["Loads"] for each in of_container(emitting))
    (process,) = exporters(emitting)
    process.kill()
    wait_until(lambda: is_gone(process), "it has ended")
    lines = len(of_container(emitting))
    wait_until(lambda: len(of_container(emitting)) > lines, "another one writes, and nobody has asked")
    assert emitting.invoke(name, command("echo", 1)).status_code == 200
    wait_until(lambda: emitted_requests(emitting, name) > 1, "the next request is in a line")
    assert emitted_requests(emitting, name) == 2
    assert sum(each["Loads"] for each in of_container(emitting)) == loads
    assert emitting.unload(name).status_code == 200


def test_a_model_that_sleeps_and_wakes(emitting: ServerProcess) -> None:
    name = load(emitting)
    assert emitting.invoke(name, command("echo", 1)).status_code == 200
    wait_until(lambda: of(scrape(emitting), "mme_models_asleep") == 1, "it sleeps")
    samples = scrape(emitting)
    assert of(samples, "mme_model_workers", model=name) == of(samples, "mme_models_loaded") == 1
    assert of(samples, "mme_model_workers_asleep", model=name) == 1
    assert of(samples, "mme_model_sleeps_total", model=name) == 1
    assert of(samples, "mme_model_memory_bytes", model=name) == 0
    assert emitting.invoke(name, command("echo", 1)).status_code == 200
    samples = scrape(emitting)
    assert of(samples, "mme_model_wake_ups_total", model=name) == 1
    assert of(samples, "mme_model_loads_total", model=name) == 1
    assert emitting.unload(name).status_code == 200
    load(emitting, name=name)
    assert of(scrape(emitting), "mme_model_wake_ups_total", model=name) == 1  # of the session that has ended


def test_the_fronts_own_metric_lines_are_for_debugging(server: ServerProcess) -> None:
    name = load(server)
    server.invoke(name, command("echo", 1))
    log = server.log()
    assert not [line for line in log.splitlines() if "Level:Host" in line or "METRICS" in line or "|#" in line]
