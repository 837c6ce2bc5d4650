"""PyTorch models where PyTorch is not installed: what is refused, and how it is said.

The tests of those that run are run in an environment of their own.
"""

from __future__ import annotations

import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from mme.errors import ModelLoadError, ModelRefused
from mme.frameworks import registry
from mme.frameworks.pytorch import artifacts
from mme.frameworks.pytorch.adapter import weights_only
from mme.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
UV = ROOT / ".venv-uv/bin/uv"
TORCH = "torch==2.13.0"
EXPORTED = ("m/archive_format", "m/models/model.json")
SCRIPT = ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py", "m/version")
WEIGHTS = ("m/data.pkl", "m/data/0", "m/version")


def archive(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in members:
            file.writestr(name, b"")
    return path


def refusal(folder: Path, code: str = "run") -> str:
    with pytest.raises((ModelLoadError, ModelRefused)) as refused:
        artifacts.find(folder, Settings(model_code=code))
    return str(refused.value)


def test_an_image_without_pytorch_names_the_build_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / "model.pt2", *EXPORTED)
    monkeypatch.setattr(registry, "is_installed", lambda name: name != "pytorch")
    with pytest.raises(ModelLoadError, match="--build-arg FLAVOUR=torch"):
        registry.adapter_for(tmp_path, Settings())


@pytest.mark.parametrize(
    ("name", "members", "exported"), [("m.pt2", EXPORTED, True), ("m.pt", SCRIPT, False), ("m.pth", SCRIPT, False)]
)
def test_a_model_is_known_by_what_its_archive_holds(
    tmp_path: Path, name: str, members: tuple[str, ...], exported: bool
) -> None:
    path = archive(tmp_path / name, *members)
    assert artifacts.find(tmp_path, Settings()) == artifacts.Artifacts(path, exported)


def test_weights_alone_are_refused_with_the_remedy(tmp_path: Path) -> None:
    archive(tmp_path / "model.pth", *WEIGHTS)
    said = refusal(tmp_path)
    assert "weights without a network" in said and "torch.export.save" in said and "code/inference.py" in said


def test_two_models_in_one_folder_are_refused_by_their_names(tmp_path: Path) -> None:
    archive(tmp_path / "a.pt2", *EXPORTED)
    archive(tmp_path / "b.pt", *SCRIPT)
    assert "a.pt2, b.pt" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"<html>"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    assert "truncated" in refusal(tmp_path)


def test_where_models_are_data_torchscript_and_pickled_objects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    archive(tmp_path / "script/model.pt", *SCRIPT)
    assert "TorchScript, a program" in refusal(tmp_path / "script", "refuse")
    (tmp_path / "objects").mkdir()
    archive(tmp_path / "objects/model.pt2", *EXPORTED, "m/data/constants/custom_obj_0")
    assert "custom_obj_0" in refusal(tmp_path / "objects", "refuse")
    assert artifacts.find(tmp_path / "objects", Settings()).is_exported


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '[{"name": "a"}]', '[{"name": "a", "shape": []}]', '[{"name": "a", "shape": [0]}]',
     '[{"name": "a", "shape": [1], "dtype": "float3"}]', '[{"name": "a", "shape": [1]}, {"name": "a", "shape": [1]}]'],
)  # fmt: skip
def test_shapes_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model-shapes.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"model-shapes\.json.*null for any length"):
        artifacts.read_shapes(tmp_path / "model.pt")


def test_torchscript_without_shapes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"model-shapes\.json: it is missing"):
        artifacts.read_shapes(tmp_path / "model.pt")


@pytest.mark.ci
@pytest.mark.timeout(900)
def test_models_run_where_pytorch_can_be_installed(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    made = subprocess.run([str(UV), "venv", "--quiet", "--python", "3.11", "--seed", str(environment)], text=True,
                          capture_output=True)  # fmt: skip
    if made.returncode != 0:
        pytest.skip(f"needs Python 3.11: {made.stderr.strip()[-200:]}")
    python = environment / "bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", TORCH, "numpy", "pytest"]
    installed = subprocess.run(install, text=True, capture_output=True)
    if installed.returncode != 0:
        pytest.skip(f"{TORCH} cannot be installed: {installed.stderr.strip()[-200:]}")
    tests = [str(python), "-m", "pytest", "-q", "--noconftest", "-c", os.devnull, "--rootdir", str(ROOT), "-p",
             "no:cacheprovider", str(ROOT / "tests/unit/test_pytorch_models.py")]  # fmt: skip
    variables = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'container'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(tmp_path),
        "PYTEST_ADDOPTS": "",  # which chooses among the tests of this run
    }
    done = subprocess.run(tests, text=True, capture_output=True, env=variables, cwd=tmp_path)
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-3000:]


@pytest.mark.parametrize("before", [None, "0"])
def test_the_variable_that_keeps_pytorch_from_unpickling_is_put_back(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    monkeypatch.delenv(name, raising=False)
    if before is not None:
        monkeypatch.setenv(name, before)
    with weights_only(Settings(model_code="refuse")):
        assert os.environ[name] == "1"
    assert os.environ.get(name) == before
    with weights_only(Settings()):
        assert os.environ.get(name) == before
