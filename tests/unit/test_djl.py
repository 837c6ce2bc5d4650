"""Models for DJL Serving's Python engine, in process: what they are given, and what becomes of their answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mms.context import Context

import model_handler
from mme.errors import InsufficientMemory, ModelLoadError, ModelRefused
from mme.frameworks import registry
from mme.settings import Settings
from tests.harness import models
from tests.harness import requests as golden
from tests.harness.scripts import adder, djl, script, thousand_models

JSON = {"Content-Type": "application/json"}
IMPORTS = "from djl_python import Input, Output\n"


@pytest.fixture(autouse=True)
def own_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a program imports in a worker's process is forgotten with that; here it is after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("model", "inference"):
        sys.modules.pop(name, None)


def load(folder: Path) -> Context:
    context = golden.context_for(folder)
    assert model_handler.handle(None, context) is None
    return context


def ask(context: Context, body: bytes | str = b"1", **headers: str) -> tuple[int, str, bytes]:
    sent = {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return golden.call(model_handler.handle, context, (sent, body.encode() if isinstance(body, str) else body))[0]


def message_of(answer: tuple[int, str, bytes], status: int) -> str:
    assert answer[:2] == (status, "application/json"), answer
    error = json.loads(answer[2])
    assert set(error) == {"code", "type", "message"} and "Traceback" not in error["message"]
    return error["message"]


# ---- which models are DJL's ----


@pytest.mark.parametrize(
    ("properties", "program", "found"),
    [
        ("engine=Python", "model.py", ("djl",)),
        ("engine = python\n", "model.py", ("djl",)),
        ("engine=Python", "other.py", ()),
        ("engine=Python\noption.entryPoint=other.py", "other.py", ("djl",)),
        ("engine=Python\noption.entryPoint=djl_python.sklearn_handler", "other.py", ()),
        ("engine=Python\noption.entryPoint=djl_python.sklearn_handler", "model.py", ("djl",)),
        ("engine=Python\noption.entryPoint=djl_python.huggingface", "other.py", ("djl",)),
        ("engine=PyTorch", "model.py", ()),
        ("", "model.py", ()),
    ],
)
def test_a_model_is_recognised_by_its_properties(
    tmp_path: Path, properties: str, program: str, found: tuple[str, ...]
) -> None:
    djl(tmp_path, "def handle(inputs): pass", properties=properties, program=program)
    assert registry.frameworks_of(tmp_path, Settings()) == found


def test_a_model_is_forked_from_the_template_of_scripts_or_of_the_files_beside_it(tmp_path: Path) -> None:
    assert registry.framework_of(djl(tmp_path, ""), Settings()) == "script"
    (tmp_path / "net-symbol.json").touch()
    assert registry.framework_of(tmp_path, Settings()) == "mxnet"
    assert "djl" not in registry.frameworks_to_preload(Settings())


def test_two_programs_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"2 kinds of model: script: .*; djl: .*\. Keep those of one\."):
        load(djl(adder(tmp_path), "def handle(inputs): pass"))


# ---- load ----


def test_the_calls_of_awss_sample_of_a_thousand_models_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(thousand_models(tmp_path, 2.5))  # a worker's working folder
    context = load(tmp_path)
    status, content_type, body = ask(context, "[[0.5]]")
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == pytest.approx(1.25)
    assert "Found array with 0 feature" in ask(context, "[[]]")[2].decode()
    assert ask(context, "[[]]")[0] == 424


SEEN = (
    IMPORTS
    + """
import os
seen = []
def handle(inputs: Input) -> Output:
    seen.append([inputs.is_empty(), inputs.get_properties(), dict(zip(
        inputs.get_content().get_keys(), [bytes(each).decode() for each in inputs.get_content().get_values()]))])
    return Output().add_as_json(seen)
