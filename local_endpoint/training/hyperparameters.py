"""Hyperparameters of SageMaker's XGBoost algorithm: which there are, what they may be, and AWS's words for all else.

The container checks them, not the API: a job with a wrong one is created, and fails.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class HyperparameterError(ValueError):
    """In the words of SageMaker's algorithm toolkit."""


@dataclass(frozen=True)
class Interval:
    """From ``low`` to ``high``; an open end is not in it."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        low = "(-inf" if self.low == -math.inf else f"{'(' if self.low_open else '['}{self.low}"
        high = "+inf)" if self.high == math.inf else f"{self.high}{')' if self.high_open else ']'}"
        return f"{low}, {high}"


@dataclass(frozen=True)
class Hyperparameter:
    """``parse`` raises ``ValueError`` for a text that it does not understand."""

    parse: Callable[[str], Any]
    allowed: Interval | tuple[str, ...] | None = None


def _text(value: str) -> str:
    return value


def _names(value: str) -> list[str]:
    return [each.strip() for each in value.split(",")]


def _constraints(value: str) -> str:
    """Of XGBoost itself: numbers in brackets."""
    if not re.fullmatch(r"[\[\]()\d,\s-]+", value):
        raise ValueError(value)
    return value


POSITIVE = Interval(1)
NOT_NEGATIVE = Interval(0)
FRACTION = Interval(0, 1)
SHARE = Interval(0, 1, low_open=True)
SWITCH = Interval(0, 1)
OBJECTIVES = (
    "binary:logistic", "binary:logitraw", "binary:hinge", "count:poisson", "multi:softmax", "multi:softprob",
    "rank:pairwise", "rank:ndcg", "rank:map", "reg:linear", "reg:squarederror", "reg:logistic", "reg:gamma",
    "reg:pseudohubererror", "reg:absoluteerror", "reg:squaredlogerror", "reg:tweedie", "survival:aft", "survival:cox",
)  # fmt: skip
METRICS = (
    "rmse", "rmsle", "mae", "mape", "mphe", "logloss", "error", "merror", "mlogloss", "auc", "aucpr", "ndcg", "map",
    "ndcg-", "map-", "poisson-nloglik", "gamma-nloglik", "gamma-deviance", "cox-nloglik", "tweedie-nloglik",
    "aft-nloglik", "interval-regression-accuracy",
)  # fmt: skip
# Kinds of updaters: those that grow trees, of which there may be one, and all others.
GROWING = ("grow_colmaker", "distcol", "grow_histmaker", "grow_local_histmaker", "grow_quantile_histmaker")
OF_TREES = (*GROWING, "grow_skmaker", "sync", "refresh", "prune")
OF_UPDATES = ("refresh", "prune")
LINEAR = ("shotgun", "coord_descent")
THRESHOLD_METRICS = ("error", "ndcg", "map")
HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "num_round": Hyperparameter(int, POSITIVE),
    "csv_weights": Hyperparameter(int, SWITCH),
    "early_stopping_rounds": Hyperparameter(int, POSITIVE),
    "booster": Hyperparameter(_text, ("gbtree", "gblinear", "dart")),
    "verbosity": Hyperparameter(int, Interval(0, 3)),
    "nthread": Hyperparameter(int, POSITIVE),
    "eta": Hyperparameter(float, FRACTION),
    "gamma": Hyperparameter(float, NOT_NEGATIVE),
    "max_depth": Hyperparameter(int, NOT_NEGATIVE),
    "min_child_weight": Hyperparameter(float, NOT_NEGATIVE),
    "max_delta_step": Hyperparameter(float, NOT_NEGATIVE),
    "subsample": Hyperparameter(float, SHARE),
    "colsample_bytree": Hyperparameter(float, SHARE),
    "colsample_bylevel": Hyperparameter(float, SHARE),
    "colsample_bynode": Hyperparameter(float, SHARE),
    "lambda": Hyperparameter(float, NOT_NEGATIVE),
    "alpha": Hyperparameter(float, NOT_NEGATIVE),
    "tree_method": Hyperparameter(_text, ("auto", "exact", "approx", "hist", "gpu_hist")),
    "sketch_eps": Hyperparameter(float, Interval(0, 1, low_open=True, high_open=True)),
    "scale_pos_weight": Hyperparameter(float, Interval(0, low_open=True)),
    "updater": Hyperparameter(_names),
    "dsplit": Hyperparameter(_text, ("row", "col")),
    "refresh_leaf": Hyperparameter(int, SWITCH),
    "process_type": Hyperparameter(_text, ("default", "update")),
    "grow_policy": Hyperparameter(_text, ("depthwise", "lossguide")),
    "max_leaves": Hyperparameter(int, NOT_NEGATIVE),
    "max_bin": Hyperparameter(int, NOT_NEGATIVE),
    "predictor": Hyperparameter(_text, ("auto", "cpu_predictor", "gpu_predictor")),
    "monotone_constraints": Hyperparameter(_constraints),
    "interaction_constraints": Hyperparameter(_constraints),
    "sample_type": Hyperparameter(_text, ("uniform", "weighted")),
    "normalize_type": Hyperparameter(_text, ("tree", "forest")),
    "rate_drop": Hyperparameter(float, FRACTION),
    "one_drop": Hyperparameter(int, SWITCH),
    "skip_drop": Hyperparameter(float, FRACTION),
    "lambda_bias": Hyperparameter(float, FRACTION),
    "tweedie_variance_power": Hyperparameter(float, Interval(1, 2, low_open=True, high_open=True)),
    "objective": Hyperparameter(_text, OBJECTIVES),
    "num_class": Hyperparameter(int, Interval(2)),
    "base_score": Hyperparameter(float, NOT_NEGATIVE),
    "eval_metric": Hyperparameter(_names),
    "seed": Hyperparameter(int, Interval(-(2**31), 2**31 - 1, low_open=True, high_open=True)),
    "num_parallel_tree": Hyperparameter(int, POSITIVE),
    "save_model_on_termination": Hyperparameter(_text, ("true", "false")),
    "aft_loss_distribution": Hyperparameter(_text, ("normal", "logistic", "extreme")),
    "aft_loss_distribution_scale": Hyperparameter(float, Interval(0, low_open=True)),
    "single_precision_histogram": Hyperparameter(_text, ("true", "false")),
    "deterministic_histogram": Hyperparameter(_text, ("true", "false")),
    "sampling_method": Hyperparameter(_text, ("uniform", "gradient_based")),
    "prob_buffer_row": Hyperparameter(int, Interval(1, low_open=True)),
    "silent": Hyperparameter(int, SWITCH),  # of 0.72; verbosity took its place
}
ALIASES = {"learning_rate": "eta", "min_split_loss": "gamma", "reg_lambda": "lambda", "reg_alpha": "alpha"}
REQUIRED = "num_round"


def parsed(given: Mapping[str, str]) -> dict[str, Any]:
    """The values, of their types. Raises ``HyperparameterError``."""
    if REQUIRED not in given:
        raise HyperparameterError(f"Missing required hyperparameter: {REQUIRED}")
    values: dict[str, Any] = {}
    for given_name, text in given.items():
        name = ALIASES.get(given_name, given_name)
        if name not in HYPERPARAMETERS:
            raise HyperparameterError(f"Extraneous hyperparameter found: {name}")
        try:
            values[name] = HYPERPARAMETERS[name].parse(text)
        except ValueError:
            raise HyperparameterError(f"Hyperparameter {name}: could not parse value") from None
    for name, value in values.items():
        allowed = HYPERPARAMETERS[name].allowed
        if allowed is not None and value not in allowed:
            shown = list(allowed) if isinstance(allowed, tuple) else allowed
            raise HyperparameterError(f"Hyperparameter {name}: {value} is not in {shown}")
    _check_together(values)
    return values


def _check_together(values: Mapping[str, Any]) -> None:
    objective = values.get("objective", "reg:squarederror")
    if objective in ("multi:softmax", "multi:softprob") and "num_class" not in values:
        raise HyperparameterError("Require input for parameter 'num_class' for multi-classification")
    _check_metrics(values.get("eval_metric", []), objective)
    _check_updaters(values)
    for name, methods in (
        ("monotone_constraints", ("exact", "hist")),
        ("interaction_constraints", ("exact", "hist", "approx")),
    ):
        if name in values and values.get("tree_method") not in methods:
            raise HyperparameterError(
                f"{name} can be used only when the tree_method parameter is set to either {_quoted(methods[:-1])} or "
                f"'{methods[-1]}'."
            )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{each}'" for each in names)


def _check_metrics(metrics: list[str], objective: str) -> None:
    for metric in metrics:
        name, with_threshold, threshold = (each.strip() for each in metric.partition("@"))
        if not with_threshold and metric not in METRICS:
            raise HyperparameterError(f"Hyperparameter eval_metric: value {metrics} not in range {list(METRICS)}")
        if with_threshold and name not in THRESHOLD_METRICS:
            raise HyperparameterError(
                f"Metric '{metric}' is not supported. Parameter 'eval_metric' with customized threshold should be one "
                "of these options: 'error', 'ndcg', 'map'."
            )
        if with_threshold and not _is_number(threshold):
            raise HyperparameterError(f"Threshold value 't' in '{name}@t' expects float input.")
    if "auc" in metrics and not objective.startswith(("binary:", "rank:", "multi:")):
        raise HyperparameterError("Metric 'auc' can only be applied for classification and ranking problems.")
    if "aft-nloglik" in metrics and objective != "survival:aft":
        raise HyperparameterError("Metric 'aft-nloglik' can only be applied for 'survival:aft' objective.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_updaters(values: Mapping[str, Any]) -> None:
    updaters = values.get("updater")
    if updaters is None:
        return
    if values.get("booster") == "gblinear":
        if len(updaters) != 1 or updaters[0] not in LINEAR:
            raise HyperparameterError("Linear updater should be one of these options: 'shotgun', 'coord_descent'.")
    elif values.get("process_type") == "update":
        if not set(updaters) <= set(OF_UPDATES):
            raise HyperparameterError("process_type 'update' can only be used with updater 'refresh' and 'prune'")
    elif not set(updaters) <= set(OF_TREES):
        raise HyperparameterError(f"Tree updater should be selected from these options: {_quoted(OF_TREES)}.")
    elif sum(each in GROWING for each in updaters) > 1:
        raise HyperparameterError(
            f"Only one tree grow plugin can be selected. Choose one from the following: {_quoted(GROWING)}"
        )
