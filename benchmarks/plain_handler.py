"""The handler that stock MMS is measured with: plain MXNet code as its tutorials and samples have it.

It loads a checkpoint into a ``Module``, resizes an image to the shape that the artifact names, and answers the five
best labels; a model without labels takes and answers JSON arrays. MMS calls ``handle``, once with ``data`` None at
load.
"""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

Batch = namedtuple("Batch", ["data"])
BEST = 5


class PlainHandler:
    """One loaded model."""

    def __init__(self) -> None:
        self.module: Any = None
        self.shape: tuple[int, ...] = ()
        self.labels: list[str] = []

    def initialize(self, context: Any) -> None:
        """Loads the model in ``model_dir``."""
        folder = Path(context.system_properties["model_dir"])
        prefix = str(next(folder.glob("*-symbol.json"))).removesuffix("-symbol.json")
        inputs = json.loads(Path(f"{prefix}-shapes.json").read_text())
        self.shape = tuple(inputs[0]["shape"])
        if (folder / "synset.txt").exists():
            self.labels = (folder / "synset.txt").read_text().splitlines()
        symbol, arguments, auxiliary = mx.model.load_checkpoint(prefix, 0)
        self.module = mx.mod.Module(symbol, data_names=[inputs[0]["name"]], label_names=None, context=mx.cpu())
        self.module.bind(data_shapes=[(inputs[0]["name"], self.shape)], for_training=False)
        self.module.set_params(arguments, auxiliary, allow_missing=True)

    def preprocess(self, body: bytes) -> Any:
        """An image, or a JSON array, as the model's input."""
        if not self.labels:
            return mx.nd.array(json.loads(body))
        image = mx.image.imresize(mx.image.imdecode(body), self.shape[3], self.shape[2])
        return image.transpose((2, 0, 1)).expand_dims(axis=0).astype("float32")

    def inference(self, data: Any) -> np.ndarray:
        """The model's first output."""
        self.module.forward(Batch([data]), is_train=False)
        return self.module.get_outputs()[0].asnumpy()

    def postprocess(self, scores: np.ndarray) -> Any:
        """The five best labels with their probabilities, or the numbers themselves."""
        if not self.labels:
            return scores.tolist()
        exponents = np.exp(scores[0] - scores[0].max())
        probabilities = exponents / exponents.sum()
        best = np.argsort(-probabilities)[:BEST]
        return [f"probability={probabilities[each]:f}, class={self.labels[each]}" for each in best]


_handler = PlainHandler()


def handle(data: Any, context: Any) -> Any:
    """MMS's entry point."""
    if data is None:
        _handler.initialize(context)
        return None
    return [_handler.postprocess(_handler.inference(_handler.preprocess(item.get("body")))) for item in data]
