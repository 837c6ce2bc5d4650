"""XGBoost's binary format, which versions up to 3.0 read and versions up to 1.7 wrote by themselves, put into JSON.

Little endian; a text or a list is a count of 8 bytes, and its entries:

    "binf"                  in some files
    learner      136 bytes  base score f4, features u4, classes i4, has attributes i4, has metrics i4, major version u4,
                            minor version u4, 27 reserved
    text, text              objective, booster
    gbtree       160 bytes  trees i4, roots i4, features i4, padding i4, 8 unused, groups i4, leaf vector i4,
                            32 reserved
    each tree    148 bytes  roots i4, nodes i4, deleted i4, depth i4, features i4, leaf vector i4, 31 reserved
                 20 a node  parent i4, left i4, right i4, feature u4 (highest bit: missing goes left), split or leaf f4
                 16 a node  gain f4, hessian f4, weight f4, leaves i4
    groups       4 a tree   which output a tree belongs to
    dart         list       a weight f4 per tree
    gblinear     136 bytes  features u4, groups i4, 32 reserved, in place of the trees; a list of weights f4
    attributes   list       pairs of texts, where there are any

Versions before 1.0 kept the base score as a margin; JSON keeps it as a prediction.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

_NODE = np.dtype([("parent", "<i4"), ("left", "<i4"), ("right", "<i4"), ("feature", "<u4"), ("value", "<f4")])
_STATISTICS = np.dtype([("gain", "<f4"), ("hessian", "<f4"), ("weight", "<f4"), ("leaves", "<i4")])
_DEFAULT_LEFT = 1 << 31
_LONGEST_TEXT_BYTES = 1 << 20
_RENAMED = {"reg:linear": "reg:squarederror", "gpu:reg:linear": "reg:squarederror"}
_BOOSTERS = ("gbtree", "dart", "gblinear")


class _Reader:
    def __init__(self, body: bytes | bytearray) -> None:
        self._body = memoryview(body)
        self._position = 4 if body[:4] == b"binf" else 0

    def bytes(self, count: int) -> memoryview:
        if count < 0 or count > len(self._body) - self._position:
            raise ValueError("it ends in the middle")
        self._position += count
        return self._body[self._position - count : self._position]

    def numbers(self, layout: str, size: int) -> tuple[Any, ...]:
        return struct.unpack_from(layout, self.bytes(size))

    def array(self, dtype: np.dtype | str, count: int) -> np.ndarray:
        kind = np.dtype(dtype)
        return np.frombuffer(self.bytes(kind.itemsize * count), kind)

    def count(self) -> int:
        return self.numbers("<Q", 8)[0]

    def text(self) -> str:
        length = self.count()
        if length > _LONGEST_TEXT_BYTES:
            raise ValueError(f"there is a text of {length} bytes")
        return bytes(self.bytes(length)).decode("utf-8", "replace")


def to_json(xgb: Any, body: bytes | bytearray) -> bytearray:
    """The model in the JSON of the XGBoost that is here. Raises ``ValueError`` for what cannot be read."""
    reader = _Reader(body)
    base_score, features, classes, has_attributes, _, major, _ = reader.numbers("<fIiiiII", 136)
    objective, kind = reader.text(), reader.text()
    objective = _RENAMED.get(objective, objective)
    if kind not in _BOOSTERS:
        raise ValueError(f"its booster is {kind[:40]!r}, not one of {', '.join(_BOOSTERS)}")
    if major < 1:
        base_score = _prediction(objective, base_score)
    model = _empty_model(xgb, objective, kind, features, classes)
    learner = model["learner"]
    booster = learner["gradient_booster"]
    groups = None
    if kind == "gblinear":
        reader.bytes(136)
        booster["model"]["weights"] = reader.array("<f4", reader.count()).tolist()
    else:
        trees = booster.get("gbtree", booster)  # inside of the dart booster, which XGBoost 3.4 has made one with it
        groups = _read_trees(reader, trees["model"], features)
        if kind == "dart":
            weights = booster if "gbtree" in booster else booster["model"]
            weights["weight_drop"] = reader.array("<f4", reader.count()).tolist() if groups else []
    attributes = {}
    if has_attributes:
        attributes = {reader.text(): reader.text() for _ in range(min(reader.count(), 10_000))}
    if groups is not None:
        trees["model"] |= _iterations(groups, attributes)
    learner["attributes"] = attributes
    learner["learner_model_param"] |= {
        "base_score": repr(float(base_score)),
        "num_feature": str(features),
        "num_class": str(classes),
        "boost_from_average": "0",
    }
    return bytearray(json.dumps(model).encode())


def _prediction(objective: str, margin: float) -> float:
    if objective in ("binary:logistic", "reg:logistic"):
        return 1 / (1 + math.exp(-margin))
    if objective in ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox"):
        return math.exp(margin)
    return margin


def _empty_model(xgb: Any, objective: str, kind: str, features: int, classes: int) -> dict[str, Any]:
    """A model of no iteration as the XGBoost here writes it."""
    parameters = {"objective": objective, "booster": kind, "base_score": 0.5, "nthread": 1}
    data = xgb.DMatrix(np.zeros((1, max(features, 1)), np.float32), np.ones(1, np.float32), nthread=1)
    if classes:
        parameters["num_class"] = classes
        data.set_label(np.zeros(1, np.float32))
    try:
        booster = xgb.train(parameters, data, num_boost_round=0)
        return json.loads(bytes(booster.save_raw("json")))
    except xgb.core.XGBoostError as error:
        raise ValueError(f"its objective {objective[:60]!r} is not known here ({str(error).splitlines()[0]})") from None


def _read_trees(reader: _Reader, model: dict[str, Any], features: int) -> list[int]:
    """Puts the trees into ``model``; which output each belongs to comes back."""
    count, _, _, _, _, _, leaf_vector = reader.numbers("<iiiiqii", 160)
    if count < 0 or leaf_vector:
        raise ValueError("its head is not one of trees")
    model["trees"] = [_read_tree(reader, number, features) for number in range(count)]
    groups = reader.array("<i4", count).tolist() if count else []
    model["tree_info"] = groups
    model["gbtree_model_param"] |= {"num_trees": str(count)}
    return groups


def _iterations(groups: list[int], attributes: dict[str, str]) -> dict[str, Any]:
    """Where each iteration begins: a tree per output, more where early stopping says so (``num_parallel_tree``)."""
    outputs = max(groups, default=0) + 1
    parallel = 1
    try:
        parallel = int(attributes["best_ntree_limit"]) // (int(attributes["best_iteration"]) + 1)
    except (KeyError, ValueError, ZeroDivisionError):
        pass
    step = outputs * max(parallel, 1)
    return {"iteration_indptr": [*range(0, len(groups), step), len(groups)] if groups else [0]}


def _read_tree(reader: _Reader, number: int, features: int) -> dict[str, Any]:
    _, count, deleted, _, _, leaf_vector = reader.numbers("<6i", 148)
    if count < 1 or leaf_vector:
        raise ValueError(f"tree {number} has a head that is none")
    nodes, statistics = reader.array(_NODE, count), reader.array(_STATISTICS, count)
    left, right = nodes["left"], nodes["right"]
    children = np.concatenate([left, right])
    if (children >= count).any() or (children < -1).any():
        raise ValueError(f"tree {number} leads out of itself")
    if ((nodes["feature"][left >= 0] & (_DEFAULT_LEFT - 1)) >= features).any():
        raise ValueError(f"tree {number} asks for more than {features} features")
    return {
        "base_weights": statistics["weight"].tolist(),
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": (nodes["feature"] >> 31).tolist(),
        "id": number,
        "left_children": left.tolist(),
        "loss_changes": statistics["gain"].tolist(),
        "parents": [parent & 0x7FFFFFFF for parent in nodes["parent"].tolist()],
        "right_children": right.tolist(),
        "split_conditions": nodes["value"].tolist(),
        "split_indices": (nodes["feature"] & (_DEFAULT_LEFT - 1)).tolist(),
        "split_type": [0] * count,
        "sum_hessian": statistics["hessian"].tolist(),
        "tree_param": {
            "num_deleted": str(deleted),
            "num_feature": str(features),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    }
