"""Models of tables, of each framework that has them, on a server with nothing configured: here and in the image."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import tables
from tests.harness.server import ServerProcess

ROWS = tables.houses(3, seed=1)[0].astype(float)
MODELS: dict[str, tuple[Callable[..., Path], dict[str, Any], Callable[[], Any]]] = {
    "xgboost": (
        tables.xgboost_model,
        {"file": "xgboost-model"},
        lambda: tables.booster().inplace_predict(ROWS.astype(np.float32)),
    ),
    "sklearn": (tables.sklearn_model, {}, lambda: tables.linear_model().predict(ROWS)),
    "skops": (tables.sklearn_model, {"file": "model.skops"}, lambda: tables.linear_model().predict(ROWS)),
    "lightgbm": (tables.lightgbm_model, {}, lambda: tables.lightgbm_booster().predict(ROWS)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_answers_as_its_library(server: ServerProcess, loaded: Callable[..., str], kind: str) -> None:
    make, how, expected = MODELS[kind]
    name = loaded(make, **how)
    rows = "".join(",".join(map(repr, row)) + "\n" for row in ROWS.tolist())
    for body, content_type in [(rows, "text/csv"), (str(ROWS.tolist()), "application/json")]:
        answer = server.invoke(name, body, content_type)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json"), answer.text
        np.testing.assert_allclose(answer.json(), expected(), rtol=1e-6)
    answer = server.invoke(name, rows, "text/csv", "text/csv")
    assert answer.text.count(",") == 2 and answer.text.endswith("\n")
    answer = server.invoke(name, "1,2\n", "text/csv")
    assert answer.status_code == 400 and "2 values, not 6" in answer.json()["message"]
    assert server.invoke(name, rows, "text/csv").status_code == 200


def test_a_data_frame_is_answered_by_the_columns_names(server: ServerProcess, loaded: Callable[..., str]) -> None:
    name = loaded(tables.sklearn_model, model=tables.frame_pipeline())
    frame = tables.house_frame()
    accept = "application/json;predict_method=predict_proba"
    answer = server.invoke(name, frame.to_json(orient="split"), "application/json", accept)
    np.testing.assert_allclose(answer.json(), tables.frame_pipeline().predict_proba(frame))


class EndsTheProcess:
    """What ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        import os

        return os._exit, (3,)


def test_a_pickle_that_ends_its_worker_harms_nobody_else(
    server: ServerProcess, loaded: Callable[..., str], name: str
) -> None:
    other = loaded(tables.sklearn_model)
    folder = server.model_dir(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pkl").write_bytes(pickle.dumps(EndsTheProcess()))
    assert server.load(name).status_code >= 500
    assert server.describe(name).status_code == 404
    assert server.invoke(other, str(ROWS.tolist()), "application/json").status_code == 200
