"""MXNet's artifact files, as far as they can be judged without MXNet: is this what its name says?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scripts.programs.console import Failure

# The first eight bytes of what mx.nd.save writes, little-endian (kMXAPINDArrayListMagic in MXNet's ndarray.cc).
PARAMS_MAGIC = (0x112).to_bytes(8, "little")


def check_file(path: Path, name: str | None = None) -> None:
    """Checks the file at ``path`` as what ``name`` (default: its own) says it is: params, JSON or labels.

    Raises ``Failure`` where it is something else, for example the error page of a proxy.
    """
    name = name or path.name
    if name.endswith(".params"):
        with path.open("rb") as file:
            begin = file.read(len(PARAMS_MAGIC))
        if begin != PARAMS_MAGIC:
            raise Failure(f"{name} is no MXNet parameter file (it begins with {begin!r})")
    elif name.endswith(".json"):
        content = read_json(path, name)
        if name.endswith("-symbol.json") and not (isinstance(content, dict) and isinstance(content.get("nodes"), list)):
            raise Failure(f"{name} is JSON, but no MXNet symbol (it has no list of nodes)")
    elif name == "synset.txt":
        try:
            labels = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            labels = []
        if not labels or labels[0].lstrip().startswith("<"):
            raise Failure(f"{name} is no list of labels, one a line")


def read_json(path: Path, name: str) -> Any:
    """The content of a JSON file. Raises ``Failure`` with line and column where it is not valid."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise Failure(f"{name} is not valid JSON: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise Failure(f"{name} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
