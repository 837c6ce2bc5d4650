"""Trains one model with XGBoost's own ``train``, in a process of its own: ``python -m … program FOLDER``.

    FOLDER/job.json       hyperparameters (parsed), content_types by channel, memory_bytes
    FOLDER/input/CHANNEL  the channel's files
    FOLDER/model          xgboost-model, in the end
    FOLDER/failure        why it failed, as SageMaker's containers write it

Exit status 0 is done. It stops after the present round where SIGTERM comes and ``save_model_on_termination`` is set.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GZIP = b"\x1f\x8b"
MODEL = "xgboost-model"
OUT_OF_MEMORY = (
    "Please use an instance type with more memory, or reduce the size of training data processed on an instance."
)
# Of SageMaker's algorithm, not of the library, or no longer of it.
OWN = (
    "num_round", "csv_weights", "early_stopping_rounds", "save_model_on_termination", "predictor", "sketch_eps",
    "dsplit", "lambda_bias", "silent", "single_precision_histogram", "deterministic_histogram", "prob_buffer_row",
)  # fmt: skip
RENAMED = {"objective": {"reg:linear": "reg:squarederror"}, "tree_method": {"gpu_hist": "hist"}}


class UserError(Exception):
    """The fault is in the data or the hyperparameters."""


def main(folder: Path) -> int:
    """The exit status."""
    job = json.loads((folder / "job.json").read_text())
    resource.setrlimit(resource.RLIMIT_DATA, (job["memory_bytes"], job["memory_bytes"]))
    try:
        train(folder, job["hyperparameters"], job["content_types"])
    except UserError as error:
        return _fail(folder, f"ClientError: {error}")
    except MemoryError:
        return _fail(folder, f"ClientError: {OUT_OF_MEMORY}")
    except Exception as error:
        if "bad_alloc" in str(error) or "Cannot allocate memory" in str(error):
            return _fail(folder, f"ClientError: {OUT_OF_MEMORY}")
        first_line = str(error).strip().splitlines()[:2]
        return _fail(folder, f"AlgorithmError: XGB train call failed with exception:\n{' '.join(first_line)}")
    return 0


def _fail(folder: Path, reason: str) -> int:
    print(reason, flush=True)
    (folder / "failure").write_text(reason)
    return 1


def import_xgboost() -> Any:
    """XGBoost without its estimators: scikit-learn and pandas, where they are installed, are three quarters of the time
    that its import takes. Both can be imported later."""
    names = [name for name in ("sklearn", "pandas") if name not in sys.modules]
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]  # so that importing it raises ImportError
    try:
        import xgboost
    finally:
        for name in names:
            del sys.modules[name]
    return xgboost


def train(folder: Path, hyperparameters: Mapping[str, Any], content_types: Mapping[str, str]) -> None:
    """Reads, trains and saves. Raises ``UserError`` and whatever the library raises."""
    xgboost = import_xgboost()
    data = load(folder / "input", content_types, hyperparameters)
    for name, matrix in data.items():
        print(f"{name.capitalize()} matrix has {matrix.num_row()} rows and {matrix.num_col()} columns", flush=True)
    rounds = hyperparameters.get("early_stopping_rounds")
    if rounds is not None and "validation" not in data:
        raise UserError("early_stopping_rounds needs a validation channel: give one, or leave it out.")
    callbacks: list[Any] = [_log_of_rounds(xgboost, hyperparameters.get("save_model_on_termination") == "true")]
    if rounds is not None:
        callbacks.append(xgboost.callback.EarlyStopping(rounds=rounds, data_name="validation", save_best=True))
    booster = xgboost.train(
        parameters_of(hyperparameters),
        data["train"],
        num_boost_round=hyperparameters["num_round"],
        evals=[(matrix, name) for name, matrix in data.items()],
        callbacks=callbacks,
        verbose_eval=False,
    )
    (folder / "model").mkdir(exist_ok=True)
    saved = folder / "model" / f"{MODEL}.ubj"  # the library goes by the end of the name
    booster.save_model(saved)
    saved.rename(folder / "model" / MODEL)


def parameters_of(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the library, under the names and values that it knows today."""
    given = {name: value for name, value in hyperparameters.items() if name not in OWN}
    if "updater" in given:
        given["updater"] = ",".join(given["updater"])
    return {name: RENAMED[name].get(value, value) if name in RENAMED else value for name, value in given.items()}


