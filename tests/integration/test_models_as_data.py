"""``MME_MODEL_CODE=refuse``: nothing that a model brings is run, and models that are data are served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import models, onnx_models, tables
from tests.harness.references import FOLDER as REFERENCES
from tests.harness.scripts import djl, script
from tests.harness.server import ServerProcess


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(MME_PRELOAD="mxnet", MME_MODEL_CODE="refuse") as running:
        yield running


def handler(folder: Path, source: str) -> None:
    (folder / "service.py").write_text(f"{source}\ndef handle(data, context): return data and ['ran'] * len(data)\n")
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF/MANIFEST.json").write_text(
        json.dumps({"model": {"modelName": "m", "handler": "service:handle"}})
    )


def binary_booster(folder: Path) -> Path:
    shutil.copy(REFERENCES / "xgboost-0.90-regression.model", folder / "xgboost-model")
    return folder


@pytest.mark.parametrize("kind", [script, djl, handler])
def test_a_model_that_brings_code_is_refused_before_it_runs(
    server: ServerProcess, kind: Callable[..., object], tmp_path: Path
) -> None:
    name = getattr(kind, "__name__", "")
    kind(models.multiplier(server.model_dir(name)), f"open({str(tmp_path / 'ran')!r}, 'w')")
    answer = server.load(name)
    assert answer.status_code == 400, f"{answer.text}\n{server.log_tail()}"
    assert "brings code" in answer.json()["message"] and "MME_MODEL_CODE=refuse" in answer.json()["message"]
    assert not (tmp_path / "ran").exists()
    assert server.describe(name).status_code == 404


@pytest.mark.ci  # imports five frameworks
@pytest.mark.parametrize(
    ("make", "body"),
    [
        (onnx_models.onnx_linear, [[1, 2, 3, 4]]),
        (lambda folder: tables.xgboost_model(folder, file="booster.json"), [2000, 1500, 3, 2, 0.5, 1]),
        (binary_booster, [2000, 1500, 3, 2, 0.5, 1]),
        (tables.lightgbm_model, [2000, 1500, 3, 2, 0.5, 1]),
        (lambda folder: tables.sklearn_model(folder, file="model.skops"), [2000, 1500, 3, 2, 0.5, 1]),
    ],
    ids=["onnx", "xgboost_json", "xgboost_binary", "lightgbm", "skops"],
)
def test_models_of_data_are_served(
    server: ServerProcess, request: pytest.FixtureRequest, make: Callable[[Path], Path], body: list[object]
) -> None:
    name = request.node.callspec.id
    make(server.model_dir(name))
    assert server.load(name).status_code == 200, server.log_tail()
    answer = server.invoke(name, json.dumps(body))
    assert answer.status_code == 200, answer.text


def test_modules_beside_files_of_data_are_not_imported(server: ServerProcess, tmp_path: Path) -> None:
    folder = models.multiplier(server.model_dir("data"))
    (folder / "code").mkdir()
    for module in ("numpy.py", "model_handler.py", "mxnet.py", "sitecustomize.py", "code/numpy.py"):
        (folder / module).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert server.load("data").status_code == 200, server.log_tail()
    assert server.invoke("data", "[[1, 2, 3, 4]]").json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
    assert not (tmp_path / "ran").exists()
