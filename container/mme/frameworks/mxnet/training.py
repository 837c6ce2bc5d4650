"""Training networks of detectors (SSD, as SageMaker's built-in algorithm has it) without what only a training needs.

Such a network compares anchors with labels (MultiBoxTarget), which no request has. What detects is in it as well: an
output of MultiBoxDetection. It takes scores of SoftmaxOutput, whose label is compared in the backward pass alone; in
its place comes SoftmaxActivation, as ``deploy.py`` of MXNet's SSD has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mme.errors import ModelLoadError

Entry = list[int]  # node, output, …
Node = dict[str, Any]

TARGETS = frozenset({"MultiBoxTarget", "_contrib_MultiBoxTarget", "_npx_multibox_target"})
_DETECTIONS = {"MultiBoxDetection", "_contrib_MultiBoxDetection", "_npx_multibox_detection"}
_LOSSES_OF_NOTHING = {"MakeLoss", "make_loss", "BlockGrad", "identity", "_copy"}  # that an output may stand behind


def cut_to_detections(path: Path, graph: dict[str, Any]) -> list[Entry]:
    """Leaves the outputs alone that detect, and of the nodes those that they need; returns the heads.

    ``graph`` is the checked content of *-symbol.json at ``path``. Raises ``ModelLoadError`` where none detects.
    """
    nodes: list[Node] = graph["nodes"]
    heads = [head for head in graph["heads"] if _detects(nodes, head[0])]
    heads = heads or [[position, 0, 0] for position, node in enumerate(nodes) if node["op"] in _DETECTIONS]
    for node in nodes:
        if node["op"] == "SoftmaxOutput":
            _activate_only(node)
    needed = _needed(nodes, heads)
    if not heads or any(nodes[position]["op"] in TARGETS for position in needed):
        raise ModelLoadError(
            f"{path}: it is a network for training: MultiBoxTarget in it compares with labels, which no request has, "
            "and no output of MultiBoxDetection does without. Save the network that detects (deploy.py of MXNet's SSD "
            "and of SageMaker's object detection makes it)."
        )
    numbers = {position: number for number, position in enumerate(needed)}

    def renumbered(entries: list[Entry]) -> list[Entry]:
        return [[numbers[entry[0]], *entry[1:]] for entry in entries]

    kept = [{**nodes[position], "inputs": renumbered(nodes[position]["inputs"])} for position in needed]
    nodes[:] = kept
    graph["heads"] = renumbered(heads)
    graph["arg_nodes"] = [number for number, node in enumerate(kept) if node["op"] == "null"]
    graph.pop("node_row_ptr", None)
    return graph["heads"]


def _detects(nodes: list[Node], position: int) -> bool:
    while nodes[position]["op"] in _LOSSES_OF_NOTHING and nodes[position]["inputs"]:
        position = nodes[position]["inputs"][0][0]
    return nodes[position]["op"] in _DETECTIONS


def _activate_only(node: Node) -> None:
    """Makes of a SoftmaxOutput the softmax that its forward pass is."""
    key = next((key for key in ("attrs", "attr", "param") if key in node), "attrs")
    attributes = node.get(key) or {}
    if str(attributes.get("preserve_shape", False)) in ("True", "1"):
        return
    by_channel = str(attributes.get("multi_output", False)) in ("True", "1")
    node["op"] = "SoftmaxActivation"
    node[key] = {"mode": "channel" if by_channel else "instance"}
    node["inputs"] = node["inputs"][:1]


def _needed(nodes: list[Node], heads: list[Entry]) -> list[int]:
    """The nodes that the heads need, in order."""
    needed: set[int] = set()
    waiting = [head[0] for head in heads]
    while waiting:
        position = waiting.pop()
        if position not in needed:
            needed.add(position)
            waiting += [entry[0] for entry in nodes[position]["inputs"]]
    return sorted(needed)
