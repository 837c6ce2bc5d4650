"""scikit-learn models: every file, every way to ask, compared with the library called directly."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model_handler
from mme.errors import ModelLoadError, ModelRefused
from mme.frameworks.sklearn.adapter import ADAPTER
from mme.frameworks.sklearn.model import texts_of
from mme.settings import Settings
from tests.harness import requests as golden
from tests.harness import tables
from tests.harness.loaded_model import LoadedModel, as_csv
from tests.harness.programs import run_python

ROWS = tables.houses(4, seed=1)[0].astype(float)
FILES = ["model.joblib", "prices.joblib", "model.skops", "model.pkl"]


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return LoadedModel(tables.sklearn_model(tmp_path_factory.mktemp("linear")))


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tables.sklearn_model(tmp_path_factory.mktemp("framed"), model=tables.frame_pipeline())
    return LoadedModel(folder)


# ---- files ----


@pytest.mark.parametrize("file", FILES)
def test_every_file_answers_as_the_library(tmp_path: Path, file: str) -> None:
    answer = LoadedModel(tables.sklearn_model(tmp_path, file=file)).answer(ROWS.tolist())
    np.testing.assert_array_equal(answer, tables.linear_model().predict(ROWS))


def test_a_plain_pickle_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(tables.linear_model()))
    np.testing.assert_array_equal(LoadedModel(tmp_path).answer(ROWS.tolist()), tables.linear_model().predict(ROWS))


def test_a_compressed_joblib_file_is_read(tmp_path: Path) -> None:
    import joblib

    joblib.dump(tables.linear_model(), tmp_path / "model.joblib", compress=3)
    np.testing.assert_array_equal(LoadedModel(tmp_path).answer(ROWS.tolist()), tables.linear_model().predict(ROWS))


@pytest.mark.parametrize("file", ["model.joblib", "model.skops", "model.pkl"])
def test_a_truncated_file_fails_the_load_with_a_reason(tmp_path: Path, file: str) -> None:
    tables.sklearn_model(tmp_path, file=file)
    whole = (tmp_path / file).read_bytes()
    for length in (0, 1, 50, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        (tmp_path / file).write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match=file):
            ADAPTER.load(tmp_path, Settings())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ((int, ("none",)), "invalid literal"),
        ((exit, (3,)), "SystemExit"),
        ((__import__, ("module_that_is_not_here",)), "needs the module module_that_is_not_here"),
        ((dict, ()), "holds a dict"),
    ],
)
def test_a_pickle_that_raises_or_holds_something_else_fails_the_load(tmp_path: Path, how: Any, reason: str) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(tables.Raising(how)))
    with pytest.raises(ModelLoadError, match=reason):
        ADAPTER.load(tmp_path, Settings())


@pytest.mark.parametrize("file", ["model.joblib", "model.pkl"])
def test_where_models_may_bring_no_code_a_pickle_is_refused_unread(tmp_path: Path, file: str) -> None:
    ran = tmp_path / "ran"
    (tmp_path / file).write_bytes(pickle.dumps(tables.Raising((os.mkdir, (str(ran),)))))
    with pytest.raises(ModelRefused, match=r"MME_MODEL_CODE=refuse.*model\.skops"):
        ADAPTER.load(tmp_path, Settings(model_code="refuse"))
    assert not ran.exists()


def test_where_models_may_bring_no_code_skops_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MME_MODEL_CODE", "refuse")
    pipeline, frame = tables.frame_pipeline(), tables.house_frame()
    tables.sklearn_model(tmp_path, file="model.skops", model=pipeline)
    assert LoadedModel(tmp_path).answer(frame.to_json(orient="split")) == pipeline.predict(frame).tolist()


def test_trees_in_skops_are_read_where_models_may_bring_code(tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeRegressor

    rows, prices = tables.houses()
    tree = DecisionTreeRegressor(max_depth=3).fit(rows.astype(float), prices)
    tables.sklearn_model(tmp_path, file="model.skops", model=tree)
    np.testing.assert_allclose(LoadedModel(tmp_path).answer(ROWS.tolist()), tree.predict(ROWS))
    with pytest.raises(
        ModelRefused, match=r"not trusted: sklearn\.tree\._tree\.Tree.*ONNX: MME_MODEL_CODE=ref"
    ) as refused:
        ADAPTER.load(tmp_path, Settings(model_code="refuse"))
    assert refused.value.status == 400 and "joblib" not in str(refused.value)


def test_a_type_that_skops_does_not_trust_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    pipeline = make_pipeline(FunctionTransformer(os.system), tables.linear_model())
    tables.sklearn_model(tmp_path, file="model.skops", model=pipeline)
    with pytest.raises(ModelLoadError, match=r"not trusted: posix\.system.*; joblib, .* reads any"):
        ADAPTER.load(tmp_path, Settings())
    with pytest.raises(ModelRefused, match=r"not trusted: posix\.system.*MME_MODEL_CODE=refuse"):
        ADAPTER.load(tmp_path, Settings(model_code="refuse"))


def test_two_files_in_one_folder_are_refused_by_name(tmp_path: Path) -> None:
    tables.sklearn_model(tmp_path)
    tables.sklearn_model(tmp_path, file="scaler.joblib")
    with pytest.raises(ModelLoadError, match=r"model\.joblib, scaler\.joblib.*inference\.py"):
        ADAPTER.load(tmp_path, Settings())


def test_another_version_is_said_once_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sklearn.base

    monkeypatch.setattr(sklearn.base, "__version__", "0.24.1")
    tables.sklearn_model(tmp_path)
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING):
        ADAPTER.load(tmp_path, Settings())
    (line,) = [record.getMessage() for record in caplog.records if "0.24.1" in record.getMessage()]
    assert sklearn.__version__ in line and "StandardScaler" in line and "LinearRegression" in line


# ---- what it predicts ----


def test_rows_are_read_in_every_format(linear: LoadedModel) -> None:
    expected = tables.linear_model().predict(ROWS)
    array = io.BytesIO()
    np.save(array, ROWS)
    for body, content_type in [
        (as_csv(ROWS), "text/csv"),
        (ROWS.tolist(), "application/json"),
        ({"instances": ROWS.tolist()}, "application/json"),
        ("".join(json.dumps(row) + "\n" for row in ROWS.tolist()), "application/jsonlines"),
        (array.getvalue(), "application/x-npy"),
    ]:
        np.testing.assert_array_equal(linear.answer(body, content_type), expected, err_msg=content_type)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([1, 2, 3], "3 values, not 6"),
        ([[1, 2, 3, 4, 5, None]], "contains NaN"),
        ([[1, 2, 3, 4, 5, "six"]], "could not convert string to float"),
        ([], "no sample"),
        ([[1, 2, 3, 4, 5, [6]]], "equal lengths"),
    ],
)
def test_rows_that_the_model_cannot_use_are_answered_400_with_its_reason(
    linear: LoadedModel, body: Any, message: str
) -> None:
    assert message in linear.refusal(body)


def missing_rows() -> np.ndarray:
    """Four houses: the first two lack a number each."""
    rows = ROWS.copy()
    rows[0, 2] = rows[1, 5] = np.nan
    return rows


def bodies_with_missing(rows: np.ndarray) -> list[tuple[Any, str]]:
    """The same rows in each format, with what says there that a value is missing."""
    array = io.BytesIO()
    np.save(array, rows)
    lists = [[None if np.isnan(cell) else cell for cell in row] for row in rows.tolist()]
    return [
        (lists, "application/json"),
        ({"instances": lists}, "application/json"),
        ("".join(json.dumps(row) + "\n" for row in lists), "application/jsonlines"),
        (as_csv(rows), "text/csv"),
        (array.getvalue(), "application/x-npy"),
    ]


@pytest.mark.parametrize("kind", ["HistGradientBoostingRegressor", "DecisionTreeRegressor", "imputer"])
def test_missing_values_are_answered_as_by_an_estimator_that_allows_them(tmp_path: Path, kind: str) -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeRegressor

    estimator = {
        "HistGradientBoostingRegressor": HistGradientBoostingRegressor(max_iter=5, random_state=0),
        "DecisionTreeRegressor": DecisionTreeRegressor(max_depth=4, random_state=0),
        "imputer": make_pipeline(SimpleImputer(), tables.linear_model()),
    }[kind]
    rows, prices = tables.houses(missing=0.1)
    estimator.fit(rows.astype(float), prices)
    expected = estimator.predict(missing_rows())
    assert not np.isnan(expected).any()
    model = LoadedModel(tables.sklearn_model(tmp_path, model=estimator))
    for body, content_type in bodies_with_missing(missing_rows()):
        np.testing.assert_array_equal(model.answer(body, content_type), expected, err_msg=content_type)


def test_missing_values_are_refused_by_an_estimator_that_does_not_allow_them(linear: LoadedModel) -> None:
    for body, content_type in bodies_with_missing(missing_rows()):
        assert "contains NaN" in linear.refusal(body, content_type)
    assert linear.answer(ROWS.tolist()) == tables.linear_model().predict(ROWS).tolist()


def test_a_missing_value_by_name_is_answered_as_by_the_library(tmp_path: Path) -> None:
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows, prices = tables.houses(missing=0.1)
    frame = pd.DataFrame(rows.astype(float), columns=list(tables.FEATURES))
    estimator = HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(frame, prices)
    model = LoadedModel(tables.sklearn_model(tmp_path, model=estimator))
    asked = pd.DataFrame(missing_rows(), columns=list(tables.FEATURES))
    expected = estimator.predict(asked).tolist()
    for body, content_type in [
        (asked.to_json(orient="split"), "application/json"),
        (asked.to_json(orient="records"), "application/json"),
        (asked.to_csv(index=False), "text/csv"),
    ]:
        assert model.answer(body, content_type) == expected, content_type


def test_a_data_frame_is_read_as_pandas_writes_it(framed: LoadedModel) -> None:
    frame = tables.house_frame()
    expected = tables.frame_pipeline().predict(frame).tolist()
    turned = frame[["zip", "rooms", "garage"]]
    for body, content_type in [
        (frame.to_json(orient="split"), "application/json"),
        (frame.to_json(orient="split", index=False), "application/json"),
        (turned.to_json(orient="split"), "application/json"),
        (turned.to_json(orient="records"), "application/json"),
        ('{"instances": ' + turned.to_json(orient="records") + "}", "application/json"),
        (json.dumps(json.loads(turned.to_json(orient="split"))["data"]).replace("NaN", "null"), None),
        (turned.to_json(orient="records", lines=True), "application/jsonlines"),
        (turned.to_csv(index=False), "text/csv"),
        (frame.to_csv(index=False, header=False), "text/csv"),
    ]:
        if content_type is not None:
            assert framed.answer(body, content_type) == expected, body


def test_texts_stay_texts_and_numbers_numbers(framed: LoadedModel) -> None:
    expected = tables.frame_pipeline().predict(tables.house_frame().iloc[[2]]).tolist()
    assert framed.answer({"rooms": 3, "garage": "no", "zip": "01"}) == expected
    assert framed.answer("rooms,garage,zip\n3,no,01\n", "text/csv") == expected
    assert "unknown categories" in framed.refusal({"rooms": 3, "garage": "no", "zip": "1"})
    assert texts_of(tables.frame_pipeline()) == {"garage": "no", "zip": "01"}


def test_columns_that_are_not_the_models_are_named(framed: LoadedModel) -> None:
    assert "zip missing; zipcode unknown" in framed.refusal({"rooms": 3, "garage": "no", "zipcode": "01"})
    assert "2 values, not 3" in framed.refusal([[3, "no"]])
    assert "lists or objects" in framed.refusal({"rooms": {}, "garage": "no", "zip": "01"})


def test_the_method_is_chosen_by_accept(framed: LoadedModel) -> None:
    frame, pipeline = tables.house_frame(), tables.frame_pipeline()
    body = frame.to_json(orient="split")
    for method in ("predict_proba", "decision_function", "predict_log_proba"):
        answer = framed.answer(body, accept=f"application/json;predict_method={method}")
        np.testing.assert_allclose(answer, getattr(pipeline, method)(frame), rtol=1e-12)
    status, _, answer = framed.ask(body, accept="application/json; predict_method=fit")
    assert status == 400 and b"predict_proba" in answer


def test_the_method_is_chosen_by_serving_properties(tmp_path: Path) -> None:
    pipeline = tables.frame_pipeline()
    tables.sklearn_model(tmp_path, model=pipeline)
    (tmp_path / "serving.properties").write_text("# DJL's\noption.predict_method = predict_proba\n")
    frame = tables.house_frame()
    model = LoadedModel(tmp_path)
    np.testing.assert_allclose(model.answer(frame.to_json(orient="split")), pipeline.predict_proba(frame))
    answer = model.answer(frame.to_json(orient="split"), accept="application/json;predict_method=predict")
    assert answer == pipeline.predict(frame).tolist()
    (tmp_path / "serving.properties").write_text("# DJL's\noption.predict_method=predict_probability\n")
    with pytest.raises(
        ModelLoadError, match=r"serving\.properties, line 2: option\.predict_method=predict_probability.*_proba"
    ):
        ADAPTER.load(tmp_path, Settings())


def test_requests_for_different_methods_in_one_batch_get_their_own(framed: LoadedModel) -> None:
    frame, pipeline = tables.house_frame(), tables.frame_pipeline()
    body = frame.to_json(orient="split").encode()
    kinds = ["application/json", "application/json;predict_method=predict_proba"]
    batch = [({"Content-Type": "application/json", "Accept": accept}, body) for accept in kinds]
    first, second = golden.call(model_handler.handle, framed.context, *batch)
    assert json.loads(first[2]) == pipeline.predict(frame).tolist()
    np.testing.assert_allclose(json.loads(second[2]), pipeline.predict_proba(frame))


def test_answers_of_texts_are_written_in_every_form(framed: LoadedModel) -> None:
    body = tables.house_frame().to_json(orient="split")
    expected = tables.frame_pipeline().predict(tables.house_frame()).tolist()
    assert framed.ask(body, accept="text/csv")[2].decode() == ",".join(expected) + "\n"
    assert framed.answer(body, accept="application/json;verbose") == {"predictions": expected}
    assert framed.ask(body, accept="application/jsonlines")[2].split() == [f'"{text}"'.encode() for text in expected]
    assert np.load(io.BytesIO(framed.ask(body, accept="application/x-npy")[2])).tolist() == expected


def test_a_model_of_texts_takes_one_text_per_sample(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    pipeline.fit(["good film", "bad film", "good, day"], [1, 0, 1])
    model = LoadedModel(tables.sklearn_model(tmp_path, model=pipeline))
    texts = ["a good film", "bad, bad"]
    expected = pipeline.predict(texts).tolist()
    assert model.answer(texts) == expected
    assert model.answer('a good film\n"bad, bad"\n', "text/csv") == expected
    assert model.answer(texts[1], "text/plain") == expected[1:]
    assert "one text per sample" in model.refusal([[1, 2]])


def test_several_outputs_and_transformers_answer_too(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import OneHotEncoder

    rows, prices = tables.houses()
    both = LinearRegression().fit(rows.astype(float), np.stack([prices, prices / 2], axis=1))
    model = LoadedModel(tables.sklearn_model(tmp_path / "both", model=both))
    np.testing.assert_allclose(model.answer(ROWS.tolist()), both.predict(ROWS))
    encoder = OneHotEncoder().fit(np.array([["a", "x"], ["b", "y"]], object))
    model = LoadedModel(tables.sklearn_model(tmp_path / "encoder", model=encoder))
    assert model.answer([["b", "x"]]) == [[0, 1, 1, 0]]


def test_a_forest_that_was_trained_on_all_cores_predicts_with_one(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestRegressor

    rows, prices = tables.houses()
    forest = RandomForestRegressor(n_estimators=3, n_jobs=-1).fit(rows.astype(float), prices)
    model = ADAPTER.load(tables.sklearn_model(tmp_path, model=forest), Settings())
    assert model._estimator.n_jobs == 1


@pytest.mark.ci  # imports scikit-learn in a new interpreter
def test_a_template_has_one_thread(tmp_path: Path) -> None:
    program = f"""
import os
from pathlib import Path
from mme.frameworks.sklearn.adapter import ADAPTER
from mme.settings import Settings
ADAPTER.warm_template(Settings())
ADAPTER.write_sample(Path({str(tmp_path)!r}), Settings())
model = ADAPTER.load(Path({str(tmp_path)!r}), Settings())
model.predict(model.sample())
print(len(os.listdir("/proc/self/task")))
"""
    assert run_python(program).splitlines()[-1:] == ["1"]
