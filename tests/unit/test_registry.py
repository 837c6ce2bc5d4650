"""Which framework a folder is for: by the names of its files, and by first bytes where a name does not tell."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mme.errors import ModelLoadError
from mme.frameworks import registry
from mme.settings import Settings
from tests.harness import models, onnx_models, scripts, tables


def exported_program(folder: Path) -> Path:
    """As far as PyTorch's adapter looks at it without PyTorch."""
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
    return folder


# A model of each framework, by the endings of its files that any name may have.
MODELS: dict[str, Callable[[Path], Path]] = {
    "mxnet": models.tiny_mlp,
    "onnx": onnx_models.onnx_linear,
    "xgboost": lambda folder: tables.xgboost_model(folder, file="house.ubj"),
    "sklearn": lambda folder: tables.sklearn_model(folder, file="house.joblib"),
    "lightgbm": lambda folder: tables.lightgbm_model(folder, file="house.lgb"),
    "pytorch": exported_program,
    "script": scripts.adder,
    "djl": lambda folder: scripts.djl(folder, "def handle(inputs): return None"),
}


@pytest.mark.parametrize(
    ("files", "framework"),
    [
        (["net-symbol.json", "net-0000.params"], "mxnet"),
        (["net-symbol.json"], "mxnet"),
        (["net-symbol.json.bak", "symbol.json", "model.bin"], None),
        ([], None),
    ],
)
def test_a_framework_is_known_by_its_files(tmp_path: Path, files: list[str], framework: str | None) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert registry.framework_of(tmp_path, Settings()) == framework


@pytest.mark.parametrize(
    ("name", "content", "framework"),
    [
        ("xgboost-model", b"", "xgboost"),
        ("house.ubj", b"", "xgboost"),
        ("booster.json", b'{"learner":{"attributes":{}', "xgboost"),
        ("booster.json", b'{ "version": [2, 0, 3],\n"learner"', "xgboost"),
        ("config.json", b'{"version": "2"}', None),
        ("learner.json", b'{"learner": 3}', None),
        ("empty.json", b"", None),
        ("model.txt", b"tree\nversion=v4\n", "lightgbm"),
        ("model.txt", b"a tree\n", None),
        ("model.txt", b"", None),
    ],
)
def test_files_of_one_suffix_are_told_by_their_first_bytes(
    tmp_path: Path, name: str, content: bytes, framework: str | None
) -> None:
    (tmp_path / name).write_bytes(content)
    assert registry.framework_of(tmp_path, Settings()) == framework


def test_a_pipe_in_place_of_a_model_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.json")
    assert registry.framework_of(tmp_path, Settings()) is None


def test_files_of_two_frameworks_are_refused_by_both_names(tmp_path: Path) -> None:
    (tmp_path / "net-symbol.json").touch()
    (tmp_path / "xgboost-model").touch()
    with pytest.raises(ModelLoadError, match=r"2 kinds of model: mxnet: .*; xgboost: .*code/inference\.py"):
        registry.adapter_for(tmp_path, Settings())


def test_a_framework_that_is_not_installed_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xgboost-model").touch()
    monkeypatch.setattr(registry, "is_installed", lambda name: False)
    with pytest.raises(ModelLoadError, match=r"a model of xgboost, which is not installed here\. Install"):
        registry.adapter_for(tmp_path, Settings())


def test_a_folder_that_cannot_be_read_is_of_no_framework(tmp_path: Path) -> None:
    assert registry.framework_of(tmp_path / "missing", Settings()) is None


def test_a_framework_is_told_without_importing_it_or_numpy(tmp_path: Path) -> None:
    (tmp_path / "net-symbol.json").touch()
    program = f"""
import sys
from mme.frameworks import registry
import mme.zygote.root
from mme.settings import Settings
registry.frameworks_to_preload(Settings())
assert registry.framework_of({str(tmp_path)!r}, Settings()) == "mxnet"
print(sorted(sys.modules.keys() & {{"numpy", "mxnet", "mms", "boto3", "psutil", "requests", "PIL"}}))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "[]\n", ended.stderr or ended.stdout


def add_macos_files(folder: Path) -> None:
    """What macOS's ``tar`` adds: a file of attributes beside each file and folder."""
    for path in list(folder.rglob("*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ")


@pytest.mark.parametrize("framework", registry.ADAPTERS)
def test_what_macos_adds_to_an_archive_is_none_of_the_models_files(tmp_path: Path, framework: str) -> None:
    folder = MODELS[framework](tmp_path / "model")
    before = registry.frameworks_of(folder, Settings())
    add_macos_files(folder)
    assert framework in before
    assert registry.frameworks_of(folder, Settings()) == before
    registry.adapter(framework).check_folder(folder)


@pytest.mark.parametrize("name", ["._net-symbol.json", "._m.onnx", "._m.ubj", "._m.joblib", "._m.lgb", "._m.pt2"])
def test_macos_files_alone_are_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert registry.frameworks_of(tmp_path, Settings()) == ()


@pytest.mark.parametrize("framework", registry.ADAPTERS)
def test_the_folder_that_a_model_was_packed_with_is_named(tmp_path: Path, framework: str) -> None:
    MODELS[framework](tmp_path / "digits")
    (tmp_path / "__MACOSX").mkdir()
    add_macos_files(tmp_path)
    with pytest.raises(ModelLoadError, match=r"in the folder digits/.*tar czf model\.tar\.gz -C digits \."):
        registry.adapter_for(tmp_path, Settings())


def test_of_two_folders_with_models_none_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.onnx").touch()
    with pytest.raises(ModelLoadError, match=r"Found: one/, two/\. .* must be at the top of the archive"):
        registry.adapter_for(tmp_path, Settings())
