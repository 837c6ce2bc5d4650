"""Request bodies of each Content-Type for a model with one input, made of the same numbers on every run."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image


def body(content_type: str, shape: tuple[int, ...]) -> bytes:
    """A sample of ``shape``, the batch first, as this type has it; an image is as large as the last two dimensions."""
    data = np.random.RandomState(0).rand(*shape).astype(np.float32)
    if content_type == "application/json":
        return json.dumps(data.tolist()).encode()
    if content_type == "text/csv":
        return "".join(",".join(map(str, row)) + "\n" for row in data.reshape(len(data), -1).tolist()).encode()
    file = io.BytesIO()
    if content_type == "application/x-npy":
        np.save(file, data)
    else:
        pixels = (data[0].transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, content_type.removeprefix("image/"))
    return file.getvalue()
