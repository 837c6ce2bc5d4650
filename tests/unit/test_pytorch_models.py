"""PyTorch models, compared with PyTorch called directly; ``test_pytorch.py`` runs these where PyTorch is to be had."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mme.errors import BadRequest, ModelLoadError, ModelRefused
from mme.frameworks.pytorch.adapter import ADAPTER
from mme.settings import Settings

torch: Any = pytest.importorskip("torch", reason="PyTorch is not in the default image: FLAVOUR=torch brings it")
MANUAL = Path(__file__).resolve().parents[2] / "docs" / "frameworks.md"
ROWS = np.random.RandomState(0).normal(0, 1, (3, 4)).astype(np.float32)


def linear(head: Any = None) -> Any:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 3)] + ([head] if head else [])
    return torch.nn.Sequential(*layers).eval()


def expected(module: Any, *arrays: np.ndarray) -> Any:
    with torch.inference_mode():
        return module(*map(torch.from_numpy, arrays))


def export(folder: Path, module: Any, *samples: Any, **how: Any) -> Path:
    torch.export.save(torch.export.export(module, samples, **how), str(folder / "model.pt2"))
    return folder


def script(folder: Path, module: Any, shapes: Any, sample: Any) -> Path:
    torch.jit.trace(module, sample, strict=False).save(str(folder / "model.pt"))
    (folder / "model-shapes.json").write_text(json.dumps(shapes))
    return folder


def load(folder: Path, **settings: Any) -> Any:
    return ADAPTER.load(folder, Settings(**settings))


@pytest.mark.parametrize("code", ["run", "refuse"])
def test_an_exported_program_answers_as_the_module(tmp_path: Path, code: str) -> None:
    module = linear()
    batch = torch.export.Dim("N")
    model = load(export(tmp_path, module, torch.zeros(2, 4), dynamic_shapes=({0: batch},)), model_code=code)
    assert [each.sample_shape for each in model.inputs] == [(4,)]
    np.testing.assert_allclose(model.predict({"input": ROWS})[0], expected(module, ROWS), atol=1e-6)


def test_a_program_that_was_exported_for_one_sample_runs_them_one_by_one(tmp_path: Path) -> None:
    module = linear()
    model = load(export(tmp_path, module, torch.zeros(1, 4)))
    np.testing.assert_allclose(model.predict({"input": ROWS})[0], expected(module, ROWS), atol=1e-6)


def test_torchscript_takes_what_its_shapes_say(tmp_path: Path) -> None:
    module = linear()
    model = load(script(tmp_path, module, [{"name": "row", "shape": [None, 4]}], torch.zeros(1, 4)))
    assert str(model.inputs[0]) == "row (N, 4) float32"
    np.testing.assert_allclose(model.predict({"row": ROWS})[0], expected(module, ROWS), atol=1e-6)


def test_several_inputs_and_outputs_have_names(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def forward(self, left: Any, right: Any) -> Any:
            return {"sum": left + right, "product": left * right}

    model = load(export(tmp_path, Two(), torch.zeros(1, 2), torch.zeros(1, 2)))
    arrays = {"left": ROWS[:1, :2], "right": ROWS[:1, 2:]}
    total, product = model.predict(arrays)
    assert model.output_names == ("sum", "product")
    np.testing.assert_allclose(total, arrays["left"] + arrays["right"])
    np.testing.assert_allclose(product, arrays["left"] * arrays["right"])


@pytest.mark.parametrize("way", ["export", "script"])
@pytest.mark.parametrize("head", [None, "Softmax", "LogSoftmax"])
def test_probabilities_are_told_from_the_last_step(tmp_path: Path, head: str | None, way: str) -> None:
    module = linear(getattr(torch.nn, head)(dim=1) if head else None)
    if way == "export":
        model = load(export(tmp_path, module, torch.zeros(1, 4)))
    else:
        model = load(script(tmp_path, module, [{"name": "row", "shape": [None, 4]}], torch.zeros(1, 4)))
    (scores,) = model.predict({model.inputs[0].name: ROWS})
    np.testing.assert_allclose(model.probabilities(scores), expected(linear(torch.nn.Softmax(dim=1)), ROWS), atol=1e-6)


def test_lengths_that_a_program_does_not_take_are_the_fault_of_the_request(tmp_path: Path) -> None:
    model = load(export(tmp_path, linear(), torch.zeros(1, 4)))
    with pytest.raises(BadRequest, match="does not take these inputs"):
        model.predict({"input": ROWS[:, :3]})


@pytest.mark.parametrize("way", ["export", "script"])
def test_a_truncated_file_fails_the_load_with_a_reason(tmp_path: Path, way: str) -> None:
    if way == "export":
        file = export(tmp_path, linear(), torch.zeros(1, 4)) / "model.pt2"
    else:
        shapes = [{"name": "row", "shape": [None, 4]}]
        file = script(tmp_path, linear(), shapes, torch.zeros(1, 4)) / "model.pt"
    whole = file.read_bytes()
    for length in (0, 1, 50, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match=file.name):
            load(tmp_path)


def test_the_example_of_the_manual_answers_as_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"^## pytorch\n(.*?)^## ", MANUAL.read_text(), re.DOTALL | re.MULTILINE)
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(source, str(MANUAL), "exec"), {})
    ((request, answer),) = re.findall(r"`(\{[^`]*\})` is answered `(\{[^`]*\})`", text)
    houses = np.array(json.loads(request)["instances"], np.float32)
    model = load(tmp_path)
    (prices,) = model.predict({model.inputs[0].name: houses})
    assert prices.tolist() == json.loads(answer)["predictions"]


class Planted:
    """What runs when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_pickle_in_an_exported_program_runs_nothing_where_models_are_data(tmp_path: Path) -> None:
    model, planted = tmp_path / "model", tmp_path / "planted"
    model.mkdir()
    export(model, linear(), torch.zeros(1, 4))
    torch.save((Planted(str(planted)),), tmp_path / "sample_inputs")
    with zipfile.ZipFile(model / "model.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(model / "model.pt2", "w") as archive:
        for name, content in members.items():
            is_pickle = name.endswith("sample_inputs/model.pt")
            archive.writestr(name, (tmp_path / "sample_inputs").read_bytes() if is_pickle else content)
    with pytest.raises(ModelLoadError):
        load(model, model_code="refuse")
    assert not planted.exists()
    with suppress(ModelLoadError):
        load(model, model_code="run")
    assert planted.exists()  # what a model may do that brings code


def test_torchscript_is_a_program(tmp_path: Path) -> None:
    script(tmp_path, linear(), [{"name": "row", "shape": [None, 4]}], torch.zeros(1, 4))
    with pytest.raises(ModelRefused, match=r"torch\.export\.save"):
        load(tmp_path, model_code="refuse")


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    torch.save(linear().state_dict(), tmp_path / "model.pth")
    with pytest.raises(ModelLoadError, match=r"weights without a network.*torch\.export\.save.*code/inference\.py"):
        load(tmp_path)


def test_shapes_that_do_not_fit_torchscript_are_refused(tmp_path: Path) -> None:
    shapes = [{"name": "a", "shape": [None, 4]}, {"name": "b", "shape": [None, 4]}]
    with pytest.raises(ModelLoadError, match="takes 1 inputs"):
        load(script(tmp_path, linear(), shapes, torch.zeros(1, 4)))


def run(program: str, temporary_dir: Path, *folders: Path) -> subprocess.CompletedProcess[str]:
    """``torch.export`` leaves a folder in the temporary one."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, folders)],
        env={**os.environ, "TMPDIR": str(temporary_dir)},
        text=True,
        capture_output=True,
    )


def test_what_reading_an_exported_program_imports_is_in_the_template(tmp_path: Path) -> None:
    for name in ("model", "sample"):
        (tmp_path / name).mkdir()
    export(tmp_path / "model", linear(), torch.zeros(1, 4))
    program = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
from pathlib import Path
from mme.frameworks.pytorch.adapter import ADAPTER
from mme.settings import Settings
folder, sample = map(Path, sys.argv[1:])
ADAPTER.warm_template(Settings())  # as mme.zygote.template_warmup does it
ADAPTER.write_sample(sample, Settings())
ADAPTER.load(sample, Settings())
before = set(sys.modules)
ADAPTER.load(folder, Settings())
print(sorted(set(sys.modules) - before))
"""
    done = run(program, tmp_path, tmp_path / "model", tmp_path / "sample")
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_a_template_has_one_thread_and_its_children_predict(tmp_path: Path) -> None:
    program = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
from pathlib import Path
import numpy as np
from mme.frameworks.pytorch.adapter import ADAPTER
from mme.settings import Settings
ADAPTER.warm_template(Settings())
ADAPTER.write_sample(Path(sys.argv[1]), Settings())
threads = len(os.listdir("/proc/self/task"))
reader, writer = os.pipe()
if os.fork() == 0:
    model = ADAPTER.load(Path(sys.argv[1]), Settings())
    os.write(writer, str(model.predict(model.sample())[0].shape).encode())
    os._exit(0)
print(threads, os.read(reader, 100).decode())
"""
    done = run(program, tmp_path, tmp_path)
    assert done.stdout == "1 (1, 8)\n", done.stderr
