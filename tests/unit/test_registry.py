"""Which framework a folder is for, by file names alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mme.errors import ModelLoadError
from mme.frameworks import registry
from mme.settings import Settings


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
