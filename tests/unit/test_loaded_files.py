"""Which files of a model's folder count, when it is to wake from those that it was loaded from."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mme.capacity.footprint import survey
from mme.errors import ModelChanged
from mme.zygote import protocol
from mme.zygote.loaded_files import LoadedFiles
from mme.zygote.session import LoadedModel
from tests.harness import onnx_models

PROGRAM = "def predict_fn(data, model):\n    return data\n"


def load(folder: Path) -> LoadedFiles:
    """What a session remembers of the model, served by the server's own handler."""
    loaded = LoadedModel()
    loaded.load(protocol.Load("m", str(folder), 1, "model_handler:handle", None, ""))
    assert loaded.files is not None
    return loaded.files


@pytest.mark.parametrize("name", ["serving.properties", "synset.txt", "other.onnx", "anything"])
def test_a_file_that_is_added_to_a_model_of_data_changes_it(tmp_path: Path, name: str) -> None:
    onnx_models.onnx_linear(tmp_path)
    files = load(tmp_path)
    files.check("m", tmp_path, survey(tmp_path))
    (tmp_path / name).write_text("")
    with pytest.raises(ModelChanged, match="the files of model 'm' have changed"):
        files.check("m", tmp_path, survey(tmp_path))


def test_a_file_that_a_program_may_have_written_does_not_count(tmp_path: Path) -> None:
    onnx_models.onnx_linear(tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(PROGRAM)
    files = load(tmp_path)
    (tmp_path / "cache.bin").write_text("by the model's own code")
    files.check("m", tmp_path, survey(tmp_path))
    (tmp_path / "code" / "inference.py").write_text(PROGRAM + "\n")
    with pytest.raises(ModelChanged):
        files.check("m", tmp_path, survey(tmp_path))


def test_a_file_that_is_written_in_the_tick_in_which_the_load_begins_does_not_count(tmp_path: Path) -> None:
    """Kernels before 6.13 stamp files with the time of the last tick, up to 10 ms ago."""
    (tmp_path / "model.bin").write_text("a model")
    os.utime(tmp_path / "model.bin", ns=(0, 0))
    written = tmp_path / "cache.bin"
    written.write_text("by the model's own code")
    artifact = survey(tmp_path)
    before = replace(artifact, files=tuple(each for each in artifact.files if each[0] == "model.bin"))
    for _ in range(100):
        files = LoadedFiles.of(before)
        stamp_ns = time.clock_gettime_ns(5)  # CLOCK_REALTIME_COARSE
        os.utime(written, ns=(stamp_ns, stamp_ns))
        files.check("m", tmp_path, survey(tmp_path))


def test_a_write_that_sets_size_and_time_back_is_not_seen(tmp_path: Path) -> None:
    """A bound of it, which the manual names (docs/sleeping.md)."""
    onnx_models.onnx_linear(tmp_path)
    (path,) = tmp_path.glob("*.onnx")
    os.utime(path, ns=(0, 0))
    files = load(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelChanged):
        files.check("m", tmp_path, survey(tmp_path))
    os.utime(path, ns=(0, 0))
    files.check("m", tmp_path, survey(tmp_path))
