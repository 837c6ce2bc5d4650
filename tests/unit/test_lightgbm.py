"""LightGBM models, compared with the library called directly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mme.errors import ModelLoadError
from mme.frameworks.lightgbm.adapter import ADAPTER
from mme.settings import Settings
from tests.harness import tables
from tests.harness.loaded_model import LoadedModel, as_csv
from tests.harness.programs import run_python

ROWS = tables.houses(4, seed=1)[0].astype(float)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return LoadedModel(tables.lightgbm_model(tmp_path_factory.mktemp("plain")))


@pytest.mark.parametrize(("file", "classes"), [("model.txt", 0), ("prices.lgb", 0), ("model.txt", 3)])
def test_a_model_answers_as_the_library(tmp_path: Path, file: str, classes: int) -> None:
    model = LoadedModel(tables.lightgbm_model(tmp_path, file=file, classes=classes))
    np.testing.assert_allclose(
        model.answer(as_csv(ROWS), "text/csv"), tables.lightgbm_booster(classes=classes).predict(ROWS), rtol=1e-9
    )


@pytest.mark.parametrize("file", ["model.txt", "prices.lgb"])
def test_where_models_may_bring_no_code_a_model_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setenv("MME_MODEL_CODE", "refuse")
    test_a_model_answers_as_the_library(tmp_path, file, 0)


def test_missing_values_are_missing_in_every_format(plain: LoadedModel) -> None:
    rows = ROWS.copy()
    rows[0, 1] = rows[1, 5] = np.nan
    expected = tables.lightgbm_booster().predict(rows)
    listed = [[None if np.isnan(cell) else cell for cell in row] for row in rows.tolist()]
    np.testing.assert_allclose(plain.answer(as_csv(rows), "text/csv"), expected, rtol=1e-9)
    np.testing.assert_allclose(plain.answer(listed), expected, rtol=1e-9)


def test_what_libsvm_does_not_name_is_zero_as_for_the_library(plain: LoadedModel) -> None:
    rows = np.zeros((1, 6))
    rows[0, 1] = 2000
    np.testing.assert_allclose(
        plain.answer("0 1:2000\n", "text/libsvm"), tables.lightgbm_booster().predict(rows), rtol=1e-9
    )


def test_names_of_features_may_be_given_in_any_order(tmp_path: Path) -> None:
    model = LoadedModel(tables.lightgbm_model(tmp_path, names=True))
    turned = [dict(reversed(list(zip(tables.FEATURES, row, strict=True)))) for row in ROWS.tolist()]
    np.testing.assert_allclose(model.answer(turned), tables.lightgbm_booster(names=True).predict(ROWS), rtol=1e-9)


def test_the_wrong_number_of_features_is_answered_400(plain: LoadedModel) -> None:
    assert "2 values, not 6" in plain.refusal([1, 2])


def test_a_truncated_file_fails_the_load_with_a_reason(tmp_path: Path) -> None:
    tables.lightgbm_model(tmp_path)
    whole = (tmp_path / "model.txt").read_bytes()
    end = whole.index(b"end of trees")
    for length in (4, 5, 100, end // 3, end // 2, end):
        (tmp_path / "model.txt").write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match=r"model\.txt is not whole"):
            ADAPTER.load(tmp_path, Settings())


@pytest.mark.parametrize("body", [b"", b"garbage", b"tree\nend of trees\n", b"tree\xff\nend of trees\n"])
def test_garbage_fails_the_load_by_name(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "prices.lgb").write_bytes(body)
    with pytest.raises(ModelLoadError, match=r"prices\.lgb"):
        ADAPTER.load(tmp_path, Settings())


@pytest.mark.ci  # imports LightGBM in a new interpreter
def test_a_template_has_one_thread(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from mme.frameworks.lightgbm.adapter import ADAPTER
from mme.settings import Settings
ADAPTER.warm_template(Settings())
ADAPTER.write_sample(Path({str(tmp_path)!r}), Settings())
model = ADAPTER.load(Path({str(tmp_path)!r}), Settings())
model.predict(model.sample())
print(len(os.listdir("/proc/self/task")))
"""
    assert run_python(program).splitlines()[-1:] == ["1"]
