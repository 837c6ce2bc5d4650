"""A model's files, as far as they can be judged without its framework: is this what its name says?"""

from __future__ import annotations

import json
from pathlib import Path

from mme.errors import ModelLoadError
from mme.frameworks import registry
from scripts.programs.console import Failure


def check_file(path: Path, name: str | None = None) -> None:
    """Checks the file at ``path`` as what ``name`` (default: its own) says: a framework's artifact, JSON or labels.

    Raises ``Failure`` where it is something else, for example the error page of a proxy.
    """
    name = name or path.name
    try:
        if any(adapter.check_file(path, name) for adapter in registry.adapters()):
            return
        if name.endswith(".json"):
            _check_json(path)
        elif name == "synset.txt":
            _check_labels(path)
    except ModelLoadError as error:
        raise Failure(str(error)) from None


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not valid JSON: byte {error.start} is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise Failure(f"{path} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}.") from None


def _check_labels(path: Path) -> None:
    try:
        labels = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        labels = []
    if not labels or labels[0].lstrip().startswith("<"):
        raise Failure(f"{path} is no list of labels, one a line, in UTF-8.")
