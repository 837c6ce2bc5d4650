"""MXNet (1.9) models: symbol, parameters, shapes. Weights are held in memory once.

``Module`` copies parameters when it sets them, and the default subgraph back end (oneDNN fusion) keeps a second copy of
every convolution's weights. So the graph is bound to the loaded arrays themselves, without that back end
(small networks that are asked a lot get it: ``MME_MXNET_FUSE``). It is run by the naive engine, which has no threads: a
process that ran a model may still fork.

    __init__.py      what is known of MXNet without importing it
    artifacts.py     the files, read and checked without MXNet
    loading.py       from the files to a model, in phases
    layout.py        which axis counts the samples
    training.py      what only a training needs, cut off
    kernels.py       machine code that workers of networks alike share
    model.py         a loaded model
    sample.py        the model that a template runs once
    numpy_names.py   what MXNet needs of NumPy, put back
    optional_imports.py  what MXNet imports and no model needs, left out
    lazy_operators.py    MXNet's functions for its operators, written when they are called
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np

from mme.frameworks.base import Adapter, memory_errors
from mme.frameworks.mxnet import (
    DESCRIPTION,
    PARAMS_SUFFIX,
    SYMBOL_SUFFIX,
    artifacts,
    kernels,
    lazy_operators,
    loading,
    numpy_names,
    optional_imports,
    sample,
)
from mme.frameworks.mxnet.layout import Input, Layout
from mme.frameworks.mxnet.model import MXNetModel
from mme.settings import Settings


class MXNetAdapter(Adapter):
    """Finds and loads the models of MXNet."""

    name = "mxnet"
    description = DESCRIPTION
    artifacts = "PREFIX-symbol.json, PREFIX-NNNN.params and PREFIX-shapes.json"
    sample_shape = sample.SHAPE

    def import_framework(self, settings: Settings) -> Any:
        self.configure_process(settings)
        loaded = sys.modules.get("mxnet")
        if loaded is not None:  # each load asks: what follows would only cost a worker pages
            return loaded
        numpy_names.restore()
        with optional_imports.left_out(), lazy_operators.written_when_called():
            import mxnet

        return mxnet

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> MXNetModel:
        files = artifacts.find(model_dir)
        inputs = artifacts.read_inputs(files.shapes)
        graph = artifacts.read_graph(files.symbol)
        numpy_shapes = artifacts.check_params(files.params)
        with memory_errors(f"load {files.params.name} ({files.params.stat().st_size >> 20} MiB)"):
            mx = self.import_framework(settings)
            device = mx.cpu() if gpu_id is None else mx.gpu(gpu_id)
            return loading.load(mx, files, inputs, graph, device, settings, numpy_shapes=numpy_shapes)

    def check_folder(self, model_dir: Path) -> None:
        artifacts.find(model_dir)

    def check_file(self, path: Path, name: str) -> bool:
        if name.endswith(PARAMS_SUFFIX):
            artifacts.check_params(path)
        elif name.endswith(SYMBOL_SUFFIX):
            artifacts.read_graph(path)
        else:
            return False
        return True

    def warm_template(self, settings: Settings) -> None:
        """Runs what happens once per process, so that forked workers share the pages that it fills."""
        mx = self.import_framework(settings)
        net, arguments, states = sample.network(mx)
        layout = Layout((Input("data", sample.SHAPE),), (0,), None)
        model = MXNetModel(mx, net, layout, arguments, states, "SoftmaxOutput", mx.cpu(), settings)
        for samples in (1, 2):
            model.predict({"data": np.zeros((samples, *sample.SHAPE[1:]), np.float32)})

    def kernels_of(self, model_dir: Path) -> Hashable | None:
        return kernels.key_of(model_dir)

    def generate_kernels(self, model_dir: Path, settings: Settings, room_bytes: int) -> bool:
        return kernels.generate(self.import_framework(settings), model_dir, settings, room_bytes)

    def write_sample(self, folder: Path, settings: Settings) -> None:
        sample.write(self.import_framework(settings), folder)


ADAPTER = MXNetAdapter()


def import_mxnet(settings: Settings) -> Any:
    """MXNet, imported as the adapter does it."""
    return ADAPTER.import_framework(settings)
