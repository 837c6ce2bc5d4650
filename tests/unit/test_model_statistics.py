"""The memory that the front end shares with its supervisor: one layout on both sides, and what becomes of records."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mme.front_end import SOURCES, WORKING_FOLDER
from mme.supervisor import model_statistics
from mme.supervisor.model_statistics import LIMITS_S, MOST_RECORDS, ModelStatistics, make_statistics, offer
from tests.harness.java import compile_java, java_command

# What the command line says: +NAME is loaded and has answered a request, -NAME is unloaded.
PROGRAM = """
package mme;

final class Names {
    public static void main(String[] names) throws java.io.IOException {
        ModelStatistics statistics = ModelStatistics.open();
        for (String name : names) {
            ModelRecord record = statistics.of(name.substring(1));
            if (name.charAt(0) == '+') {
                record.set(8, 1); // as isRegistered does, which needs a model
                record.onArrival(System.nanoTime());
                record.onAnswered(200, 0, 1_000_000, 3_000_000);
            } else {
                record.isUnregistered(true);
            }
        }
    }
}
"""


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    compile_java(folder, Names=PROGRAM)
    return folder


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = make_statistics(most_records=3)  # two names, and all others
    yield made
    os.close(made)


def front_end(classes: Path, descriptor: int, *names: str) -> subprocess.CompletedProcess[str]:
    """What the front end does, one folder below its server's private one."""
    offer(descriptor, classes)
    folder = classes / WORKING_FOLDER
    folder.mkdir(exist_ok=True)
    command = java_command(classes, "Names", *names)
    return subprocess.run(command, cwd=folder, pass_fds=[descriptor], capture_output=True, text=True, check=False)


def constants(source: str) -> dict[str, int]:
    """The whole numbers that a Java source names."""
    found = re.findall(r"static final (?:int|long) (\w+) =\s*([\w .+*]+);", (SOURCES / "mme" / source).read_text())
    values: dict[str, int] = {}
    for name, expression in found:
        expression = expression.replace("ModelStatistics.BUCKETS", str(model_statistics.BUCKETS))
        if all(part in values or part.isdecimal() for part in re.findall(r"\w+", expression)):
            values[name] = eval(expression, {}, values)
    return values


def test_both_sides_have_the_same_layout() -> None:
    java, at = constants("ModelRecord.java"), model_statistics._NUMBERS.index
    names = {
        "name_bytes": "NAME_LENGTH",
        "target_bytes": "TARGET_LENGTH",
        "registered_ns": "REGISTERED",
        "last_arrival_ns": "LAST_ARRIVAL",
        "last_answer_ns": "LAST_ANSWER",
        "busy_ns": "BUSY",
        **{f"{each}_ns": f"{each.upper()}_TIME" for each in ("queue", "handler", "whole")},
    }
    for field in model_statistics._NUMBERS:
        assert java[names.get(field, field.upper())] == 8 * at(field), field
    buckets = [8 * (len(model_statistics._NUMBERS) + each * model_statistics.BUCKETS) for each in range(4)]
    assert [java[f"{each}_BUCKETS"] for each in ("QUEUE", "HANDLER", "WHOLE")] + [java["COUNTERS_END"]] == buckets
    assert (java["NAME"], java["TARGET"]) == (model_statistics._NAME, model_statistics._TARGET)
    header = constants("ModelStatistics.java")
    for field in ("used_records", "changes", "waiting", "under_way", "arrivals"):
        assert header[field.upper()] == 8 * model_statistics._HEADER.index(field)
    assert header["BUCKETS"] == model_statistics.BUCKETS == len(LIMITS_S) + 1


def test_both_sides_have_the_same_limits() -> None:
    source = (SOURCES / "mme" / "ModelRecord.java").read_text()
    found = re.search(r"inNanoseconds\(([\d., _]+)\);", source)
    assert found
    assert [float(each) / 1000 for each in found[1].replace("_", "").split(",")] == list(LIMITS_S)


