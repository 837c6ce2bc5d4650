"""Models that are scripts of the Inference Toolkit, in process: their functions, formats, errors and modules."""

from __future__ import annotations

import inspect
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from mms.context import Context

import model_handler
from mme.errors import InsufficientMemory, ModelLoadError, ModelRefused
from mme.frameworks import registry
from mme.frameworks.script.functions import Functions
from mme.settings import Settings
from tests.harness import models, tables
from tests.harness import requests as golden
from tests.harness.loaded_model import LoadedModel
from tests.harness.scripts import adder, script

JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv"}


@pytest.fixture(autouse=True)
def own_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a script imports in a worker's process is forgotten with that; here it is after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in [name for name in sys.modules if name not in before]:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if "pytest" in file:
            del sys.modules[name]


def load(folder: Path) -> Context:
    context = golden.context_for(folder)
    assert model_handler.handle(None, context) is None
    return context


def ask(context: Context, body: bytes | str, **headers: str) -> tuple[int, str, bytes]:
    sent = {name.replace("_", "-"): value for name, value in {"Content_Type": JSON["Content-Type"], **headers}.items()}
    body = body.encode() if isinstance(body, str) else body
    return golden.call(model_handler.handle, context, (sent, body))[0]


def message_of(answer: tuple[int, str, bytes], status: int) -> str:
    """The message of an error, which is one line of JSON without a stack trace."""
    assert answer[:2] == (status, "application/json"), answer
    error = json.loads(answer[2])
    assert error["code"] == status and set(error) == {"code", "type", "message"}
    assert "Traceback" not in error["message"] and "\n" not in error["message"]
    return error["message"]


# ---- which models are scripts ----


@pytest.mark.parametrize(
    ("program", "setting", "is_script"),
    [
        ("code/inference.py", None, True),
        ("inference.py", None, True),
        ("code/serve.py", None, False),
        ("code/serve.py", "serve.py", True),
        ("code/serve.py", "serve", True),
        ("serve.py", "serve.py", True),
        ("code/serving/serve.py", "serving/serve.py", True),
        ("code/inference.py", "serve.py", True),
        ("other/inference.py", None, False),
    ],
)
def test_a_script_is_recognised(tmp_path: Path, program: str, setting: str | None, is_script: bool) -> None:
    script(tmp_path, "def predict_fn(data, model): return data", program=program)
    settings = Settings.from_environment({"SAGEMAKER_PROGRAM": setting} if setting else {})
    assert registry.frameworks_of(tmp_path, settings) == (("script",) if is_script else ())


def test_a_script_wins_over_files_of_data_and_is_forked_from_their_template(tmp_path: Path) -> None:
    adder(tmp_path)
    (tmp_path / "net-symbol.json").touch()
    assert registry.adapter_for(tmp_path, Settings()).name == "script"
    assert registry.framework_of(tmp_path, Settings()) == "mxnet"


def test_the_program_that_is_named_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "def predict_fn(data, model): return 'named'", program="code/serving/serve.py", helper="")
    script(tmp_path, "def predict_fn(data, model): return 'default'")
    monkeypatch.setenv("SAGEMAKER_PROGRAM", "serving/serve.py")
    assert ask(load(tmp_path), "1")[2] == b'"named"'


# ---- functions ----


def test_each_function_is_given_what_the_toolkit_gives_it(tmp_path: Path) -> None:
    folder = script(
        tmp_path,
        """
        seen = []
        def pre_model_fn(*a): seen.append(a)
        def model_fn(model_dir): seen.append((model_dir,)); return "model"
        def model_warmup_fn(model_dir, model): seen.append((model_dir, model))
        def input_fn(body, content_type): return [body, content_type]
        def predict_fn(data, model): return [*data, model]
        def output_fn(prediction, accept): return repr([*seen, prediction, accept]), "text/x-seen"
        """,
    )
    status, content_type, body = ask(load(folder), "1,2", Content_Type="text/csv", Accept="text/html")
    where = str(folder)
    assert (status, content_type) == (200, "text/x-seen")
    assert eval(body) == [(where,), (where,), (where, "model"), ["1,2", "text/csv", "model"], "text/html"]


