"""What the server stands on, and stays as it is whatever is installed beside it: by a model, or in a derived image.

The image has the list as a file that pip and uv read (``PIP_CONSTRAINT``, ``UV_CONSTRAINT``); ``python -m
mme.packages.constraints`` prints it.
"""

from __future__ import annotations

import sys

from mme.frameworks import registry

# The server's own; those of a framework are in its description.
_SERVER = ("multi-model-server", "numpy", "pip", "psutil", "retrying", "sagemaker-inference", "setuptools")


def kept() -> list[str]:
    """The distributions that keep their version: the server's, and those of each framework that is installed."""
    of_frameworks = {name for each in registry.descriptions() for name in each.packages}
    return sorted({*_SERVER, *filter(_is_installed, of_frameworks)})


def text() -> str:
    """The installed versions as constraints, one a line."""
    import importlib.metadata  # a megabyte, which the supervisor mostly does without

    return "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in kept())


def _is_installed(name: str) -> bool:
    import importlib.metadata

    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(text())
