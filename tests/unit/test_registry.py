"""Which framework a folder is for, by file names alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