def test_transform_fn_does_all(tmp_path: Path) -> None:
    folder = script(
        tmp_path,
        """
        def model_fn(model_dir): return 3
        def transform_fn(model, body, content_type, accept):
            return f"{model} {bytes(body)} {content_type} {accept}"
        """,
    )
    answer = ask(load(folder), b"\xff\x00", Content_Type="application/x-mine", Accept="text/plain")
    assert answer == (200, "text/plain", b"3 b'\\xff\\x00' application/x-mine text/plain")


def test_every_function_may_take_the_context(tmp_path: Path) -> None:
    folder = script(
        tmp_path,
        """
        def name(context): return context.model_name
        def model_fn(model_dir, context): return [name(context)]
        def input_fn(body, content_type, context): return [name(context)]
        def predict_fn(data, model, context=None): return [*data, *model, name(context)]
        def output_fn(prediction, accept, context):
            context.set_response_header(0, "X-Mine", context.get_request_header(0, "X-Yours"))
            return ",".join([*prediction, name(context)])
        """,
    )
    context = load(folder)
    assert ask(context, "1", X_Yours="hello")[2] == b"model,model,model,model"
    assert context.get_response_headers(0)["X-Mine"] == "hello"


@pytest.mark.parametrize(
    ("source", "takes_context"),
    [
        ("def predict_fn(data, model): pass", False),
        ("def predict_fn(data, model, context): pass", True),
        ("def predict_fn(data, model, extra=None): pass", True),
        ("def predict_fn(data, model, *, flag=True): pass", False),
        ("def predict_fn(data, model, one=1, two=2): pass", False),
        ("def predict_fn(*everything): pass", False),
        ("def predict_fn(data, model, **more): pass", False),
        ("from operator import pow as predict_fn", False),
    ],
)
def test_who_takes_the_context_is_told_by_the_parameters(tmp_path: Path, source: str, takes_context: bool) -> None:
    module = type(sys)("a_script")
    exec(source, vars(module))
    predict = Functions(module, "inference.py").predict
    assert predict is not None and predict.takes_context is takes_context


def test_the_rule_of_the_context_is_the_toolkits(tmp_path: Path) -> None:
    from sagemaker_inference.transformer import Transformer

    transformer = Transformer()
    transformer._context = "context"
    for source in ("def f(a, b): return ()", "def f(a, b, c): return (c,)", "def f(a, b, c=1): return (c,)"):
        module = type(sys)("a_script")
        exec(source, vars(module))
        module.predict_fn = module.f  # type: ignore[attr-defined]
        predict = Functions(module, "inference.py").predict
        assert predict is not None
        assert predict("context", 1, 2) == transformer._run_handler_function(module.f, 1, 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "code/inference.py defines none of .*model_fn, .*transform_fn"),
        (
            "def transform_fn(a, b, c, d): pass\ndef output_fn(a, b): pass",
            "code/inference.py defines transform_fn and output_fn",
        ),
        (
            "def predict_fn(data): pass",
            r"predict_fn\(data\) of code/inference.py takes 1 arguments; it is given 2, or 3",
        ),
        ("predict_fn = 3", "predict_fn of code/inference.py is a int, not a function"),
        ("def model_fn(model_dir): return 1", "neither predict_fn nor transform_fn.*model_fn returns a int"),
        ("def input_fn(a, b): pass", "no model_fn, and there are no files of a model beside it"),
        ("import no_such_module", "inference.py cannot be imported: ModuleNotFoundError: .*no_such_module"),
        ("def broken(:", "code/inference.py cannot be imported: SyntaxError: "),
        ("raise RuntimeError('at import')", "cannot be imported: RuntimeError: at import"),
        ("import sys; sys.exit(3)", r"cannot be imported: it ended the program \(SystemExit: 3\)"),
        ("raise KeyboardInterrupt", "cannot be imported: KeyboardInterrupt"),
        ("def model_fn(d): raise ValueError('no model')", "model_fn of code/inference.py failed: ValueError: no model"),
        ("def model_fn(d): exit(1)", r"model_fn of code/inference.py failed: it ended the program \(SystemExit: 1\)"),
        ("def model_fn(d): open('/no/such/file')", "model_fn of code/inference.py failed: FileNotFoundError"),
        ("def pre_model_fn(d): 1/0\ndef predict_fn(a, b): pass", "pre_model_fn of code/inference.py failed: ZeroDiv"),
        ("def model_warmup_fn(d, m): 1/0\ndef predict_fn(a, b): pass", "model_warmup_fn of code/inference.py failed"),
    ],
)
def test_a_script_that_cannot_serve_fails_its_load(
    tmp_path: Path, source: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load(script(tmp_path, source))


def test_the_stack_trace_of_a_script_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelLoadError):
        load(script(tmp_path, "def model_fn(d):\n    raise ValueError('no model')"))
    assert 'inference.py", line 2, in model_fn' in caplog.text


