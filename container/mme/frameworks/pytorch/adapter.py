"""PyTorch models: programs of ``torch.export`` and TorchScript, on as many threads as ``OMP_NUM_THREADS`` says.

__init__.py     what is known of PyTorch without importing it
artifacts.py    the files, looked at without PyTorch
model.py        a loaded model
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from mme import threads
from mme.errors import MmeError, ModelLoadError
from mme.frameworks.base import FREE, Adapter, means_no_memory, memory_errors
from mme.frameworks.passes import Shape
from mme.frameworks.pytorch import DESCRIPTION, EXPORTED, SCRIPTS, SHAPES_SUFFIX, artifacts
from mme.frameworks.pytorch.model import TorchModel
from mme.settings import Settings

_SAMPLE_SHAPE = (1, 3, 32, 32)
_CLASSES = 8
_LONGEST_WORDS = 300
# read by torch.load at each call: no pickle of anything but weights, whatever its caller asks for
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_CACHE_DIR = "TORCHINDUCTOR_CACHE_DIR"  # which an export makes; by itself beside other programs' temporary files


class PyTorchAdapter(Adapter):
    """Finds and loads the models of PyTorch."""

    name = "pytorch"
    description = DESCRIPTION
    artifacts = f"one *{EXPORTED} (torch.export), or TorchScript's {' or '.join(f'*{each}' for each in SCRIPTS)}"
    sample_shape = _SAMPLE_SHAPE

    def import_framework(self, settings: Settings) -> Any:
        self.configure_process(settings)
        import torch

        return torch

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> TorchModel:
        files = artifacts.find(model_dir, settings)
        declared = {} if files.is_exported else artifacts.read_shapes(files.path)
        with memory_errors(f"load {files.path.name} ({files.path.stat().st_size >> 20} MiB)"):
            torch = self.import_framework(settings)
            torch.set_num_threads(threads.count(os.environ))
            device = torch.device("cpu" if gpu_id is None else f"cuda:{gpu_id}")
            with _load_errors(files.path, torch.__version__):
                if files.is_exported:
                    return _exported(torch, files.path, device, settings)
                return _script(torch, files.path, declared, device, settings)

    def check_folder(self, model_dir: Path) -> None:
        files = artifacts.find(model_dir, Settings.from_environment())
        if not files.is_exported:
            artifacts.read_shapes(files.path)

    def warm_template(self, settings: Settings) -> None:
        """Runs what happens once per process, so that forked workers share the pages that it fills."""
        torch = self.import_framework(settings)
        torch.set_num_threads(1)
        with torch.inference_mode():
            _network(torch)(torch.zeros(_SAMPLE_SHAPE))

    def write_sample(self, folder: Path, settings: Settings) -> None:
        """An exported program: reading one imports a thousand modules more than ``torch`` does, which take a second."""
        torch = self.import_framework(settings)
        samples = torch.export.Dim("samples", min=1, max=64)
        images = torch.zeros((2, *_SAMPLE_SHAPE[1:]))
        with _variable(_CACHE_DIR, str(folder)):
            program = torch.export.export(_network(torch), (images,), dynamic_shapes=({0: samples},))
            torch.export.save(program, str(folder / f"sample{EXPORTED}"))
        (folder / "synset.txt").write_text("".join(f"class {number}\n" for number in range(_CLASSES)))


ADAPTER = PyTorchAdapter()


def _exported(torch: Any, path: Path, device: Any, settings: Settings) -> TorchModel:
    with weights_only(settings):
        program = torch.export.load(str(path))
    wanted = set(program.graph_signature.user_inputs)
    inputs = {}
    last = ""
    outputs: list[Shape] = []
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor):
                raise ModelLoadError(f"{path} takes {node.name} as {type(value).__name__}. Only tensors can be sent.")
            inputs[node.name] = (_sizes(value.shape), _dtype(path, node.name, value.dtype))
        elif node.op == "call_function":
            last = str(node.target).removeprefix("aten.")
        elif node.op == "output":
            values = [each.meta.get("val") for each in node.args[0] if hasattr(each, "meta")]
            outputs = [_sizes(each.shape) for each in values if isinstance(each, torch.Tensor)]
    if not inputs:
        raise ModelLoadError(f"{path} has no inputs: there is nothing that a request could give it.")
    module = program.module().to(device)
    return TorchModel(torch, module, inputs, outputs, last, device, settings.max_samples_per_pass)


def _script(
    torch: Any, path: Path, declared: Mapping[str, tuple[Shape, np.dtype]], device: Any, settings: Settings
) -> TorchModel:
    module = torch.jit.load(str(path), map_location=device).eval()
    taken = len(module.forward.schema.arguments) - 1
    needed = sum(1 for each in module.forward.schema.arguments[1:] if not each.has_default_value())
    if not needed <= len(declared) <= taken:
        raise ModelLoadError(
            f"{path} takes {taken} inputs, and {path.stem}{SHAPES_SUFFIX} names {len(declared)}. Name each."
        )
    head = next((each.node().kind() for each in module.inlined_graph.outputs()), "")
    outputs = [(FREE,)]  # TorchScript does not say
    return TorchModel(torch, module, declared, outputs, head, device, settings.max_samples_per_pass)


def _network(torch: Any) -> Any:
    """A network of the operators that most image models have."""
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, _CLASSES),
        nn.Softmax(dim=1),
    ).eval()


def _sizes(shape: Any) -> Shape:
    return tuple(size if type(size) is int else FREE for size in shape)


def _dtype(path: Path, name: str, dtype: Any) -> np.dtype:
    try:
        return np.dtype(str(dtype).removeprefix("torch."))
    except TypeError:
        raise ModelLoadError(
            f"{path} takes {name} as {dtype}, which cannot be sent to it. Convert it inside of the model (x.to(…))."
        ) from None


def weights_only(settings: Settings) -> AbstractContextManager[None]:
    """Where models are data alone, keeps PyTorch from unpickling anything but weights."""
    return _variable(_WEIGHTS_ONLY, "1") if settings.refuses_model_code else nullcontext()


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Sets a variable of the environment inside; whatever becomes of it there, it is as before afterwards."""
    before = os.environ.pop(name, None)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@contextmanager
def _load_errors(path: Path, version: str) -> Iterator[None]:
    try:
        yield
    except (MmeError, MemoryError):
        raise
    except Exception as error:
        if means_no_memory(error):
            raise
        words = (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST_WORDS]
        raise ModelLoadError(
            f"{path} is not loaded by PyTorch {version}: {words}. Export the model again, with this version or an "
            "older one."
        ) from error