def test_memory_of_another_layout_is_refused(classes: Path, descriptor: int) -> None:
    os.pwrite(descriptor, b"\7", 0)
    answer = front_end(classes, descriptor, "+a")
    assert answer.returncode != 0
    assert "not of one version" in answer.stderr


def test_a_loaded_model_is_found_with_what_was_counted(classes: Path, descriptor: int) -> None:
    statistics = ModelStatistics(descriptor)
    assert (len(statistics), list(statistics.samples())) == (0, [])
    assert front_end(classes, descriptor, "+a", "+a", "+é").returncode == 0
    first, second = statistics.samples()
    assert (first.number, first.name, first.generation, first.answers_2xx) == (1, "a", 1, 2)
    assert (second.number, second.name, second.generation, second.answers_2xx) == (2, "é", 1, 1)
    assert (first.queue_ns, first.handler_ns, first.whole_ns) == (2_000_000, 4_000_000, 6_000_000)
    assert first.queue_buckets == (0, 2) + 14 * (0,)
    assert first.handler_buckets == (0, 0, 2) + 13 * (0,)
    assert first.whole_buckets == (0, 0, 0, 2) + 12 * (0,)
    assert statistics.column("answers_2xx") == [0, 2, 1]
    assert [statistics.bucket_column(each) for each in (1, 18)] == [[0, 2, 1], [0, 2, 1]]
    assert statistics.arrivals == 3


def test_only_the_record_of_an_unloaded_model_is_given_to_another_one(classes: Path, descriptor: int) -> None:
    statistics = ModelStatistics(descriptor)
    assert front_end(classes, descriptor, "+a", "+b", "-a", "+c", "+c").returncode == 0
    b, c = sorted(statistics.samples(), key=lambda sample: sample.name)
    assert (b.name, b.number, b.generation) == ("b", 2, 1)
    assert (c.name, c.number, c.generation, c.answers_2xx, c.unloads) == ("c", 1, 2, 2, 0)
    others = statistics.sample(0)
    assert (others.answers_2xx, others.unloads, sum(others.whole_buckets)) == (1, 1, 1)
    assert sum(statistics.column("answers_2xx")) == statistics.arrivals == 4


def test_the_least_recently_used_of_unloaded_models_loses_its_record(classes: Path, descriptor: int) -> None:
    assert front_end(classes, descriptor, "+a", "+b", "+a", "-a", "-b", "+c").returncode == 0
    assert {sample.name for sample in ModelStatistics(descriptor).samples()} == {"c"}
    assert ModelStatistics(descriptor).sample(1).name == "a"


def test_a_front_end_that_is_started_anew_begins_with_nothing(classes: Path, descriptor: int) -> None:
    statistics = ModelStatistics(descriptor)
    for _ in range(2):
        assert front_end(classes, descriptor, "+a", "+b", "+c").returncode == 0
    assert statistics.column("answers_2xx") == [1, 1, 1]
    assert [sample.name for sample in statistics.samples()] == ["a", "b"]
    assert statistics.arrivals == 3


def test_models_without_a_record_are_counted_together(classes: Path, descriptor: int) -> None:
    statistics = ModelStatistics(descriptor)
    assert front_end(classes, descriptor, "+a", "+b", "+c", "+d").returncode == 0
    assert statistics.column("answers_2xx") == [2, 1, 1]
    assert {sample.name for sample in statistics.samples()} == {"a", "b"}


def test_memory_that_no_model_has_used_is_not_taken() -> None:
    descriptor = make_statistics()
    try:
        statistics = ModelStatistics(descriptor)
        assert len(statistics.column("waiting")) == 0
        assert os.fstat(descriptor).st_size > 4096 * MOST_RECORDS
        assert os.fstat(descriptor).st_blocks * 512 <= 8192
        with pytest.raises(PermissionError):
            os.truncate(descriptor, 0)
    finally:
        os.close(descriptor)
