"""XGBoost models: every format, every way to ask, compared with the library called directly."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model_handler
from mme.errors import ModelLoadError, ModelRefused
from mme.frameworks.xgboost import files
from mme.frameworks.xgboost.adapter import ADAPTER
from mme.settings import Settings
from tests.harness import requests as golden
from tests.harness import tables
from tests.harness.loaded_model import LoadedModel, as_csv
from tests.harness.programs import run_python

REFERENCES = Path(__file__).resolve().parents[1] / "references"
ROWS = tables.houses(4, seed=1)[0]


def predicted(booster: Any, rows: np.ndarray, **how: Any) -> np.ndarray:
    import xgboost

    names = booster.feature_names
    return booster.predict(xgboost.DMatrix(rows, feature_names=names, nthread=1), **how)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return LoadedModel(tables.xgboost_model(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return LoadedModel(tables.xgboost_model(tmp_path_factory.mktemp("named"), names=True))


# ---- formats of models ----


def write(folder: Path, kind: str) -> Any:
    import xgboost

    booster = tables.booster()
    path = folder / "xgboost-model"
    if kind in ("model.ubj", "booster.json"):
        tables.save_booster(booster, folder / kind)
    elif kind in ("ubj", "json"):
        path.write_bytes(booster.save_raw(kind))
    elif kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(booster, protocol=int(kind[-1])))
    elif kind == "estimator":
        estimator = xgboost.XGBRegressor()
        estimator.load_model(booster.save_raw("ubj"))
        path.write_bytes(pickle.dumps(estimator))
    else:
        joblib = pytest.importorskip("joblib")
        joblib.dump(booster, path)
    return booster


KINDS = ["ubj", "json", "model.ubj", "booster.json", "pickle0", "pickle2", "pickle5", "estimator", "joblib"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_of_today_answers_as_the_library(tmp_path: Path, kind: str) -> None:
    booster = write(tmp_path, kind)
    np.testing.assert_array_equal(LoadedModel(tmp_path).scores(as_csv(ROWS), "text/csv"), predicted(booster, ROWS))


@pytest.mark.parametrize("name", ["regression", "classes", "logistic", "poisson", "dart", "linear"])
def test_a_binary_file_of_version_0_90_answers_as_that_version_did(tmp_path: Path, name: str) -> None:
    shutil.copy(REFERENCES / f"xgboost-0.90-{name}.model", tmp_path / "xgboost-model")
    reference = np.load(REFERENCES / "xgboost-0.90.npz")
    scores = LoadedModel(tmp_path).scores(as_csv(reference["rows"]), "text/csv")
    np.testing.assert_allclose(scores, reference[name], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["booster", "estimator"])
def test_a_pickle_of_version_0_90_answers_as_that_version_did(tmp_path: Path, name: str) -> None:
    shutil.copy(REFERENCES / f"xgboost-0.90-{name}.pkl", tmp_path / "xgboost-model")
    reference = np.load(REFERENCES / "xgboost-0.90.npz")
    rows = reference["rows"]
    if name == "estimator":  # it was told that -1 is missing
        rows = np.where(np.isnan(rows), np.float32(-1), rows)
    scores = LoadedModel(tmp_path).scores(as_csv(rows), "text/csv")
    np.testing.assert_allclose(scores, reference["regression" if name == "booster" else name], rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["json", "ubj", "pickle5", "binary"])
def test_a_truncated_file_fails_the_load_with_a_reason(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "xgboost-model"
    if kind == "binary":
        shutil.copy(REFERENCES / "xgboost-0.90-regression.model", path)
    else:
        write(tmp_path, kind)
    whole = path.read_bytes()
    for length in (0, 1, 2, 20, 200, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match="xgboost-model"):
            ADAPTER.load(tmp_path, Settings())


def test_every_beginning_of_a_ubj_file_is_known_as_such_and_the_whole_one_is_whole() -> None:
    whole = bytes(tables.booster(rounds=1).save_raw("ubj"))
    files.check_ubj(whole)
    for length in range(2, len(whole)):
        with pytest.raises(ValueError, match=r"ends in the middle|in place of a length"):
            files.check_ubj(whole[:length])


@pytest.mark.parametrize(
    "garbage", [b"garbage" * 100, b"\0" * 400, b"PK\x03\x04" + b"x" * 100, b"[]", b"{}", b"{L" * 50]
)
def test_garbage_fails_the_load_by_name(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "xgboost-model").write_bytes(garbage)
    with pytest.raises(ModelLoadError, match="xgboost-model"):
        ADAPTER.load(tmp_path, Settings())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ((int, ("none",)), "invalid literal"),
        ((exit, (3,)), "SystemExit"),
        ((dict, ()), "holds a dict"),
    ],
)
def test_a_pickle_that_raises_or_holds_something_else_fails_the_load(tmp_path: Path, how: Any, reason: str) -> None:
    (tmp_path / "xgboost-model").write_bytes(pickle.dumps(tables.Raising(how)))
    with pytest.raises(ModelLoadError, match=reason):
        ADAPTER.load(tmp_path, Settings())


def test_where_models_may_bring_no_code_a_pickle_is_refused_unread(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "xgboost-model").write_bytes(pickle.dumps(tables.Raising((os.mkdir, (str(ran),)))))
    with pytest.raises(ModelRefused, match=r"MME_MODEL_CODE=refuse.*save_model"):
        ADAPTER.load(tmp_path, Settings(model_code="refuse"))
    assert not ran.exists()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.partition(".")[2] or kind in ("ubj", "json")])
def test_where_models_may_bring_no_code_models_of_data_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("MME_MODEL_CODE", "refuse")
    booster = write(tmp_path, kind)
    np.testing.assert_array_equal(LoadedModel(tmp_path).scores(as_csv(ROWS), "text/csv"), predicted(booster, ROWS))


def test_where_models_may_bring_no_code_a_binary_file_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MME_MODEL_CODE", "refuse")
    test_a_binary_file_of_version_0_90_answers_as_that_version_did(tmp_path, "regression")


def test_two_models_in_one_folder_are_refused_by_name(tmp_path: Path) -> None:
    tables.xgboost_model(tmp_path)
    tables.xgboost_model(tmp_path, file="xgboost-model")
    with pytest.raises(ModelLoadError, match=r"model\.ubj, xgboost-model"):
        ADAPTER.load(tmp_path, Settings())


# ---- what it predicts ----


def test_the_best_iteration_is_the_last_one_that_counts(tmp_path: Path) -> None:
    booster = tables.booster()
    booster.set_attr(best_iteration="2")
    tables.save_booster(booster, tmp_path / "model.ubj")
    scores = LoadedModel(tmp_path).scores(ROWS.tolist())
    np.testing.assert_array_equal(scores, predicted(booster, ROWS, iteration_range=(0, 3)))
    assert (scores != predicted(booster, ROWS)).all()


@pytest.mark.parametrize(
    "how",
    [
        {"classes": 3},
        {"classes": 3, "objective": "multi:softmax"},
        {"booster": "gblinear"},
        {"booster": "dart", "rate_drop": 0.5},
        {"num_parallel_tree": 3},
    ],
)
def test_other_boosters_and_objectives_answer_as_the_library(tmp_path: Path, how: dict[str, Any]) -> None:
    booster = tables.booster(**how)
    tables.save_booster(booster, tmp_path / "model.ubj")
    np.testing.assert_allclose(LoadedModel(tmp_path).scores(ROWS.tolist()), predicted(booster, ROWS), rtol=1e-6)


def test_missing_values_are_missing_in_every_format(plain: LoadedModel) -> None:
    rows = ROWS.copy()
    rows[0, 1] = rows[1, 5] = rows[2, 0] = np.nan
    expected = predicted(tables.booster(), rows)
    plain_rows = [[None if np.isnan(cell) else cell for cell in row] for row in rows.tolist()]
    libsvm = "".join(
        "0 " + " ".join(f"{index}:{cell!r}" for index, cell in enumerate(row) if cell is not None) + "\n"
        for row in plain_rows
    )
    array, npz = io.BytesIO(), io.BytesIO()
    np.save(array, rows)
    np.savez(npz, rows)
    for body, content_type in [
        (as_csv(rows), "text/csv"),
        (as_csv(rows).replace(",,", ",NaN,"), "text/csv"),
        (plain_rows, "application/json"),
        (libsvm, "text/libsvm"),
        (libsvm, "text/x-libsvm; charset=utf-8"),
        ("".join(json.dumps(row) + "\n" for row in plain_rows), "application/jsonlines"),
        (array.getvalue(), "application/x-npy"),
        (npz.getvalue(), "application/x-npz"),
    ]:
        np.testing.assert_array_equal(plain.scores(body, content_type), expected, err_msg=content_type)


def test_what_a_sparse_matrix_does_not_name_is_missing_as_for_the_library(plain: LoadedModel) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rows = np.where(ROWS > 3, ROWS, 0)
    matrix = sparse.csr_matrix(rows)
    file = io.BytesIO()
    sparse.save_npz(file, matrix)
    np.testing.assert_array_equal(
        plain.scores(file.getvalue(), "application/x-npz"), predicted(tables.booster(), matrix)
    )


def test_the_answer_has_the_form_that_is_asked_for(plain: LoadedModel) -> None:
    first, second = (float(score) for score in predicted(tables.booster(), ROWS[:2]))
    body = as_csv(ROWS[:2])
    verbose = {"predictions": [{"score": first}, {"score": second}]}
    for accept, content_type, answer in [
        ("", "application/json", json.dumps([first, second])),
        ("*/*", "application/json", json.dumps([first, second])),
        ("application/json", "application/json", json.dumps([first, second])),
        ("application/json;verbose", "application/json", json.dumps(verbose)),
        ("text/csv", "text/csv", f"{first},{second}\n"),
        ("application/jsonlines", "application/jsonlines", f'{{"score": {first}}}\n{{"score": {second}}}\n'),
    ]:
        assert plain.ask(body, "text/csv", accept) == (200, content_type, answer.encode())
    status, content_type, array = plain.ask(body, "text/csv", "application/x-npy")
    assert (status, content_type) == (200, "application/x-npy")
    assert np.load(io.BytesIO(array)).tolist() == [first, second]
    assert plain.ask(body, "text/csv", "text/html")[0] == 406


def test_columns_of_labels_are_dropped(plain: LoadedModel) -> None:
    labelled = np.hstack([np.full((len(ROWS), 2), 7, np.float32), ROWS])
    scores = plain.scores(as_csv(labelled), "text/csv;label_size=2")
    np.testing.assert_array_equal(scores, predicted(tables.booster(), ROWS))
    assert "8 values, not 6" in plain.refusal(as_csv(labelled), "text/csv;label_size=0")


def test_names_of_features_may_be_given_in_any_order(named: LoadedModel) -> None:
    expected = predicted(tables.booster(names=True), ROWS)
    turned = list(reversed(tables.FEATURES))
    records = [dict(zip(turned, row, strict=True)) for row in ROWS[:, ::-1].tolist()]
    for body, content_type in [
        (records, "application/json"),
        ({"instances": records}, "application/json"),
        ({"columns": turned, "data": ROWS[:, ::-1].tolist()}, "application/json"),
        ({"columns": turned, "index": [3, 4, 5, 6], "data": ROWS[:, ::-1].tolist()}, "application/json"),
        (dict(zip(turned, ROWS[:, ::-1].T.tolist(), strict=True)), "application/json"),
        ("".join(json.dumps(record) + "\n" for record in records), "application/jsonlines"),
        (",".join(turned) + "\n" + as_csv(ROWS[:, ::-1]), "text/csv"),
        ("price," + ",".join(turned) + "\n" + as_csv(np.hstack([ROWS[:, :1], ROWS[:, ::-1]])), "text/csv;label_size=1"),
        (as_csv(ROWS), "text/csv"),
        (ROWS.tolist(), "application/json"),
    ]:
        np.testing.assert_array_equal(named.scores(body, content_type), expected, err_msg=str(body)[:60])
    assert "garage missing; garag unknown" in named.refusal(json.dumps(records).replace('"garage"', '"garag"'))


def test_one_row_may_leave_its_brackets_out_and_be_a_column_of_csv(plain: LoadedModel) -> None:
    expected = predicted(tables.booster(), ROWS[:1])
    for body, content_type in [
        (ROWS[0].tolist(), "application/json"),
        ({"features": ROWS[0].tolist()}, "application/json"),
        ({"instances": [{"features": ROWS[0].tolist()}]}, "application/json"),
        ({"data": ROWS[:1].tolist()}, "application/json"),
        (as_csv(ROWS[:1].reshape(-1, 1)), "text/csv"),
    ]:
        np.testing.assert_array_equal(plain.scores(body, content_type), expected)


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        ("1,2,3\n", "text/csv", "3 values, not 6"),
        ("a,b,c,d,e,f\n1,2,3,4,5,6\n", "text/csv", "without a header"),
        ("1,2,3,4,5,6\n1,2\n", "text/csv", "changed from 6 to 2"),
        ('1,2,3,4,5,"6\n', "text/csv", "CSV"),
        ("1,2,3,4,5,inf\n", "text/csv", "finite"),
        ("", "text/csv", "empty"),
        ("\n \n", "text/csv", "empty"),
        (b"\xff\xfe1\x00", "text/csv", "UTF-8"),
        ("1 6:2\n", "text/libsvm", "index 6 is not from 0 to 5"),
        ("1 -1:2\n", "text/libsvm", "not index:value"),
        ("1 1:x\n", "text/libsvm", "could not convert"),
        ("1 1:1e999\n", "text/libsvm", "finite"),
        ("1 " + "9" * 5000 + ":1\n", "text/libsvm", "is not from 0 to 5"),
        ([1, 2], "application/json", "2 values, not 6"),
        ([[1, 2, 3, 4, 5, 6], [1]], "application/json", "equal lengths"),
        ([1, 2, 3, 4, 5, "6"], "application/json", "text among the numbers"),
        ([[1, 2, 3, 4, 5, [6]]], "application/json", "equal lengths"),
        ([[[1, 2, 3, 4, 5, 6]]], "application/json", "shape"),
        ([{"a": 1}, [1]], "application/json", "mixes"),
        ([[1, 2, 3, 4, 5, {}]], "application/json", "no numbers"),
        ([], "application/json", "no sample"),
        ({}, "application/json", "0 values"),
        (3, "application/json", "neither rows nor records"),
        ("null", "application/json", "neither rows nor records"),
        ('"text"', "application/json", "neither rows nor records"),
        ("[1e999,1,1,1,1,1]", "application/json", "finite"),
        ("[1e300,1,1,1,1,1]", "application/json", "finite float32"),
        ("[" * 100_000, "application/json", "not JSON"),
        ('{"columns": 3, "data": [[1,2,3,4,5,6]]}', "application/json", "list of names"),
        ('{"columns": ["a"], "data": 3}', "application/json", "neither rows nor records"),
        ('{"a": [1, 2], "b": [1]}', "application/json", "different numbers"),
        ("[1,2,3,4,5,6]\n{", "application/jsonlines", "not JSON"),
        (b"\x93NUMPY\x01\x00garbage", "application/x-npy", "numpy.save"),
        (b"PK\x03\x04garbage", "application/x-npz", "numpy.savez"),
    ],
)
def test_a_body_that_is_none_is_answered_400_with_what_the_model_takes(
    plain: LoadedModel, body: Any, content_type: str, message: str
) -> None:
    text = plain.refusal(body, content_type)
    assert message in text and "rows of 6 numbers" in text


def test_a_type_that_is_not_read_is_answered_415_with_those_that_are(plain: LoadedModel) -> None:
    assert "text/libsvm" in plain.refusal("<a/>", "application/xml", status=415)


def test_an_array_of_another_shape_or_kind_is_answered_400(plain: LoadedModel) -> None:
    for array in (np.zeros((2, 3)), np.zeros((1, 6, 1)), np.zeros(()), np.zeros((0, 6)), np.array([["a"] * 6])):
        file = io.BytesIO()
        np.save(file, array)
        plain.refusal(file.getvalue(), "application/x-npy")


def test_a_batch_gives_each_request_its_own_rows(plain: LoadedModel) -> None:
    plain_json = {"Content-Type": "application/json"}
    batch = [(plain_json, json.dumps(rows).encode()) for rows in (ROWS[:1].tolist(), [1], ROWS[1:].tolist())]
    answers = golden.call(model_handler.handle, plain.context, *batch)
    assert [status for status, _, _ in answers] == [200, 400, 200]
    got = json.loads(answers[0][2]) + json.loads(answers[2][2])
    np.testing.assert_array_equal(np.array(got, np.float32), predicted(tables.booster(), ROWS))


def test_a_library_that_is_not_there_yet_is_imported_with_one_thread(tmp_path: Path) -> None:
    """In a process of its own with a template's environment: it forks only where there is one thread."""
    tables.xgboost_model(tmp_path / "model")
    (tmp_path / "sample").mkdir()
    program = f"""
import os
from pathlib import Path
from mme.frameworks.xgboost.adapter import ADAPTER
from mme.settings import Settings
ADAPTER.warm_template(Settings())
ADAPTER.write_sample(Path({str(tmp_path / "sample")!r}), Settings())
for folder in ("sample", "model"):
    model = ADAPTER.load(Path({str(tmp_path)!r}) / folder, Settings())
    model.predict(model.sample())
print(len(os.listdir("/proc/self/task")))
"""
    assert run_python(program).splitlines()[-1:] == ["1"]
