"""What the process for metrics makes of what it reads: which models, which numbers, which text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from mme.metrics import models as models_module
from mme.metrics.emf import EmfWriter
from mme.metrics.exporter import Exporter
from mme.metrics.families import CONTAINER_FAMILIES, MODEL_FAMILIES, OTHERS, Family, labels_of
from mme.metrics.models import COUNTERS, GAUGES, ModelMetrics, ModelReader
from mme.metrics.rendering import Renderer
from mme.metrics.sessions import SessionReader, Sessions
from mme.settings import Settings
from mme.supervisor.model_statistics import ModelStatistics, make_statistics
from mme.zygote.session_records import SessionRecords, WorkerState, make_shared, model_key
from tests.harness.statistics import Writer

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
# What Prometheus 3 asks for.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
# As the specification of the embedded metric format has it.
UNITS = ["Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes", "Percent", "Count", "None"]
NAME = {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": r"^[\x20-\x7e]+$"}
EMF_SCHEMA = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "additionalProperties": False,
                        "properties": {
                            "Namespace": NAME,
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": 30,
                                    "items": {**NAME, "maxLength": 250},
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "Name": NAME,
                                        "Unit": {"enum": UNITS},
                                        "StorageResolution": {"enum": [1, 60]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}


def check_emf(line: str) -> dict[str, Any]:
    """Validates a line, and that what its directive names is there; returns it."""
    entry: dict[str, Any] = json.loads(line)
    jsonschema.validate(entry, EMF_SCHEMA)
    (directive,) = entry["_aws"]["CloudWatchMetrics"]
    for dimensions in directive["Dimensions"]:
        for name in dimensions:
            jsonschema.validate(entry[name], NAME)
    for metric in directive["Metrics"]:
        assert isinstance(entry[metric["Name"]], int | float)
    return entry


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = make_statistics()
    yield made
    os.close(made)


@pytest.fixture
def writer(descriptor: int) -> Writer:
    return Writer(descriptor)


def reader(descriptor: int, most_models: int, records: SessionRecords | None = None) -> ModelReader:
    return ModelReader(ModelStatistics(descriptor), SessionReader(records), most_models)


def answers(models: Sequence[ModelMetrics]) -> dict[str | None, int]:
    return {each.name: each.counters[COUNTERS.index("answers_2xx")] for each in models}


def exporter(descriptor: int, records: int | None = None, **settings: Any) -> Exporter:
    return Exporter(Settings(**settings), Path("/"), descriptor, records)


# ---- which models ----


def test_each_model_has_metrics_of_its_own_and_the_rest_are_one(descriptor: int, writer: Writer) -> None:
    models = reader(descriptor, 2)
    for number, name in enumerate("abcd", start=1):
        writer.write(name, answers_2xx=number, arrivals=number, waiting=number)
    found = models.read()
    assert answers(found) == {"a": 1, "b": 2, None: 7}
    assert found[-1].gauges[GAUGES.index("waiting")] == 7


def test_without_more_models_there_are_no_others(descriptor: int, writer: Writer) -> None:
    writer.write("a", answers_2xx=1)
    assert answers(reader(descriptor, 1).read()) == {"a": 1}
    assert answers(reader(descriptor, 0).read()) == {None: 1}


def test_an_unloaded_model_stays_until_a_loaded_one_wants_its_place(descriptor: int, writer: Writer) -> None:
    models = reader(descriptor, 1)
    writer.write("a", answers_2xx=5)
    models.read()
    writer.write("a", answers_2xx=6, state=0)
    assert answers(models.read()) == {"a": 6}
    writer.write("b", answers_2xx=1)
    assert answers(models.read()) == {"b": 1, None: 0}  # what a had was shown
    writer.write("a", answers_2xx=9)
    assert answers(models.read()) == {"b": 1, None: 3}


def test_a_record_that_gets_another_name_begins_anew(descriptor: int, writer: Writer) -> None:
    models = reader(descriptor, 5)
    number = writer.write("a", answers_2xx=5)
    models.read()
    writer.write("c", number=number, generation=2, answers_2xx=1)
    writer.write("", number=0, generation=0, answers_2xx=5, arrivals=5)  # as the front end keeps what a had
    assert answers(models.read()) == {"c": 1, None: 0}


EVENTS = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["answer", "load", "unload", "read"])))


# It is answered while it has been unloaded, and is the only one then that is loaded.
@example(events=[("a", "unload"), ("a", "read"), ("a", "answer"), ("a", "load")], most_models=1)
@given(events=EVENTS, most_models=st.integers(0, 4))
def test_no_counter_ever_falls_and_nothing_is_counted_twice(events: list[tuple[str, str]], most_models: int) -> None:
    descriptor = make_statistics()
    try:
        writer, models = Writer(descriptor), reader(descriptor, most_models)
        counts, loaded = dict.fromkeys("abcdef", 0), dict.fromkeys("abcdef", 1)
        before: dict[str | None, int] = {}
        gone = 0  # shown of models that have lost their place
        for name, event in [*events, ("a", "read")]:
            if event != "read":
                counts[name] += event == "answer"
                loaded[name] = {"load": 1, "unload": 0}.get(event, loaded[name])
                writer.write(name, answers_2xx=counts[name], arrivals=counts[name], state=loaded[name])
                continue
            found = answers(models.read())
            assert len(found) <= most_models + 1
            gone += sum(shown for each, shown in before.items() if each not in found)
            assert all(shown >= before.get(each, 0) for each, shown in found.items())
            assert sum(found.values()) + gone == sum(counts.values())
            before = found
    finally:
        os.close(descriptor)


# ---- sessions ----


def test_memory_is_that_of_workers_that_live(descriptor: int, writer: Writer) -> None:
    shared = make_shared()
    try:
        records = SessionRecords(shared)
        writer.write("a")
        for slot, (pid, state) in enumerate(
            [(os.getpid(), WorkerState.READY), (os.getpid(), WorkerState.LOADING), (2**22 - 1, WorkerState.READY)]
        ):
            record = records.take(slot)
            record.model, record.pid, record.state, record.taken_mib = model_key("a"), pid, state, 7
        (found,) = reader(descriptor, 5, records).read()
        assert found.gauges[GAUGES.index("taken_mib")] == 7
    finally:
        os.close(shared)


def slept(models: Sequence[ModelMetrics]) -> dict[str | None, tuple[int, int]]:
    places = COUNTERS.index("sleeps"), COUNTERS.index("wake_ups")
    return {each.name: (each.counters[places[0]], each.counters[places[1]]) for each in models}


def end_session(records: SessionRecords, slot: int, model: str, sleeps: int, wake_ups: int) -> None:
    """A session begins in a record, sleeps, and is over; nobody has looked meanwhile. Another takes its record."""
    record = records.take(slot)
    record.model, record.sleeps, record.wake_ups = model_key(model), sleeps, wake_ups
    records.take(slot)


def test_a_session_that_ends_between_two_scrapes_is_counted_also_by_the_next_exporter(
    descriptor: int, writer: Writer
) -> None:
    shared = make_shared()
    try:
        records = SessionRecords(shared)
        models = reader(descriptor, 5, records)
        writer.write("a")
        writer.write("b")
        assert slept(models.read()) == {"a": (0, 0), "b": (0, 0)}
        end_session(records, 0, "a", 3, 2)
        end_session(records, 0, "b", 1, 1)
        goes_on = records.take(1)
        goes_on.model, goes_on.sleeps, goes_on.wake_ups = model_key("a"), 4, 4
        for each in (models, reader(descriptor, 5, records)):
            assert slept(each.read()) == {"a": (7, 6), "b": (1, 1)}
    finally:
        os.close(shared)


SESSIONS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 3), st.booleans()), max_size=12)


@given(events=SESSIONS)
def test_sleeps_never_fall_whoever_takes_a_record_and_whenever_the_exporter_begins_anew(
    events: list[tuple[int, str, int, bool]],
) -> None:
    descriptor, shared = make_statistics(), make_shared()
    try:
        writer, records = Writer(descriptor), SessionRecords(shared)
        writer.write("a")
        writer.write("b")
        counted = {"a": 0, "b": 0}
        models = reader(descriptor, 5, records)
        for slot, name, sleeps, begins_anew in events:
            record = records.take(slot)
            record.model, record.sleeps, record.wake_ups = model_key(name), sleeps, max(0, sleeps - 1)
            counted[name] += sleeps
            if begins_anew:
                models = reader(descriptor, 5, records)
            assert {name: sleeps for name, (sleeps, _) in slept(models.read()).items()} == counted
    finally:
        os.close(descriptor)
        os.close(shared)


def test_a_scrape_while_a_template_adds_reads_once_more(
    descriptor: int, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = make_shared()
    try:
        records = SessionRecords(shared)
        writer.write("a")
        record = records.take(0)
        record.model, record.sleeps = model_key("a"), 2
        found = SessionReader(records)
        read_once = found._read_once

        def interrupted(of: SessionRecords) -> dict[int, Sessions]:
            sessions = read_once(of)
            if record.sleeps:
                records.take(0)  # meanwhile
                sessions = {}  # neither there nor here
            return sessions

        monkeypatch.setattr(found, "_read_once", interrupted)
        assert found.read()[model_key("a")].sleeps == 2
        with records.ended.changing():  # for ever, as one that was killed
            assert found.read()[model_key("a")].sleeps == 2
    finally:
        os.close(shared)


# ---- how busy ----


def test_the_busy_share_is_of_all_workers_time_over_five_seconds(
    descriptor: int, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(models_module.time, "monotonic_ns", lambda: int(now_s * 1e9))
    models = reader(descriptor, 5)

    def share(after_s: float, busy_s: float, workers: int = 2) -> float:
        nonlocal now_s
        now_s += after_s
        writer.write("a", busy_ns=int(busy_s * 1e9), workers=workers)
        (found,) = models.read()
        return found.busy_share

    assert share(0, 3) == 0, "what was before the first scrape is not known"
    assert share(4, 7) == 0, "too short a time"
    assert share(6, 8) == pytest.approx(5 / (2 * 10))
    assert share(1, 10) == pytest.approx(5 / (2 * 10)), "as every other scraper sees it"
    assert share(9, 28) == 1
    assert share(5, 100) == 1, "no more than all: a batch counts when it ends"
    assert share(5, 100, workers=0) == 0


# ---- the text ----

SAMPLES = [
    ModelMetrics('a"b\\c%d{}=,é語', 'x"/y.tar.gz', list(range(1, len(COUNTERS) + 1)), list(range(len(GAUGES))), 0.25),
    ModelMetrics("0" * 32, "", [0] * len(COUNTERS), [0] * len(GAUGES)),
    ModelMetrics(None, "", [10**15] * len(COUNTERS), [10**9] * len(GAUGES), 1e-7),
]


class Whole(Collector):
    """The same numbers as the client itself words them."""

    def collect(self) -> Iterator[Metric]:
        for family in MODEL_FAMILIES:
            metric = family.metric({}, [0] * family.size)
            metric.samples = [
                sample
                for each in SAMPLES
                for sample in family.metric(labels_of(each, with_target=True), family.values(each)).samples
            ]
            yield metric


def as_parsed(metrics: Iterable[Metric]) -> dict[str, Any]:
    return {
        each.name: (
            *(each.type, each.documentation),
            sorted((sample.name, sorted(sample.labels.items()), float(sample.value)) for sample in each.samples),
        )
        for each in metrics
    }


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", OPENMETRICS, PROMETHEUS])
def test_the_text_says_what_the_client_would(accept: str) -> None:
    registry = CollectorRegistry()
    registry.register(Whole())
    encode, content_type = choose_encoder(accept)
    parse = parse_openmetrics if "openmetrics" in content_type else parse_text
    rows = [(tuple(labels_of(each, with_target=True).items()), each) for each in SAMPLES]
    renderer = Renderer(MODEL_FAMILIES)
    for _ in range(2):  # worded, and remembered
        text, said = renderer.render([rows], accept)
        assert said == content_type
        assert as_parsed(parse(text.decode())) == as_parsed(parse(encode(registry).decode()))


def test_lines_of_models_that_have_gone_are_forgotten(descriptor: int) -> None:
    renderer = Renderer(MODEL_FAMILIES)
    for number in range(100):
        rows = [((("model", str(number)),), SAMPLES[1])]
        renderer.render([rows], "")
    ((group,),) = renderer._formats.values()
    assert len(group._templates) <= 3


def test_a_scrape_is_bounded_and_its_numbers_are_right(descriptor: int, writer: Writer) -> None:
    for number in range(30):
        writer.write(f"m{number}", answers_2xx=number, answers_507=1, whole_ns=number * 10**9, busy_ns=5 * 10**9)
    text, _ = exporter(descriptor, metrics_models=10).scrape("")
    found = {
        (sample.name, sample.labels.get("model"), sample.labels.get("status"), sample.labels.get("le")): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }
    models = {model for _, model, _, _ in found if model}
    assert models == {*(f"m{number}" for number in range(10)), OTHERS}
    assert found["mme_model_requests_total", "m7", "2xx", None] == 7
    assert found["mme_model_requests_total", OTHERS, "2xx", None] == sum(range(10, 30))
    assert found["mme_model_requests_total", OTHERS, "507", None] == 20
    assert found["mme_model_request_seconds_sum", "m7", None, None] == 7
    assert found["mme_model_request_seconds_bucket", "m7", None, "0.0005"] == 0
    assert found["mme_model_request_seconds_bucket", "m7", None, "0.001"] == 7
    assert found["mme_model_request_seconds_bucket", "m7", None, "+Inf"] == 7
    assert found["mme_model_busy_seconds_total", "m7", None, None] == 5
    assert found["mme_models_loaded", None, None, None] == 30
    assert found["mme_memory_limit_bytes", None, None, None] > found["mme_memory_used_bytes", None, None, None] > 0


OF_MODEL = {
    "mme_model_requests_total 2xx": "answers_2xx",
    "mme_model_requests_total 3xx": "answers_3xx",
    "mme_model_requests_total 4xx": "answers_4xx",
    "mme_model_requests_total 5xx": "answers_5xx",
    "mme_model_requests_total 507": "answers_507",
    "mme_model_requests_total refused": "refused",
    "mme_model_requests_total abandoned": "abandoned",
    "mme_model_queue_length": "waiting",
    "mme_model_requests_under_way": "under_way",
    "mme_model_workers": "workers",
    "mme_model_workers_busy": "busy_workers",
    "mme_model_workers_wanted": "wanted_workers",
    "mme_model_batches_total": "batches",
    "mme_model_loads_total": "loads",
    "mme_model_load_failures_total": "failed_loads",
    "mme_model_unloads_total": "unloads",
    "mme_model_worker_loads_total": "worker_loads",
    "mme_model_worker_exits_total": "worker_ends",
    "mme_workers": "workers",
    "mme_unloads_total": "unloads",
    "mme_refusals_total queue_full": "refused",
}
OF_SERVER = {
    "mme_queue_length": "waiting",
    "mme_requests_under_way": "under_way",
    "mme_loads_total loaded": "loads_ok",
    "mme_loads_total refused": "loads_400",
    "mme_loads_total not_found": "loads_404",
    "mme_loads_total conflict": "loads_409",
    "mme_loads_total failed": "loads_500",
    "mme_loads_total not_ready": "loads_503",
    "mme_loads_total no_memory": "loads_507",
    "mme_loads_total other": "loads_other",
    "mme_refusals_total body_too_large": "too_large",
    "mme_refusals_total unknown_model": "unknown",
    "mme_refusals_total invalid_request": "invalid",
    "mme_refusals_total stopping": "draining",
}


def test_each_number_is_where_it_belongs(descriptor: int, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(models_module.time, "monotonic_ns", lambda: int(now_s * 1e9))
    of_model = {field: 100 + at for at, field in enumerate(dict.fromkeys(OF_MODEL.values()))}
    of_server = {field: 200 + at for at, field in enumerate(OF_SERVER.values())}
    source = exporter(descriptor)
    writer.write("a", **of_model)
    writer.header(**of_server)
    source.scrape("")
    now_s += 10
    writer.write("a", **of_model, busy_ns=int(2.5e9) * of_model["workers"])
    text, _ = source.scrape("")
    found = {
        " ".join([sample.name, *(value for label, value in sample.labels.items() if label != "model")]): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
    }
    expected = {name: of_model[field] for name, field in OF_MODEL.items()}
    expected |= {name: of_server[field] for name, field in OF_SERVER.items()}
    assert {name: found[name] for name in expected} == expected
    assert found["mme_model_busy_share"] == pytest.approx(0.25)


def test_names_follow_the_conventions() -> None:
    families: list[Family[Any]] = [*MODEL_FAMILIES, *CONTAINER_FAMILIES]
    assert len(families) == len({family.name for family in families})
    for family in families:
        assert family.name.startswith("mme_")
        assert family.documentation.endswith(".")
        assert not family.name.endswith("_total")  # the client adds it to counters
        if "time" in family.documentation.lower() and family.kind == "histogram":
            assert family.name.endswith("_seconds")


def test_the_manual_lists_each_metric_with_its_labels() -> None:
    rows = {
        cells[1].strip(" `"): cells
        for line in MANUAL.read_text().splitlines()
        if line.startswith("| `mme_") and (cells := line.split("|"))
    }
    families: list[Family[Any]] = [*MODEL_FAMILIES, *CONTAINER_FAMILIES]
    assert rows.keys() == {f"{each.name}{'_total' * (each.kind == 'counter')}" for each in families}
    for family in families:
        cells = rows[f"{family.name}{'_total' * (family.kind == 'counter')}"]
        assert (cells[2].strip(), cells[3].strip(" `")) == (family.kind, family.label)
        assert all(f"`{part}`" in cells[4] for part in family.parts if part), family.name


def test_the_manual_asks_for_metrics_that_there_are() -> None:
    names = {f"{each.name}{suffix}" for each in MODEL_FAMILIES for suffix in ("", "_total", "_bucket")}
    names |= {each.name for each in CONTAINER_FAMILIES}
    asked = set(re.findall(r"mme_[a-z_]+", MANUAL.read_text().partition("in PromQL:")[2].partition("## ")[0]))
    assert asked and asked <= names


# ---- CloudWatch ----


def emf_lines(writer: EmfWriter) -> dict[str, dict[str, Any]]:
    found = [check_emf(line) for line in writer.lines()]
    return {entry.get("ModelName", "Container"): entry for entry in found}


def test_embedded_metrics_are_valid_and_say_what_was_added(descriptor: int, writer: Writer) -> None:
    source = exporter(descriptor, metrics_models=2)
    emf = EmfWriter(source.settings, source.read, is_first=True)
    counted = {"answers_2xx": 4, "answers_507": 1, "arrivals": 5, "loads": 1, "whole_ns": 10**9, "queue_ns": 5 * 10**8}
    writer.write("é", **counted)
    writer.write("idle")
    writer.write("third", answers_2xx=3, arrivals=3)
    found = emf_lines(emf)
    assert set(found) == {"Container", "\\xe9", OTHERS}  # CloudWatch takes ASCII alone
    first = found["\\xe9"]
    assert (first["Requests"], first["Errors5XX"], first["OutOfMemory"], first["ColdLoads"]) == (5, 1, 1, 1)
    assert (first["RequestTime"], first["QueueTime"]) == (200, 100)
    assert (found[OTHERS]["Requests"], found["Container"]["ModelsLoaded"]) == (3, 3)
    writer.write("é", **{**counted, "answers_2xx": 6, "arrivals": 7, "whole_ns": 10**9 + 10**7})
    found = emf_lines(emf)
    assert set(found) == {"Container", "\\xe9"}
    assert (found["\\xe9"]["Requests"], found["\\xe9"]["OutOfMemory"], found["\\xe9"]["RequestTime"]) == (2, 0, 5)
    assert set(emf_lines(emf)) == {"Container"}


def test_what_arrived_in_one_period_and_was_answered_in_the_next_is_in_a_line(descriptor: int, writer: Writer) -> None:
    source = exporter(descriptor)
    emf = EmfWriter(source.settings, source.read, is_first=True)
    writer.write("a", arrivals=1, waiting=1)
    assert emf_lines(emf)["a"]["Requests"] == 0
    writer.write("a", arrivals=1, answers_2xx=1)
    assert emf_lines(emf)["a"]["Requests"] == 1
    writer.write("a", arrivals=1, answers_2xx=1, busy_ns=10**9)
    assert set(emf_lines(emf)) == {"Container"}


def test_what_cannot_be_read_once_is_written_the_next_time(
    descriptor: int, writer: Writer, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = exporter(descriptor)
    failures = iter([OSError("/proc cannot be read")])

    def read() -> Any:
        for failure in failures:
            raise failure
        return source.read()

    emf = EmfWriter(source.settings, read, is_first=True)
    writer.write("a", arrivals=1, answers_2xx=1)
    emf.write()
    assert capsys.readouterr().out == ""
    assert "/proc cannot be read" in caplog.text
    emf.write()
    assert [check_emf(line).get("ModelName") for line in capsys.readouterr().out.splitlines()] == [None, "a"]


def test_a_writer_in_the_place_of_one_that_died_writes_nothing_once_more(descriptor: int, writer: Writer) -> None:
    writer.write("a", answers_2xx=5, arrivals=5, loads=1)
    writer.write("b", answers_2xx=2, arrivals=2, loads=1)
    writer.header(loads_ok=2)

    def start(*, is_first: bool) -> EmfWriter:
        source = exporter(descriptor, metrics_models=2)
        return EmfWriter(source.settings, source.read, is_first=is_first)

    found = emf_lines(start(is_first=True))
    assert (found["a"]["Requests"], found["b"]["Requests"], found["Container"]["Loads"]) == (5, 2, 2)
    emf = start(is_first=False)
    found = emf_lines(emf)
    assert set(found) == {"Container"}
    assert (found["Container"]["Loads"], found["Container"]["ModelsLoaded"]) == (0, 2)
    writer.write("a", answers_2xx=6, arrivals=6, loads=1)
    writer.write("later", answers_2xx=1, arrivals=1, loads=1)
    writer.header(loads_ok=3)
    found = emf_lines(emf)
    assert set(found) == {"Container", "a", OTHERS}
    assert (found["a"]["Requests"], found[OTHERS]["Requests"], found["Container"]["Loads"]) == (1, 1, 1)


def test_the_manual_lists_each_metric_of_cloudwatch(descriptor: int, writer: Writer) -> None:
    source = exporter(descriptor)
    writer.write("a", answers_2xx=1, arrivals=1)
    text = MANUAL.read_text().partition("## CloudWatch")[2]
    for entry in emf_lines(EmfWriter(source.settings, source.read, is_first=True)).values():
        for metric in entry["_aws"]["CloudWatchMetrics"][0]["Metrics"]:
            assert f"`{metric['Name']}`" in text