def _log_of_rounds(xgboost: Any, save_on_termination: bool) -> Any:
    """One line per round, as SageMaker's logs have it (#011 is a tab); ends the training after SIGTERM."""
    told: list[int] = []
    if save_on_termination:
        signal.signal(signal.SIGTERM, lambda number, _: told.append(number))

    class LogOfRounds(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            values = [
                f"{name}-{metric}:{series[-1]:.5f}"
                for name, metrics in evals_log.items()
                for metric, series in metrics.items()
            ]
            print("#011".join([f"[{epoch}]", *values]), flush=True)
            return bool(told)

    return LogOfRounds()


# ---- data ----


def load(folder: Path, content_types: Mapping[str, str], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """A DMatrix by channel, all with as many columns."""
    if content_types["train"] == "libsvm":
        return _load_libsvm(folder, list(content_types), hyperparameters.get("objective", "").startswith("rank:"))
    with_weights = hyperparameters.get("csv_weights") == 1
    return {name: _load_csv(folder / name, with_weights) for name in content_types}


def _files(folder: Path) -> list[bytes]:
    """Their contents, unpacked where they are packed."""
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    return [gzip.decompress(each) if each.startswith(GZIP) else each for each in contents]


def _load_csv(folder: Path, with_weights: bool) -> Any:
    """The label first, then the weight if there is one, then features; an empty cell is missing."""
    import numpy as np
    import xgboost

    try:
        tables = [_table(np, content) for content in _files(folder) if content.strip()]
        rows = np.concatenate(tables)
    except ValueError as error:
        raise UserError(
            f"Loading csv data failed with Exception, please ensure data is in csv format: {error}"
        ) from None
    start = 2 if with_weights else 1
    if rows.shape[1] <= start:
        raise UserError(f"Loading csv data failed: {rows.shape[1]} columns leave none for features.")
    weights = rows[:, 1] if with_weights else None
    return xgboost.DMatrix(rows[:, start:], label=rows[:, 0], weight=weights)


def _table(np: Any, content: bytes) -> Any:
    """(rows, columns) float32. Raises ``ValueError``."""
    text = content.decode("utf-8-sig")
    try:
        return np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.float32, ndmin=2, comments=None)
    except ValueError:  # with empty cells, if not wrong: this way takes ten times as long
        return np.loadtxt(
            io.StringIO(text),
            delimiter=",",
            dtype=np.float32,
            ndmin=2,
            comments=None,
            converters=lambda cell: float(cell.strip() or "nan"),
        )


def _load_libsvm(folder: Path, channels: list[str], with_queries: bool) -> dict[str, Any]:
    """The columns are the indices that the files have, from 0 on, as XGBoost takes them."""
    import numpy as np
    import scipy.sparse
    import xgboost
    from sklearn.datasets import load_svmlight_files

    contents = {name: [io.BytesIO(each) for each in _files(folder / name) if each.strip()] for name in channels}
    files = [file for each in contents.values() for file in each]
    try:
        loaded = load_svmlight_files(files, dtype=np.float32, zero_based=True, query_id=with_queries)
    except ValueError as error:
        raise UserError(
            f"Loading libsvm data failed with Exception, please ensure data is in libsvm format: {error}"
        ) from None
    parts = 3 if with_queries else 2
    each_file = [loaded[start : start + parts] for start in range(0, len(loaded), parts)]
    data = {}
    for name in channels:
        own, each_file = each_file[: len(contents[name])], each_file[len(contents[name]) :]
        queries = np.concatenate([file[2] for file in own]) if with_queries else None
        data[name] = xgboost.DMatrix(
            scipy.sparse.vstack([file[0] for file in own], format="csr"),
            label=np.concatenate([file[1] for file in own]),
            qid=queries,
        )
    return data


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
