"""What docs/frameworks.md shows of each framework is what it does: its model is made and loads, its request is sent."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest
from mms.model_loader import ModelLoaderFactory

import model_handler
from mme.frameworks import registry
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.settings import Settings
from tests.harness import requests as golden
from tests.harness.loaded_model import LoadedModel
from tests.harness.programs import run_python

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"
FILE = re.compile(r"`([\w./-]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
SAID = re.compile(r"`([\[{][^`]*)` is answered `([\[{][^`]*)`")


@pytest.fixture(autouse=True)
def own_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) & {"inference", "model", "service"} - before:
        del sys.modules[name]


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", MANUAL.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def write_model(folder: Path, text: str, beside: str | None = None) -> tuple[bytes, object]:
    """Writes the files that a section shows; returns the request that it shows, and the answer."""
    files = FILE.findall(text.replace("`model.joblib` beside `code/inference.py`", "`code/inference.py`"))
    assert files
    for name, source in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    houses = np.array([[1000, 2], [1500, 3], [2000, 2], [3000, 5]])
    from sklearn.linear_model import LinearRegression

    joblib.dump(LinearRegression().fit(houses, 200 * houses[:, 0] + 30_000 * houses[:, 1]), folder / "model.joblib")
    (folder / "price_per_foot").write_text("200")
    ((request, answer),) = SAID.findall(text)
    return request.encode(), json.loads(answer)


@pytest.mark.parametrize("name", ["script", "djl"])
def test_the_example_answers_as_it_is_shown(tmp_path: Path, name: str) -> None:
    request, answer = write_model(tmp_path, section(name))
    context = golden.context_for(tmp_path)
    assert model_handler.handle(None, context) is None
    ((status, content_type, body),) = golden.call(
        model_handler.handle, context, ({"Content-Type": "application/json"}, request)
    )
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == answer


def test_the_example_of_mms_answers_as_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, answer = write_model(tmp_path, section("mms"))
    monkeypatch.syspath_prepend(tmp_path)
    handler = json.loads((tmp_path / "MAR-INF/MANIFEST.json").read_text())["model"]["handler"]
    service = ModelLoaderFactory.get_model_loader(str(tmp_path)).load("price", str(tmp_path), handler, None, 1)
    ((_, _, body),) = golden.call(
        service._entry_point, service.context, ({"Content-Type": "application/json"}, request)
    )
    assert json.loads(body) == answer


def run_example(name: str, text: str) -> None:
    """Runs the program of a section, which writes a model into the working folder."""
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if name == "xgboost":  # which must not write a file by itself where MXNet has
        run_python(source)
        return
    if name == "mxnet":
        import_mxnet(Settings())  # it is not made for the NumPy of this environment
    exec(compile(source, str(MANUAL), "exec"), {})


@pytest.mark.parametrize(
    "name",
    ["mxnet", "onnx", "lightgbm", *(pytest.param(each, marks=pytest.mark.ci) for each in ("xgboost", "sklearn"))],
)
def test_the_model_of_the_example_answers_as_it_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = section(name)
    run_example(name, text)
    assert registry.frameworks_of(tmp_path, Settings()) == (name,)
    ((request, answer),) = SAID.findall(text)
    found = LoadedModel(tmp_path).answer(request)
    shown = json.loads(answer)
    assert found == (pytest.approx(shown) if isinstance(shown, list) else shown)


def test_every_framework_has_a_section_with_an_example() -> None:
    for name in [*registry.ADAPTERS, "mms"]:
        assert len(SAID.findall(section(name))) == 1, name


def test_every_function_of_a_script_is_listed() -> None:
    from mme.frameworks.script.functions import _ARGUMENTS

    assert re.findall(r"^\| `(\w+_fn)` \|", section("script"), re.MULTILINE) == list(_ARGUMENTS)


def test_every_method_of_djl_is_listed() -> None:
    from djl_python import Input, Output

    text = section("djl").replace("\n", " ")
    of_the_server = {"get_function_name", "execute_finalize"}
    for kind, left_out in ((Input, of_the_server), (Output, {*of_the_server, "get_properties", "get_property"})):
        named = re.search(rf"`{kind.__name__}`: `([\w ]+)`", text)
        assert named is not None
        public = {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}
        assert set(named[1].split()) == public - left_out
