"""Makes the references of XGBoost 0.90, with that version, on Python 3.7: what it wrote and what it answered.

python3.7 -m venv old; old/bin/pip install xgboost==0.90 scikit-learn
old/bin/python tests/harness/make_xgboost_references.py
"""

import pickle
from pathlib import Path

import numpy as np
import xgboost as xgb

FOLDER = Path(__file__).resolve().parents[1] / "references"
COMMON = {"max_depth": 3, "eta": 0.3, "nthread": 1, "silent": 1}


def train(rounds, rows, labels, **parameters):
    return xgb.train({**COMMON, **parameters}, xgb.DMatrix(rows, labels), rounds)


def main():
    random = np.random.RandomState(0)
    rows = random.uniform(-3, 3, size=(400, 6)).astype("f4")
    rows[random.uniform(size=rows.shape) < 0.1] = np.nan
    values = np.nansum(rows * np.arange(6), axis=1) + np.where(np.isnan(rows[:, 5]), 7, 0)
    models = {
        "regression": train(8, rows, values, base_score=2.5),
        "classes": train(4, rows, (values > 0).astype(int) + (values > 8), objective="multi:softprob", num_class=3),
        "logistic": train(4, rows, values > 0, objective="binary:logistic", base_score=0.3),
        "poisson": train(4, rows, np.maximum(values, 0) // 2, objective="count:poisson"),
        "dart": train(6, rows, values, booster="dart", rate_drop=0.5),
        "linear": train(6, np.nan_to_num(rows), values, booster="gblinear", objective="reg:linear"),
    }
    # that version leaves trees of a dart booster out at random, unless it is told how many to ask
    answers = {
        name: model.predict(xgb.DMatrix(rows[:20]), ntree_limit=6 if name == "dart" else 0)
        for name, model in models.items()
    }
    for name, model in models.items():
        model.save_model(str(FOLDER / f"xgboost-0.90-{name}.model"))
    with (FOLDER / "xgboost-0.90-booster.pkl").open("wb") as file:
        pickle.dump(models["regression"], file, protocol=4)
    estimator = xgb.XGBRegressor(n_estimators=3, max_depth=2, n_jobs=1, missing=-1.0).fit(np.nan_to_num(rows), values)
    with (FOLDER / "xgboost-0.90-estimator.pkl").open("wb") as file:
        pickle.dump(estimator, file, protocol=4)
    answers["estimator"] = estimator.predict(np.where(np.isnan(rows[:20]), -1, rows[:20]))
    np.savez(FOLDER / "xgboost-0.90.npz", rows=rows[:20], **answers)


if __name__ == "__main__":
    main()
