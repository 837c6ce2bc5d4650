"""``MME_MODEL_CODE=refuse``: nothing that a model brings is run, and models that are data are served."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import models
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


def test_modules_beside_files_of_data_are_not_imported(server: ServerProcess, tmp_path: Path) -> None:
    folder = models.multiplier(server.model_dir("data"))
    (folder / "code").mkdir()
    for module in ("numpy.py", "model_handler.py", "mxnet.py", "sitecustomize.py", "code/numpy.py"):
        (folder / module).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert server.load("data").status_code == 200, server.log_tail()
    assert server.invoke("data", "[[1, 2, 3, 4]]").json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
    assert not (tmp_path / "ran").exists()
