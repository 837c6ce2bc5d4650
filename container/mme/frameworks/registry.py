"""Which frameworks there are, and which of them a model folder is for. Adapters are imported when first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from mme.errors import ModelLoadError
from mme.frameworks.base import Adapter

# framework -> module that defines its ADAPTER; asked in this order
ADAPTERS = {"mxnet": "mme.frameworks.mxnet.adapter"}


def adapter(name: str) -> Adapter:
    """The adapter of the framework called ``name``; ``KeyError`` where there is none."""
    return importlib.import_module(ADAPTERS[name]).ADAPTER


def adapters() -> Iterator[Adapter]:
    """All adapters, in the order in which they are asked."""
    return map(adapter, ADAPTERS)


def adapter_for(model_dir: Path) -> Adapter:
    """The adapter that recognises the model in ``model_dir``.

    Raises ``ModelLoadError``, which names what the folder holds and what it should hold.
    """
    if not model_dir.is_dir():
        raise ModelLoadError(f"{model_dir} is not a folder: there is no model to load.")
    for each in adapters():
        if each.recognises(model_dir):
            return each
    found = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in model_dir.iterdir())
    known = "; ".join(f"{each.name}: {each.artifacts}" for each in adapters())
    holds = ", ".join(found[:10]) + (" …" if len(found) > 10 else "") if found else "nothing"
    raise ModelLoadError(
        f"{model_dir} holds no model that is known here. Found: {holds}. A model is one of: {known}. "
        "The files must be at the top of the archive, not in a folder inside it."
    )