@pytest.mark.parametrize("where", ["import", "model_fn"])
def test_a_script_that_finds_no_memory_fails_its_load_with_507(tmp_path: Path, where: str) -> None:
    source = "raise MemoryError" if where == "import" else "def model_fn(d): raise RuntimeError('std::bad_alloc')"
    with pytest.raises(InsufficientMemory):
        load(script(tmp_path, source))


# ---- what a script leaves to us ----


def test_the_toolkit_decodes_and_encodes(tmp_path: Path) -> None:
    context = load(adder(tmp_path))
    array = io.BytesIO()
    np.save(array, np.array([[1.0, 2.0]]))
    assert ask(context, "[[1, 2]]") == (200, "application/json", b"[[2.0, 3.0]]")
    assert ask(context, "1,2\n3,4\n", Content_Type="text/csv", Accept="text/csv") == (
        200, "text/csv", b"2.0,3.0\n4.0,5.0\n"
    )  # fmt: skip
    status, content_type, body = ask(
        context, array.getvalue(), Content_Type="application/x-npy", Accept="application/x-npy"
    )
    assert (status, content_type) == (200, "application/x-npy")
    assert np.load(io.BytesIO(body)).tolist() == [[2, 3]]


def test_a_sparse_matrix_is_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    scipy.sparse.save_npz(file, scipy.sparse.csr_matrix([[0, 5], [0, 0]]))
    folder = script(tmp_path, "def predict_fn(data, model): return data.toarray()")
    answer = ask(load(folder), file.getvalue(), Content_Type="application/x-npz")
    assert answer == (200, "application/json", b"[[0, 5], [0, 0]]")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/csv;q=0.9", "text/csv"),
        ("image/png, text/csv", "text/csv"),
        ("image/png, */*", "application/json"),
        ("Application/JSON", "application/json"),
    ],
)
def test_the_first_type_of_accept_that_can_be_written_is(tmp_path: Path, accept: str, content_type: str) -> None:
    assert ask(load(adder(tmp_path)), "[[1]]", Accept=accept)[:2] == (200, content_type)


def test_parameters_of_a_content_type_do_not_matter(tmp_path: Path) -> None:
    assert ask(load(adder(tmp_path)), "[1]", Content_Type="Application/JSON; charset=utf-8")[2] == b"[2.0]"


def test_the_default_accept_is_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
    assert ask(load(adder(tmp_path)), "[[1]]")[:2] == (200, "text/csv")


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        ("class Model:\n  def predict(self, data): return data * 2\ndef model_fn(d): return Model()", b"[2, 4]"),
        ("def model_fn(d): return lambda data: data * 3", b"[3, 6]"),
    ],
)
def test_a_model_that_can_be_asked_needs_no_predict_fn(tmp_path: Path, source: str, answer: bytes) -> None:
    assert ask(load(script(tmp_path, source)), "[1, 2]")[2] == answer