"""
)


def test_a_load_is_one_call_with_nothing_in_it(tmp_path: Path) -> None:
    folder = djl(tmp_path, SEEN, properties="engine=Python\nminWorkers=1\noption.dtype=fp16\noption.a.b=c\n")
    (first, _) = json.loads(ask(load(folder))[2])
    assert first == [True, {"dtype": "fp16", "a.b": "c", "model_dir": str(folder), "device_id": "-1"}, {}]


def test_a_request_has_headers_attributes_and_content(tmp_path: Path) -> None:
    context = load(djl(tmp_path, SEEN))
    status, content_type, body = ask(context, "hello", X_Amzn_SageMaker_Custom_Attributes="city = Bern;x=1=2;y")
    assert (status, content_type) == (200, "application/json")
    _, (is_empty, properties, content) = json.loads(body)
    assert not is_empty and content == {"data": "hello"}
    where = {"model_dir": str(tmp_path), "device_id": "-1"}
    assert properties == {"Content-Type": "application/json", "city": "Bern", "x": "1=2", **where}


def test_parts_of_a_form_are_content_by_name(tmp_path: Path) -> None:
    context = load(djl(tmp_path, SEEN))
    body = b'--x\r\nContent-Disposition: form-data; name="one"\r\n\r\n1\r\n--x--\r\n'
    answer = ask(context, body, Content_Type="multipart/form-data; boundary=x")
    assert json.loads(answer[2])[1][2] == {"one": "1"}


def test_a_request_without_a_body_is_no_load(tmp_path: Path) -> None:
    assert json.loads(ask(load(djl(tmp_path, SEEN)), b"")[2])[1][::2] == [False, {"data": ""}]


@pytest.mark.parametrize(
    ("source", "properties", "message"),
    [
        ("", "", r"model.py defines no function handle\(inputs\), nor one that is marked by @init_handler"),
        ("def handle(inputs): pass", "option.handler=other", r"defines no function other\(inputs\)"),
        ("raise ValueError('at import')", "", "model.py cannot be imported: ValueError: at import"),
        ("def handle(inputs): raise ValueError('no file')", "", "model.py could not load the model: ValueError: no fi"),
        ("def handle(inputs): exit(5)", "", r"could not load the model: it ended the program \(SystemExit: 5\)"),
        (IMPORTS + "def handle(inputs): return Output().error('no gpu')", "", "load the model: 424 invoke.*no gpu"),
        ("", "option.entryPoint=none.py", "properties, line 2: option.entryPoint=none.py is no file in the"),
        ("", "option.entryPoint=../model.py", "option.entryPoint=../model.py is no file in the model's folder"),
        (
            "",
            "option.entryPoint=djl_python.huggingface",
            "line 2: .*huggingface is one of DJL Serving's own programs.*not part of this",
        ),
    ],
)
def test_a_model_that_cannot_serve_fails_its_load(tmp_path: Path, source: str, properties: str, message: str) -> None:
    (tmp_path / "model.py").touch()
    with pytest.raises(ModelLoadError, match=message):
        load(djl(tmp_path / "m", source, properties=f"engine=Python\n{properties}\n"))


@pytest.mark.parametrize("source", ["raise MemoryError", "return Output(507, 'too large')"])
def test_a_model_that_finds_no_memory_fails_its_load_with_507(tmp_path: Path, source: str) -> None:
    with pytest.raises(InsufficientMemory):
        load(djl(tmp_path, f"{IMPORTS}def handle(inputs): {source}"))


def test_another_file_and_another_function_may_be_named(tmp_path: Path) -> None:
    folder = djl(
        tmp_path,
        "from djl_python.outputs import Output\nimport helper\ndef ask(inputs): return Output().add(helper.NAME)",
        properties="engine=Python\noption.entryPoint=serving.py\noption.handler=ask",
        program="serving.py",
    )
    (folder / "helper.py").write_text("NAME = 'helped'")
    assert ask(load(folder))[2] == b"helped"


@pytest.mark.parametrize("program", ["model.py", "inference.py"])
def test_a_module_called_as_scripts_are_is_no_second_program(tmp_path: Path, program: str) -> None:
    (tmp_path / "inference.py").write_text("NAME = 'helped'")
    source = IMPORTS + "import inference\ndef handle(inputs): return Output().add(inference.NAME)\nNAME = 'itself'"
    djl(tmp_path, source, properties=f"engine=Python\noption.entryPoint={program}\n", program=program)
    assert registry.frameworks_of(tmp_path, Settings()) == ("djl",)
    assert ask(load(tmp_path))[2] == (b"helped" if program == "model.py" else b"itself")


def test_a_script_in_its_folder_beside_a_program_of_djls_is_a_second_one(tmp_path: Path) -> None:
    djl(tmp_path, "def handle(inputs): pass")
    script(tmp_path, "def predict_fn(data, model): return 1")
    assert registry.frameworks_of(tmp_path, Settings()) == ("script", "djl")


def test_a_model_is_refused_where_models_are_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MME_MODEL_CODE", "refuse")
    with pytest.raises(ModelRefused, match=r"model.py.*MME_MODEL_CODE=refuse"):
        load(djl(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')"))
    assert not (tmp_path / "ran").exists()


# ---- answers ----


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("None", (204, None, b"")),
        ("Output()", (200, None, b"")),
        ("Output().add('text')", (200, None, b"text")),
        ("Output().add([1])", (200, "application/json", b"[1]")),
        ("Output().add(b'first').add(b'second', key='data')", (200, None, b"second")),
        ("Output().add('a,b').add_property('Content-Type', 'text/csv')", (200, "text/csv", b"a,b")),
        ("Output(201, 'Made').add('x').add_property('content-type', 'text/x')", (201, "text/x", b"x")),
        ("Output().add_stream_content(iter(['a', 'b']), str.upper)", (200, None, b"AB")),
        ("Output().add_stream_content(iter([1]))", (200, None, b'{"outputs": 1}\n')),
    ],
)
def test_an_output_is_the_answer(tmp_path: Path, output: str, answer: tuple[int, str | None, bytes]) -> None:
    context = load(djl(tmp_path, f"{IMPORTS}def handle(inputs): return None if inputs.is_empty() else {output}"))
    assert ask(context) == answer


def test_properties_are_headers_that_forge_nothing(tmp_path: Path) -> None:
    made = "Output(299, 'a\\r\\nb').add_property('X-Mine', 'a\\r\\nX-Forged: é').add_property('Content-Length', 1)"
    made += ".add_property('X Bad:', 1).add_property('X-Number', 3)"
    context = load(djl(tmp_path, f"{IMPORTS}def handle(inputs): return None if inputs.is_empty() else {made}"))
    assert ask(context)[0] == 299
    assert context.get_response_status(0)[1] == "a b"
    assert context.get_response_headers(0) == {"X-Mine": "a X-Forged: ?", "X-Number": "3"}


def test_an_error_of_the_model_is_its_answer(tmp_path: Path) -> None:
    source = "def handle(inputs): return None if inputs.is_empty() else Output().error('no such city', 400)"
    status, content_type, body = ask(load(djl(tmp_path, IMPORTS + source)))
    assert (status, content_type) == (400, "application/json")
    assert json.loads(body) == {"code": 400, "message": "invoke handler failure", "error": "no such city"}


@pytest.mark.parametrize(
    ("statement", "status", "message"),
    [
        ("raise ValueError('wrong')", 500, "model.py failed: ValueError: wrong"),
        ("exit(2)", 500, "model.py failed: it ended the program (SystemExit: 2)"),
        ("raise MemoryError", 507, "Not enough memory"),
        ("return 'text'", 500, "model.py returned a str, not an Output"),
        ("return Output(code=7)", 500, "status 7"),
        ("return Output(code='x')", 500, "status 'x'"),
        ("return Output().add_as_json({1: object()})", 500, "TypeError"),
        ("return Output().add_stream_content(iter(lambda: 1 / 0, 2))", 500, "stream failed: ZeroDivisionError"),
    ],
)
def test_what_goes_wrong_is_said_to_the_caller(tmp_path: Path, statement: str, status: int, message: str) -> None:
    context = load(djl(tmp_path, f"{IMPORTS}def handle(inputs):\n  if not inputs.is_empty(): {statement}"))
    for _ in range(2):
        assert message in message_of(ask(context), status)


def test_what_is_to_be_done_at_last_is_done(tmp_path: Path) -> None:
    source = f"""
        import pathlib
        from djl_python import Output
        def fail(): raise ValueError
        def handle(inputs):
            if inputs.get_property("fail"): return Output().finalize(fail)
            return Output().finalize(pathlib.Path({str(tmp_path / "done")!r}).write_text, "done")
        """
    context = load(djl(tmp_path / "m", source))
    assert ask(context)[0] == 200
    assert (tmp_path / "done").read_text() == "done"
    assert ask(context, fail="yes")[0] == 200


# ---- batches ----


def test_a_batch_is_one_call_where_the_program_answers_batches(tmp_path: Path) -> None:
    source = """
        from djl_python import Output
        calls = 0
        def handle(inputs):
            global calls
            if inputs.is_empty(): return None
            calls += 1
            output = Output().add_property("X-Calls", calls)
            for index, each in enumerate(inputs.get_batches()):
                number = each.get_as_json() + int(each.get_property("X-Add") or 0)
                output.add_as_json(number, key="data", batch_index=index if inputs.is_batch() else None)
            return output
        """
    context = load(djl(tmp_path, source))
    sent = [({**JSON, "X-Add": str(10 * number)}, str(number).encode()) for number in range(12)]
    answers = golden.call(model_handler.handle, context, *sent)
    assert answers == [(200, "application/json", str(11 * number).encode()) for number in range(12)]
    assert context.get_response_headers(11)["X-Calls"] == "1"


def test_a_batch_is_asked_one_by_one_where_the_program_knows_none(tmp_path: Path) -> None:
    source = """
        from djl_python import Output
        def handle(inputs):
            return None if inputs.is_empty() else Output().add_as_json(1 / inputs.get_as_json())
        """
    answers = golden.call(model_handler.handle, load(djl(tmp_path, source)), (JSON, b"1"), (JSON, b"0"), (JSON, b"2"))
    assert [status for status, *_ in answers] == [200, 500, 200]
    assert (answers[0][2], answers[2][2]) == (b"1.0", b"0.5")


# ---- decorators ----


def test_marked_functions_are_a_model(tmp_path: Path) -> None:
    source = """
        from djl_python.input_parser import init_handler, input_formatter, prediction_handler
        from djl_python.output_formatter import output_formatter

        @init_handler
        def load(model_dir, **more): return 10
        @input_formatter
        def read(inputs, **more): return inputs.get_as_json()["features"]
        @prediction_handler
        def predict(data, model, **more): return [model * each for each in data]
        @output_formatter
        def write(predictions): return {"made": predictions}
        """
    context = load(djl(tmp_path, source))
    assert ask(context, '{"features": [1, 2]}') == (200, "application/json", b'{"made": [10, 20]}')
    assert "KeyError" in message_of(ask(context, "{}"), 500)


def test_what_is_not_marked_is_left_to_the_files_beside_it(tmp_path: Path) -> None:
    source = """
        from djl_python.output_formatter import output_formatter
        @output_formatter
        def write(predictions): return {"made": predictions.tolist()}
        """
    models.multiplier(djl(tmp_path, source, properties="engine=Python\noption.entryPoint=djl_python.sklearn_handler"))
    assert json.loads(ask(load(tmp_path), "[[1, 2, 3, 4]]")[2]) == {"made": [[2.0, 4.0, 6.0, 8.0]]}


def test_marked_functions_without_a_model_fail_the_load(tmp_path: Path) -> None:
    source = "from djl_python.output_formatter import output_formatter\n@output_formatter\ndef w(p): pass"
    with pytest.raises(ModelLoadError, match="has no @prediction_handler, nor a model"):
        load(djl(tmp_path, source))
