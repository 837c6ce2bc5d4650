"""What the server stands on, and stays as it is whatever is installed beside it: by a model, or in a derived image.

The image has the list as a file that pip and uv read (``PIP_CONSTRAINT``, ``UV_CONSTRAINT``); ``python -m
mme.packages.constraints`` prints it.
"""

from __future__ import annotations

import importlib.metadata
import sys

KEPT = ("multi-model-server", "mxnet", "numpy", "pip", "psutil", "retrying", "sagemaker-inference", "setuptools")


def text() -> str:
    """The installed versions as constraints, one a line."""
    return "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in KEPT)


if __name__ == "__main__":
    sys.stdout.write(text())