@pytest.mark.parametrize(
    ("headers", "body", "status", "message"),
    [
        ({"Content_Type": "image/png"}, b"", 415, "Content-Type image/png is not read here.*input_fn"),
        ({"Accept": "image/png"}, b"[1]", 406, "Accept image/png cannot be answered.*output_fn"),
        ({}, b"[1", 400, "cannot be read as application/json"),
        ({}, b"", 400, "cannot be read as application/json"),
        ({}, b"\xff", 400, "no text in UTF-8"),
        ({"Content_Type": "application/x-npy"}, b"\x93NUMPY", 400, "cannot be read as application/x-npy"),
        ({"Content_Type": "application/x-www-form-urlencoded"}, b"a=1", 400, "no body"),
    ],
)
def test_a_request_that_cannot_be_read_or_answered(
    tmp_path: Path, headers: dict[str, str], body: bytes, status: int, message: str
) -> None:
    assert re.search(message, message_of(ask(load(adder(tmp_path)), body, **headers), status))


# ---- files of a model beside the script ----


def test_without_model_fn_the_files_beside_the_script_are_loaded(tmp_path: Path) -> None:
    models.multiplier(script(tmp_path, "def output_fn(prediction, accept): return repr(prediction.tolist())"), factor=3)
    assert ask(load(tmp_path), "[[1, 2, 3, 4]]")[2] == b"[[3.0, 6.0, 9.0, 12.0]]"


def test_a_script_may_prepare_what_the_files_beside_it_are_given(tmp_path: Path) -> None:
    models.multiplier(script(tmp_path, "def input_fn(body, content_type): return [float(n) for n in body.split('|')]"))
    answer = ask(load(tmp_path), b"1|2|3|4", Content_Type="text/csv")
    assert json.loads(answer[2]) == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}


def test_predict_fn_is_given_the_model_of_the_files_beside_it(tmp_path: Path) -> None:
    models.multiplier(script(tmp_path, "def predict_fn(data, model): return model.predict(data + 1)"))
    assert json.loads(ask(load(tmp_path), "[[1, 2, 3, 4]]")[2]) == [[4.0, 6.0, 8.0, 10.0]]


def regressor(folder: Path, *columns: str) -> Path:
    """Adds ``model.joblib``, which answers the sum of its two columns; they may have names."""
    import joblib
    import pandas
    from sklearn.linear_model import LinearRegression

    rows: Any = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0]])
    if columns:
        rows = pandas.DataFrame(rows, columns=list(columns))
    joblib.dump(LinearRegression().fit(rows, rows.sum(axis=1)), folder / "model.joblib")
    return folder


def test_predict_fn_is_given_the_librarys_own_object(tmp_path: Path) -> None:
    source = "def predict_fn(data, model): return [type(model).__name__, model.predict(data).round(3).tolist()]"
    context = load(regressor(script(tmp_path, source)))
    assert json.loads(ask(context, "[[1, 2], [3, 4]]")[2]) == ["LinearRegression", [3.0, 7.0]]
    assert json.loads(ask(context, "5,6", Content_Type="text/csv")[2]) == ["LinearRegression", [11.0]]


def test_predict_fn_is_given_the_booster_of_the_file_beside_it(tmp_path: Path) -> None:
    source = """
        import xgboost
        def predict_fn(data, model): return [type(model).__name__, model.predict(xgboost.DMatrix(data)).tolist()]
        """
    rows = tables.houses(2)[0]
    expected = LoadedModel(tables.xgboost_model(tmp_path / "alone")).answer(rows.tolist())
    context = load(tables.xgboost_model(script(tmp_path / "beside", source)))
    assert json.loads(ask(context, json.dumps(rows.tolist()))[2]) == ["Booster", expected]


def test_columns_with_names_are_a_data_frame(tmp_path: Path) -> None:
    source = "def predict_fn(data, model): return [list(data.columns), model.predict(data).round(3).tolist()]"
    context = load(regressor(script(tmp_path / "1", source), "feet", "rooms"))
    body = '{"columns": ["rooms", "feet"], "data": [[1, 2]]}'
    assert json.loads(ask(context, body)[2]) == [["feet", "rooms"], [3.0]]
    for name, made in (("2", "[[1.0, 2.0]]"), ("3", "__import__('pandas').DataFrame({'feet': [1.0], 'rooms': [2.0]})")):
        folder = script(tmp_path / name, f"def input_fn(body, content_type): return {made}")
        assert json.loads(ask(load(regressor(folder, "feet", "rooms")), "1")[2]) == [pytest.approx(3.0)]


