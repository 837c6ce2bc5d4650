"""Which frameworks there are, and which of them a model folder is for. Adapters are imported when first asked for.

What the supervisor and the zygote's root ask (``description`` and all that is made of it) imports neither an adapter
nor NumPy.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from mme.errors import ModelLoadError

if TYPE_CHECKING:
    from mme.frameworks.base import Adapter
    from mme.frameworks.description import Description
    from mme.settings import Settings

# framework -> module that defines its ADAPTER, in a package that defines its DESCRIPTION; asked in this order
ADAPTERS = {"mxnet": "mme.frameworks.mxnet.adapter"}


def framework_of(model_dir: str | os.PathLike[str]) -> str | None:
    """The framework of the model in ``model_dir``, by file names alone; None where no framework has such files."""
    try:
        names = os.listdir(model_dir)  # noqa: PTH208 (names are all that is wanted)
    except OSError:
        return None
    for framework in ADAPTERS:
        patterns = description(framework).well_known_files
        if any(fnmatchcase(name, pattern) for name in names for pattern in patterns):
            return framework
    return None


def frameworks_to_preload(settings: Settings) -> tuple[str, ...]:
    """The frameworks of ``MME_PRELOAD``, else all known ones that are installed here."""
    if settings.preload is not None:
        return settings.preload
    # (not importlib.util.find_spec, which asks finders that prepare the import, too: numpy_names.restore_before_mxnet)
    find = importlib.machinery.PathFinder.find_spec
    return tuple(name for name in ADAPTERS if find(description(name).module) is not None)


def description(name: str) -> Description:
    """What is known of the framework called ``name`` without its adapter; ``KeyError`` where there is none."""
    return importlib.import_module(ADAPTERS[name].rpartition(".")[0]).DESCRIPTION


def descriptions() -> Iterator[Description]:
    """Of all frameworks, in the order of ``ADAPTERS``."""
    return map(description, ADAPTERS)


def environment(settings: Settings) -> dict[str, str]:
    """The variables that the frameworks are to find in each worker, where the user has set none."""
    return {name: value for each in descriptions() for name, value in each.environment(settings).items()}


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
