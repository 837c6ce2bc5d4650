"""Where Python looks for modules, and what it forgets when that changes: a model finds its own before ours."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Iterable
from pathlib import Path


def forget_shadowed_modules(folders: Iterable[str]) -> None:
    """Unloads what was imported from elsewhere although one of ``folders``, which come first, has its own.

    A model may bring a ``model_handler.py`` or ``utils.py`` of its own; it must get that, not ours. The standard
    library is left alone: with MMS, too, most of it is loaded before the handler. So is this package, whose parts are
    imported when they are needed: nothing of the model's may take their place.
    """
    own: set[str] = set()
    for folder in folders:
        try:
            own.update(entry.name.partition(".")[0] for entry in Path(folder).iterdir())
        except OSError:
            continue  # MMS puts the handler's name there, which is no folder
    # (looking at each loaded module's name would copy the pages that they are on)
    kept = {*sys.stdlib_module_names, __name__.partition(".")[0]}
    for name in [each for each in own if each in sys.modules and each not in kept]:
        found = importlib.machinery.PathFinder.find_spec(name, sys.path)
        if found is None or found.origin is None or found.origin == getattr(sys.modules[name], "__file__", None):
            continue
        for module in [each for each in sys.modules if each == name or each.startswith(name + ".")]:
            del sys.modules[module]