def test_a_script_before_or_after_a_table_model_leaves_the_rest_to_it(tmp_path: Path) -> None:
    first = load(
        regressor(script(tmp_path / "1", "def output_fn(prediction, accept): return str(prediction.round(3))"))
    )
    assert ask(first, "1,2\n3,4", Content_Type="text/csv")[2] == b"[3. 7.]"
    second = load(
        regressor(
            script(tmp_path / "2", "def input_fn(body, content_type): return [[float(n) for n in body.split('|')]]")
        )
    )
    answer = ask(second, "1|2", Content_Type="text/csv", Accept="text/csv")
    assert (answer[0], float(answer[2])) == (200, pytest.approx(3))


def test_several_inputs_are_given_by_name(tmp_path: Path) -> None:
    models.two_input_model(
        script(tmp_path, "def predict_fn(data, model): return {k: v.shape for k, v in data.items()}")
    )
    body = json.dumps({"left": [[1, 2, 3]], "right": [[1, 2]]})
    assert json.loads(ask(load(tmp_path), body)[2]) == {"left": [1, 3], "right": [1, 2]}


def test_a_body_that_does_not_fit_the_files_beside_the_script_is_400(tmp_path: Path) -> None:
    models.multiplier(script(tmp_path, "def output_fn(prediction, accept): return ''"))
    assert "data (N, 4)" in message_of(ask(load(tmp_path), "[[1, 2]]"), 400)


# ---- answers ----


@pytest.mark.parametrize(
    ("returned", "body", "content_type"),
    [
        ("b'\\xff\\x00'", b"\xff\x00", "application/json"),
        ("'é'", "é".encode(), "application/json"),
        ("bytearray(b'x')", b"x", "application/json"),
        ("memoryview(b'xyz')[1:]", b"yz", "application/json"),
        ("('a,b', 'text/csv')", b"a,b", "text/csv"),
        ("(b'', 'text/x-\\r\\nX-Forged: 1')", b"", "text/x- X-Forged: 1"),
        ("{'a': [1]}", b'{"a": [1]}', "application/json"),
        ("__import__('numpy').arange(2)", b"[0, 1]", "application/json"),
    ],
)
def test_what_output_fn_returns_is_the_answer(tmp_path: Path, returned: str, body: bytes, content_type: str) -> None:
    folder = script(tmp_path, f"def predict_fn(d, m): return 0\ndef output_fn(p, a): return {returned}")
    assert ask(load(folder), "1") == (200, content_type, body)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "output_fn returned a NoneType, which is no body"),
        ("object()", "output_fn returned a object"),
        ("(1, 2, 3)", "a tuple of 3"),
        ("(b'x', None)", "a tuple of 2"),
        ("{1j}", "output_fn returned a set"),
        ("'\\udcff'", "output_fn failed: UnicodeEncodeError"),
    ],
)
def test_what_is_no_answer_is_an_error_of_the_request(tmp_path: Path, returned: str, message: str) -> None:
    folder = script(tmp_path, f"def predict_fn(d, m): return 0\ndef output_fn(p, a): return {returned}")
    assert message in message_of(ask(load(folder), "1"), 500)


def test_a_prediction_that_json_cannot_hold_is_an_error_of_the_request(tmp_path: Path) -> None:
    folder = script(tmp_path, "def predict_fn(d, m): return object()")
    assert "cannot be written as application/json: TypeError" in message_of(ask(load(folder), "1"), 500)


# ---- errors ----

WHOLE = """
import os
from sagemaker_inference.errors import BaseInferenceToolkitError, GenericInferenceToolkitError, UnsupportedFormatError

def fail(name, data):
    if os.environ.get("FAIL_IN") == name:
        exec(os.environ["FAIL_WITH"])
    return data

def model_fn(model_dir): return 1
def input_fn(body, content_type): return fail("input_fn", body)
def predict_fn(data, model): return fail("predict_fn", data)
def output_fn(prediction, accept): return fail("output_fn", prediction)
"""


