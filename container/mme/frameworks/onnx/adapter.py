"""ONNX models, run by ONNX Runtime: one ``*.onnx``, with external data beside it where the model is large.

A session has as many threads as ``OMP_NUM_THREADS`` says (1 unless set), which do not spin while they wait, and no
arena: what a pass has used goes back to the heap, whose pages the worker gives back when it idles. With one thread
there is no pool at all, so that a process which has run a model may still fork.

    __init__.py     what is known of ONNX without importing ONNX Runtime
    graph_file.py   what is read from the file itself
    model.py        a loaded model
    sample.py       the model that a template runs once
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from mme import threads
from mme.errors import ModelLoadError
from mme.frameworks.base import Adapter, memory_errors, says_no_memory
from mme.frameworks.description import paths_in
from mme.frameworks.onnx import DESCRIPTION, SUFFIX, graph_file, sample
from mme.frameworks.onnx.model import OnnxModel, brief
from mme.libc import fault_in
from mme.settings import Settings

_ERRORS_ONLY = 3  # severity of the log: a model's shapes that are not those that it has declared are no news
_COPIES = 2  # of the weights that any session makes at least: 2.2 of matrices, 4.6 of convolutions
_NEWEST_OPSET = re.compile(
    r"Opset (\d+) is .*?Current official support for domain (\S+) is till opset (\d+)", re.DOTALL
)
_NEWEST_FORMAT = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_MISSING_DATA = re.compile(r'External data path does not exist: "([^"]*)"')
_DATA_OUTSIDE = re.compile(r"External data path escapes|Absolute path not allowed for external data")


class OnnxAdapter(Adapter):
    """Finds and loads the models of ONNX."""

    name = "onnx"
    description = DESCRIPTION
    artifacts = f"one *{SUFFIX} (and the files of external data that it names)"
    sample_shape = sample.SHAPE

    def import_framework(self, settings: Settings) -> Any:
        self.configure_process(settings)
        import onnxruntime

        return onnxruntime

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> OnnxModel:
        path = find(model_dir)
        head_operators = graph_file.head_operators(path)
        with memory_errors(f"load {path.name} ({path.stat().st_size >> 20} MiB)"):
            runtime = self.import_framework(settings)
            fault_in(_COPIES * path.stat().st_size)
            try:
                session = _session(runtime, str(path), gpu_id)
            except Exception as error:
                if says_no_memory(str(error)):
                    raise MemoryError(brief(error)) from error
                raise _load_error(path, runtime.__version__, error) from None
            return OnnxModel(session, str(path), head_operators, settings)

    def check_folder(self, model_dir: Path) -> None:
        find(model_dir)

    def check_file(self, path: Path, name: str) -> bool:
        if not name.endswith(SUFFIX):
            return False
        graph_file.head_operators(path)
        return True

    def warm_template(self, settings: Settings) -> None:
        """Runs what happens once per process, so that forked workers share the pages that it fills."""
        session = _session(self.import_framework(settings), sample.network(), None)
        for samples in (1, 2):
            session.run(None, {sample.INPUT: np.zeros((samples, *sample.SHAPE[1:]), np.float32)})

    def write_sample(self, folder: Path, settings: Settings) -> None:
        sample.write(folder)


ADAPTER = OnnxAdapter()


def find(model_dir: Path) -> Path:
    """The model's file. Raises ``ModelLoadError`` where there is not exactly one."""
    found = [path for path in paths_in(model_dir) if path.name.endswith(SUFFIX)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelLoadError(
            f"{model_dir} holds {len(found)} files *{SUFFIX} ({names}); a model has exactly one, at the top. Make an "
            "archive for each."
        )
    if not found[0].is_file():
        raise ModelLoadError(f"{found[0]} is no file. It must be the model itself.")
    return found[0]


def _session(runtime: Any, model: str | bytes, gpu_id: int | None) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads.count(os.environ)
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _ERRORS_ONLY
    providers: list[Any] = ["CPUExecutionProvider"]
    if gpu_id is not None and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu_id}))
    return runtime.InferenceSession(model, options, providers=providers)


def _load_error(path: Path, version: str, error: Exception) -> ModelLoadError:
    """What ONNX Runtime says of a file, in words that name the remedy."""
    said = str(error)
    if opset := _NEWEST_OPSET.search(said):
        return ModelLoadError(
            f"{path} is of opset {opset[1]} of {opset[2].rstrip('.')}, and ONNX Runtime {version} reads up to "
            f"{opset[3].rstrip('.')}. Export the model with opset_version={opset[3].rstrip('.')} or less."
        )
    if newest := _NEWEST_FORMAT.search(said):
        return ModelLoadError(
            f"{path} is of version {newest[1]} of the format (ir_version), and ONNX Runtime {version} reads up to "
            f"{newest[2]}. Export the model with an older release of onnx, or set ir_version to {newest[2]}."
        )
    if missing := _MISSING_DATA.search(said):
        return ModelLoadError(
            f"{path} keeps weights in a file that is not in the archive: {Path(missing[1]).name}. Put it beside "
            f"{path.name}, or save the model without external data."
        )
    if _DATA_OUTSIDE.search(said):
        return ModelLoadError(
            f"{path} names a file of weights outside of the model's folder. Save it with its external data beside it: "
            'onnx.save(model, FILE, save_as_external_data=True, location="weights.bin").'
        )
    return ModelLoadError(
        f"{path} is not loaded by ONNX Runtime {version}: {brief(error)}. Operators that it does not know need to be "
        "exported as ONNX's own."
    )
