"""serving.properties: what its names mean, and what is refused."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from mme.errors import ModelLoadError
from mme.frameworks import serving
from mme.frameworks.serving import ServingProperties
from mme.handler import wake_up
from mme.settings import Settings
from mme.zygote import protocol
from mme.zygote.session import LoadedModel
from tests.harness import onnx_models, scripts, tables

ROOT = Path(__file__).resolve().parents[2]
JAVA = ROOT / "container" / "mme" / "front_end" / "src" / "mme" / "ServingProperties.java"
EVERY_NAME = """\
engine=Python
option.entryPoint=serve.py
option.model_format=joblib
minWorkers=1
maxWorkers=4
batch_size=8
max_batch_delay=50
max_idle_time=60
job_queue_size=1000
required_memory_mb=300
option.predict_timeout=120
option.model_loading_timeout=240
"""


def of(folder: Path, text: str) -> ServingProperties:
    (folder / "serving.properties").write_text(text)
    return ServingProperties.of(folder)


def test_each_of_djls_names_is_read(tmp_path: Path) -> None:
    assert of(tmp_path, EVERY_NAME) == ServingProperties(
        *("Python", "serve.py", 1, 4, 8, 50, 60, 1000, 300, 120, 240), others=("option.model_format",)
    )


def test_without_a_file_all_is_left_to_the_settings(tmp_path: Path) -> None:
    assert ServingProperties.of(tmp_path) == ServingProperties()


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("minWorkers=-1", "0 to 1024"),
        ("maxWorkers=0", "1 to 1024"),
        ("batch_size=1.5", "1 to 1024"),
        ("max_batch_delay=100ms", "in ms, as a whole number from 0 to 3600000"),
        ("max_idle_time=", "in s, as a whole number from 0"),
        ("job_queue_size=many", "1 to 1000000"),
        ("required_memory_mb=2G", "in MiB"),
        ("option.predict_timeout=0", "in s, as a whole number from 1 to 86400"),
        ("option.model_loading_timeout=86401", "1 to 86400"),
    ],
)
def test_a_bad_value_is_refused_with_its_line_its_key_and_what_is_allowed(
    tmp_path: Path, line: str, allowed: str
) -> None:
    with pytest.raises(ModelLoadError, match=rf"serving\.properties, line 4: {re.escape(line)} is not .*{allowed}"):
        of(tmp_path, f"# first\nengine=Python\\\n  3\n{line}\noption.other=1\n")


def test_fewer_workers_at_most_than_at_least_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"line 2: minWorkers=3 .* no more than maxWorkers, which is 2"):
        of(tmp_path, "maxWorkers=2\nminWorkers=3\n")


def test_the_last_of_several_counts(tmp_path: Path) -> None:
    assert of(tmp_path, "batch_size=many\nbatch_size=2\n").batch_size == 2


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("handler", "program", "unread"),
    [
        ("model_handler", None, "translatorFactory, option.model_format"),
        ("model_handler:handle", "code/inference.py", "translatorFactory"),
        ("service:handle", None, "translatorFactory"),  # of a manifest, or SAGEMAKER_HANDLER
    ],
)
def test_what_nobody_reads_is_one_warning_whoever_serves_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, handler: str, program: str | None, unread: str
) -> None:
    tables.sklearn_model(tmp_path)
    if program:
        scripts.script(tmp_path, "", program=program)
    of(tmp_path, "engine=sklearn\ntranslatorFactory=a.B\noption.model_format=joblib\noption.predict_method=predict\n")
    assert serving.check(tmp_path, handler, Settings()).engine == "sklearn"
    assert warnings_of(caplog) == [f"{tmp_path}/serving.properties: nothing here reads {unread}."]


def test_a_further_worker_does_not_say_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_models.onnx_linear(tmp_path)
    of(tmp_path, "translatorFactory=a.B\n")
    monkeypatch.setattr(wake_up, "request_waits", False)  # and put back
    for joins in (False, True):
        LoadedModel(joins=joins).load(protocol.Load("m", str(tmp_path), 1, "model_handler:handle", None, ""))
    assert len([said for said in warnings_of(caplog) if "translatorFactory" in said]) == 1


def test_the_engine_of_another_framework_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tables.sklearn_model(tmp_path)
    of(tmp_path, "engine=OnnxRuntime\n")
    serving.check(tmp_path, "model_handler", Settings())
    (said,) = warnings_of(caplog)
    assert said.endswith("engine=OnnxRuntime is not heeded: by its files the model is one of sklearn.")


def test_options_of_a_program_are_its_own(tmp_path: Path) -> None:
    found = of(tmp_path, "option.currency=USD\ncurrency=USD\n")
    assert found.without_meaning((), runs_code=True) == ["currency"]
    assert found.without_meaning(("option.currency",), runs_code=False) == ["currency"]


def test_the_front_end_reads_names_and_ranges_alike(tmp_path: Path) -> None:
    """Where it took a value that the load refuses, or the other way round, a model would be half of what it says."""
    source = JAVA.read_text().replace("LONGEST_TIMEOUT_S", "86400")
    read = re.findall(r'number\("([\w.]+)", (\d+), ([\d_]+), ', source)
    assert len(read) == 5
    for name, lowest, highest in read:
        least, most = int(lowest), int(highest.replace("_", ""))
        for value in (least, most):
            of(tmp_path, f"{name}={value}")
        for value in (least - 1, most + 1):
            with pytest.raises(ModelLoadError, match=name):
                of(tmp_path, f"{name}={value}")