TRANSFORM = (
    WHOLE.partition("def input_fn")[0]
    + """
def transform_fn(model, body, content_type, accept): return fail("transform_fn", body), content_type
"""
)


@pytest.mark.parametrize("function", ["input_fn", "predict_fn", "output_fn", "transform_fn"])
@pytest.mark.parametrize(
    ("statement", "status", "message"),
    [
        ("raise ValueError('wrong ' * 2)", 500, "{} failed: ValueError: wrong wrong"),
        ("raise SystemExit(4)", 500, "{} failed: it ended the program (SystemExit: 4)"),
        ("raise KeyboardInterrupt", 500, "{} failed: KeyboardInterrupt"),
        ("raise MemoryError", 507, "Not enough memory"),
        ("raise RuntimeError('CUDA out of memory')", 507, "Not enough memory"),
        ("raise BaseInferenceToolkitError(422, 'bad city', 'Unprocessable')", 422, "bad city"),
        ("raise GenericInferenceToolkitError(400)", 400, "Invalid Request"),
        ("raise BaseInferenceToolkitError(200, 'odd', 'OK')", 500, "odd"),
        ("raise BaseInferenceToolkitError('no', 'odd', 'a\\r\\nb')", 500, "odd"),
        ("raise BaseException(open.__doc__ * 50)", 500, "{} failed: BaseException: Open file"),
        ("open('/etc/no-such-file')", 500, "{} failed: FileNotFoundError: [Errno 2] No such file or directory: '…/no-"),
        ("class E(Exception):\n  def __str__(self): raise self\nraise E", 500, "{} failed: E"),
    ],
)
def test_what_a_function_raises_is_the_answer_to_its_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, statement: str, status: int, message: str
) -> None:
    context = load(script(tmp_path, TRANSFORM if function == "transform_fn" else WHOLE))
    monkeypatch.setenv("FAIL_IN", function)
    monkeypatch.setenv("FAIL_WITH", statement)
    said = message_of(ask(context, "1"), status)
    assert message.format(function) in said and len(said) <= 1000
    assert "\n" not in (context.get_response_status(0)[1] or "")
    monkeypatch.delenv("FAIL_IN")
    assert ask(context, "1") == (200, "application/json", b"1")


@pytest.mark.parametrize(("function", "status"), [("input_fn", 415), ("predict_fn", 415), ("output_fn", 406)])
def test_a_format_that_a_script_does_not_support(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, status: int
) -> None:
    context = load(script(tmp_path, WHOLE))
    monkeypatch.setenv("FAIL_IN", function)
    monkeypatch.setenv("FAIL_WITH", "raise UnsupportedFormatError('image/png')")
    assert message_of(ask(context, "1"), status) == (
        f"{function}: Content type image/png is not supported by this framework."
    )


def test_a_phrase_that_a_script_chose_is_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = load(script(tmp_path, WHOLE))
    monkeypatch.setenv("FAIL_IN", "predict_fn")
    monkeypatch.setenv("FAIL_WITH", "raise BaseInferenceToolkitError(422, 'bad city', 'Un\\r\\nprocessable')")
    ask(context, "1")
    assert context.get_response_status(0) == (422, "Un processable")


def test_a_batch_is_answered_request_by_request(tmp_path: Path) -> None:
    context = load(adder(tmp_path))
    answers = golden.call(
        model_handler.handle,
        context,
        ({**JSON}, b"[[1]]"),
        ({**CSV, "Accept": "text/csv"}, b"5\n6\n"),
        ({**JSON}, b"no json"),
        ({"Content-Type": "image/png"}, b""),
        ({**JSON, "Accept": "application/x-npy"}, b"[7]"),
    )
    assert [status for status, *_ in answers] == [200, 200, 400, 415, 200]
    assert answers[0][1:] == ("application/json", b"[[2.0]]")
    assert answers[1][1:] == ("text/csv", b"6.0\n7.0\n")
    assert np.load(io.BytesIO(answers[4][2])).tolist() == [8]


