"""Broken artifacts of MXNet models: each fails the load with a reason, none passes for a lack of memory."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mme.errors import ModelLoadError
from mme.frameworks import registry
from mme.frameworks.mxnet.adapter import artifacts, import_mxnet
from mme.settings import Settings
from tests.harness import models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return models.tiny_classifier(tmp_path / "model")


def load(folder: Path) -> None:
    registry.data_adapter_for(folder, Settings()).load(folder, Settings())


def assert_fails(folder: Path, *parts: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load(folder)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tiny_classifier_itself_loads(folder: Path) -> None:
    load(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert_fails(tmp_path / "none", "none is not a folder")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert_fails(tmp_path, "Found: nothing", "PREFIX-symbol.json")


def test_a_model_in_a_folder_inside(tmp_path: Path) -> None:
    models.multiplier(tmp_path / "inner")
    assert_fails(tmp_path, "must be at the top of the archive", "-C inner .")


def test_two_symbols(folder: Path) -> None:
    shutil.copy(folder / "model-symbol.json", folder / "other-symbol.json")
    assert_fails(folder, "2 files *-symbol.json", "model-symbol.json, other-symbol.json")


def test_no_parameters(folder: Path) -> None:
    (folder / "model-0000.params").unlink()
    assert_fails(folder, "no model-NNNN.params", "Add it")


def test_parameters_of_another_name(folder: Path) -> None:
    (folder / "model-0000.params").rename(folder / "other-0000.params")
    assert_fails(folder, "no model-NNNN.params", "other-0000.params", "rename")


def test_no_shapes(folder: Path) -> None:
    (folder / "model-shapes.json").unlink()
    assert_fails(folder, "0 files *-shapes.json", '[{"name": "data", "shape": [1, 3, 224, 224]}]')


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("{}", "not a list of inputs"),
        ("[]", "not a list of inputs"),
        ("[1]", "1 has no name"),
        ('[{"shape": [1]}]', "has no name"),
        ('[{"name": "data"}]', "shape of input 'data' is null"),
        ('[{"name": "data", "shape": []}]', "shape of input 'data' is []"),
        ('[{"name": "data", "shape": [1, -3]}]', "[1, -3]"),
        ('[{"name": "data", "shape": [0, 3]}]', "[0, 3]"),
        ('[{"name": "data", "shape": [1, 2.5]}]', "[1, 2.5]"),
        ('[{"name": "data", "shape": [1, true]}]', "[1, true]"),
        ('[{"name": "data", "shape": "1,3"}]', "1,3"),
        ('[{"name": "data", "shape": [1, 99999999999999999999]}]', "more than 1 GiB"),
        ('[{"name": "data", "shape": [1, 46340, 46340]}]', "more than 1 GiB"),
        ('[{"name": "data", "shape": [1, 20000, 20000]}]', "more than 1 GiB"),
        ('[{"name": "a", "shape": [1, 15000, 15000]}, {"name": "b", "shape": [1, 15000, 15000]}]', "more than 1 GiB"),
        ('[{"name": "data", "shape": [1, 3], "dtype": "text"}]', "dtype of input 'data'"),
        ('[{"name": "data", "shape": [1, 3]}, {"name": "data", "shape": [1, 3]}]', "twice"),
        ('[{"name": "pixels", "shape": [1, 1, 28, 28]}]', "its inputs are data"),
        ('[{"name": "data", "shape": [1, 28]}]', "do not fit together"),
        (
            '[{"name": "data", "shape": [1, 1, 28, 28]}, {"name": "softmax_label", "shape": [2]}]',
            "disagree on the batch",
        ),
    ],
)
def test_broken_shapes(folder: Path, text: str, part: str) -> None:
    (folder / "model-shapes.json").write_text(text)
    assert_fails(folder, "model-shapes.json", part)


def _edit(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(graph: dict[str, Any]) -> None:
        next(node for node in graph["nodes"] if node["name"] == name).update(changes)

    return edit


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda graph: graph.pop("nodes"), "no list of nodes"),
        (lambda graph: graph.update(heads=[]), "no list of nodes or of heads"),
        (lambda graph: graph.update(heads=[[999, 0, 0]]), "a head is not one of the nodes"),
        (lambda graph: graph.update(nodes=[1]), "node 0 has no op"),
        (lambda graph: graph.update(arg_nodes=[999]), "does not take this network"),
        (_edit("conv", inputs=[[99, 0, 0]]), "'conv'"),
        (_edit("conv", inputs=[[-1, 0, 0]]), "'conv'"),
        (_edit("relu", inputs=[[18, 0, 0]]), "an input that is not a node before it"),
        (_edit("conv", op="Convolver"), "Convolver"),
        (_edit("conv", attrs={"kernel": "(a, b)"}), "kernel"),
        (_edit("scores", attrs={"num_hidden": "11"}), "do not fit together"),
    ],
)
def test_broken_symbols(folder: Path, edit: Callable[[dict[str, Any]], None], part: str) -> None:
    path = folder / "model-symbol.json"
    graph = json.loads(path.read_text())
    edit(graph)
    path.write_text(json.dumps(graph))
    assert_fails(folder, "model-symbol.json", part)


@pytest.mark.parametrize("text", ["", "garbage", "[]", "null", '{"nodes": 1, "heads": 2}', "\udcff"])
def test_symbols_that_are_none(folder: Path, text: str) -> None:
    (folder / "model-symbol.json").write_text(text, errors="surrogateescape")
    assert_fails(folder, "model-symbol.json")


def test_missing_parameters_are_named(folder: Path) -> None:
    models.change_params(
        folder / "model-0000.params",
        lambda params: {name: value for name, value in params.items() if "conv" not in name},
    )
    assert_fails(folder, "model-0000.params", "lacks conv_weight, conv_bias", "model-symbol.json")


@pytest.mark.parametrize("name", ["arg:conv_weight", "aux:norm_moving_mean"])
def test_parameters_of_the_wrong_shape_are_named(folder: Path, name: str) -> None:
    models.change_params(folder / "model-0000.params", lambda params: params | {name: np.ones((3, 2), np.float32)})
    assert_fails(folder, "model-0000.params", "(3, 2)" if name.startswith("aux") else "do not fit together")


def test_parameters_without_names(folder: Path) -> None:
    path = folder / "model-0000.params"
    data = path.read_bytes()
    names = data.index(b"arg:") - 16  # the count, and the length of the first name
    path.write_bytes(data[:names] + struct.pack("<Q", 0))
    assert_fails(folder, "model-0000.params", "no names")


def test_every_truncation_of_the_parameters_is_found(folder: Path) -> None:
    path = folder / "model-0000.params"
    data = path.read_bytes()
    for length in [*range(200), *range(200, len(data), 13), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ModelLoadError, match="truncated or not written by MXNet"):
            artifacts.check_params(path)
    assert_fails(folder, "model-0000.params", "make the archive again")


def test_garbled_parameters_load_or_fail_as_broken_but_never_for_memory(folder: Path) -> None:
    path = folder / "model-0000.params"
    data = path.read_bytes()
    dice = random.Random(5)
    failed = 0
    for _ in range(300):
        garbled = bytearray(data)
        for _ in range(3):
            garbled[dice.randrange(len(data) if dice.random() < 0.3 else 200)] = dice.randrange(256)
        path.write_bytes(garbled)
        try:
            load(folder)
        except ModelLoadError as error:
            failed += 1
            assert "model-0000.params" in str(error)
    assert failed > 100


@pytest.mark.parametrize("old", [False, True])
def test_whole_parameters_pass(folder: Path, old: bool) -> None:
    if old:
        models.make_old(folder)
    artifacts.check_params(folder / "model-0000.params")


def test_the_last_operator_is_seen_through_those_that_change_no_number(tmp_path: Path) -> None:
    def graph(*nodes: tuple[str, list[int]]) -> artifacts.Graph:
        made = [
            {"op": op, "name": str(number), "inputs": [[other, 0, 0] for other in inputs]}
            for number, (op, inputs) in enumerate(nodes)
        ]
        path = tmp_path / "x-symbol.json"
        path.write_text(json.dumps({"nodes": made, "heads": [[len(nodes) - 1, 0, 0]]}))
        return artifacts.read_graph(path)

    data: tuple[str, list[int]] = ("null", [])
    assert graph(data, ("softmax", [0])).head_ops == ("softmax",)
    assert graph(data, ("softmax", [0]), ("Reshape", [1]), ("Cast", [2])).head_ops == ("softmax",)
    assert graph(data, ("softmax", [0]), ("FullyConnected", [1])).head_ops == ("FullyConnected",)
    assert graph(data, ("Flatten", [0])).head_ops == ("null",)


@pytest.mark.parametrize("size", [1, 900, 1000, 1020, 1030, 5000])
def test_heads_of_parameters_are_found_wherever_they_lie(tmp_path: Path, size: int) -> None:
    """They are read so many bytes at a time, which end anywhere in them; what lies between is not read."""
    path = tmp_path / "model-0000.params"
    mx = import_mxnet(Settings())
    mx.nd.save(str(path), {f"arg:{number}": mx.nd.zeros((size + number,)) for number in range(40)})
    assert artifacts.check_params(path) is False
    whole = path.read_bytes()
    for lost in (1, 13, len(whole) // 2):
        path.write_bytes(whole[:-lost])
        with pytest.raises(ModelLoadError, match=r"ends too early|garbled"):
            artifacts.check_params(path)
