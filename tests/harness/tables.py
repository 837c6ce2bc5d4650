"""Tiny models of tables for tests: each function fills ``folder`` with the artifacts of one model, and returns it.

They are trained on the spot, on the same random rows on every run. Frameworks are imported on the first call.

A process in which MXNet and XGBoost both read or write a file by themselves dies: each brings a library (dmlc) whose
object for local files is one for the process, and not the same. So tests write boosters with ``save_booster``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FEATURES = ("year_built", "square_feet", "bedrooms", "bathrooms", "lot_acres", "garage")  # of a house


def save_booster(booster: Any, path: Path) -> None:
    """Writes JSON or UBJSON, as the file's name says, without XGBoost's own files."""
    path.write_bytes(booster.save_raw("json" if path.suffix == ".json" else "ubj"))


def houses(count: int = 200, *, seed: int = 0, missing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows (count, 6) float32 of ``FEATURES`` and prices (count,); a share of the numbers ``missing``."""
    random = np.random.default_rng(seed)
    rows = np.stack(
        [
            random.integers(1900, 2024, count),
            random.integers(600, 4000, count),
            random.integers(1, 7, count),
            random.integers(2, 8, count) / 2,
            random.uniform(0.05, 2, count).round(2),
            random.integers(0, 4, count),
        ],
        axis=1,
    ).astype(np.float32)
    prices = 150 * rows[:, 1] + 20_000 * rows[:, 2] + 15_000 * rows[:, 3] + 40_000 * rows[:, 4] + 9_000 * rows[:, 5]
    prices += 300 * (rows[:, 0] - 1900)
    rows[random.uniform(size=rows.shape) < missing] = np.nan
    return rows, prices


def booster(*, names: bool = False, classes: int = 0, seed: int = 0, rounds: int = 8, **parameters: Any) -> Any:
    """A trained ``xgboost.Booster`` of house prices, or of ``classes`` classes of them."""
    import xgboost as xgb

    rows, prices = houses(seed=seed, missing=0.05)
    labels = (prices.argsort().argsort() * classes // len(prices)) if classes else prices
    if classes:
        parameters = {"objective": "multi:softprob", "num_class": classes, **parameters}
    data = xgb.DMatrix(rows, labels, feature_names=list(FEATURES) if names else None, nthread=1)
    return xgb.train({"max_depth": 3, "nthread": 1, **parameters}, data, rounds)


def xgboost_model(folder: Path, *, file: str = "model.ubj", **how: Any) -> Path:
    """A booster in ``file``; ``xgboost-model`` holds UBJSON."""
    folder.mkdir(parents=True, exist_ok=True)
    made = booster(**how)
    save_booster(made, folder / file)
    return folder


def lightgbm_model(folder: Path, *, file: str = "model.txt", names: bool = False, classes: int = 0) -> Path:
    """A LightGBM booster of house prices, or of ``classes`` classes of them."""
    folder.mkdir(parents=True, exist_ok=True)
    lightgbm_booster(names=names, classes=classes).save_model(folder / file)
    return folder


def lightgbm_booster(*, names: bool = False, classes: int = 0) -> Any:
    """The booster of ``lightgbm_model``."""
    import lightgbm as lgb

    rows, prices = houses(missing=0.05)
    labels = (prices.argsort().argsort() * classes // len(prices)) if classes else prices
    parameters: dict[str, Any] = {"num_threads": 1, "num_leaves": 6, "verbosity": -1}
    if classes:
        parameters |= {"objective": "multiclass", "num_class": classes}
    columns: Any = list(FEATURES) if names else "auto"
    return lgb.train(parameters, lgb.Dataset(rows.astype(float), labels, feature_name=columns), 8)


def linear_model() -> Any:
    """A fitted scikit-learn pipeline of house prices, from arrays without names."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, prices = houses()
    return make_pipeline(StandardScaler(), LinearRegression()).fit(rows.astype(float), prices)


def sklearn_model(folder: Path, *, file: str = "model.joblib", model: Any = None) -> Path:
    """``model``, or a linear model of house prices, as joblib, skops or pickle writes it."""
    import joblib
    import skops.io

    folder.mkdir(parents=True, exist_ok=True)
    write = skops.io.dump if file.endswith(".skops") else joblib.dump
    write(model if model is not None else linear_model(), folder / file)
    return folder


def house_frame() -> Any:
    """Six houses as a data frame: a number of ``rooms`` is missing, a text of ``garage``; ``zip`` is of digits."""
    import pandas as pd

    return pd.DataFrame(
        {
            "rooms": [1, 2, 3, 4, None, 3],
            "garage": ["yes", "no", "no", None, "yes", "no"],
            "zip": ["01", "02", "01", "02", "01", "02"],
        }
    )


def frame_pipeline() -> Any:
    """A classifier of ``house_frame`` into cheap and dear, which takes its columns by name."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    encode = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["rooms"]),
        (OneHotEncoder(handle_unknown="ignore"), ["garage"]),
        (OneHotEncoder(), ["zip"]),
    )
    labels = ["cheap", "dear", "dear", "cheap", "dear", "cheap"]
    return make_pipeline(encode, LogisticRegression()).fit(house_frame(), labels)


class Raising:
    """What raises when it is unpickled, or ends the process politely."""

    def __init__(self, how: Any) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return self.how