def test_in_a_batch_a_function_sees_its_own_request_in_the_context(tmp_path: Path) -> None:
    folder = script(
        tmp_path,
        """
        def transform_fn(model, body, content_type, accept, context):
            number = context.get_request_header(0, "X-Number")
            context.set_response_header(0, "X-Number", number)
            context.set_response_status(200 + int(number), "Mine", 0)
            return context.get_request_id(0)
        """,
    )
    context = load(folder)
    answers = golden.call(model_handler.handle, context, *(({"X-Number": str(n), **JSON}, b"1") for n in range(3)))
    assert [(status, body) for status, _, body in answers] == [(200, b"0"), (201, b"1"), (202, b"2")]
    assert [context.get_response_headers(n)["X-Number"] for n in range(3)] == ["0", "1", "2"]


# ---- modules ----


def test_code_and_the_models_folder_are_importable(tmp_path: Path) -> None:
    folder = script(
        tmp_path,
        """
        import beside_script, at_the_top
        from package_of_it import inner
        def predict_fn(data, model): return [beside_script.NAME, at_the_top.NAME, inner.NAME]
        """,
        beside_script="NAME = 'beside'",
    )
    (folder / "at_the_top.py").write_text("NAME = 'top'")
    (folder / "code/package_of_it").mkdir()
    (folder / "code/package_of_it/__init__.py").touch()
    (folder / "code/package_of_it/inner.py").write_text("NAME = 'inner'")
    assert json.loads(ask(load(folder), "1")[2]) == ["beside", "top", "inner"]


def test_scripts_with_helpers_of_one_name_have_each_its_own_in_one_process(tmp_path: Path) -> None:
    source = """
        import helper
        COUNT = 0
        def predict_fn(data, model):
            global COUNT
            COUNT += 1
            return [helper.NAME, COUNT]
        """
    contexts = {
        name: load(script(tmp_path / name, source, helper=f"NAME = {name!r}")) for name in ("first", "second", "third")
    }
    for count in (1, 2):
        for name, context in contexts.items():
            assert json.loads(ask(context, "1")[2]) == [name, count]


@pytest.mark.parametrize("name", ["mme", "json", "code"])
def test_a_helper_that_is_called_like_a_module_of_the_server_breaks_nothing(tmp_path: Path, name: str) -> None:
    folder = script(tmp_path, "def predict_fn(data, model): return 1", **{name: "raise SystemExit"})
    context = load(folder)
    assert ask(context, "1")[0] == 200
    assert ask(context, "no json")[0] == 400


def test_objects_that_were_pickled_by_the_script_are_found(tmp_path: Path) -> None:
    source = """
        import pickle, os
        class Mine:
            value = 5
        def model_fn(model_dir): return pickle.loads(pickle.dumps(Mine()))
        def predict_fn(data, model): return model.value
        """
    assert ask(load(script(tmp_path, source)), "1")[2] == b"5"


@pytest.mark.parametrize("link", ["code", "code/inference.py"])
def test_a_script_that_is_a_link_out_of_the_model_is_refused(tmp_path: Path, link: str) -> None:
    elsewhere, folder = adder(tmp_path / "elsewhere"), tmp_path / "model"
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(elsewhere / link)
    with pytest.raises(ModelRefused, match=r"code/inference.py is a link that leads out of the model's folder"):
        load(folder)


# ---- MME_MODEL_CODE ----


def test_a_script_is_refused_where_models_are_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MME_MODEL_CODE", "refuse")
    folder = script(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelRefused, match=r"code/inference.py.*MME_MODEL_CODE=refuse.*security.md"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_the_sample_of_the_template_is_a_script_that_answers(tmp_path: Path) -> None:
    adapter: Any = registry.adapter("script")
    adapter.write_sample(tmp_path, Settings())
    assert ask(load(tmp_path), "[[1, 2]]", Accept="*/*")[2] == b"[[1.0, 2.0]]"
    assert inspect.isroutine(adapter.warm_template)
