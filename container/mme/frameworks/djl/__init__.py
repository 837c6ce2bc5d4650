"""Models for the Python engine of DJL Serving: ``serving.properties`` with ``engine=Python``, and a ``model.py``.

What is known of them without NumPy stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mme.frameworks import properties
from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

if TYPE_CHECKING:
    from mme.settings import Settings

DEFAULT_ENTRY_POINT = "model.py"
ENTRY_POINT = "option.entryPoint"
# DJL's own programs, for which models are data that frameworks here know
DATA_HANDLERS = ("djl_python.sklearn_handler", "djl_python.xgboost_handler")
OWN_HANDLERS = "djl_python."


def entry_point_of(model_dir: Path, given: Mapping[str, str]) -> str | None:
    """What the model's program is called, by its properties; None where it has none."""
    entry_point = given.get(ENTRY_POINT)
    has_default = (model_dir / DEFAULT_ENTRY_POINT).is_file()
    if not entry_point or (entry_point in DATA_HANDLERS):
        return DEFAULT_ENTRY_POINT if has_default else None
    return entry_point


def has_program(model_dir: Path) -> bool:
    """Does the model ask for DJL's Python engine, and has it a program?"""
    given = properties.read(model_dir)
    return given.get("engine", "").lower() == "python" and entry_point_of(model_dir, given) is not None


def recognise(model_dir: Path, names: Sequence[str], _: Settings) -> bool:
    """The same, asked by the names at the model's top."""
    return properties.FILE in names and has_program(model_dir)


DESCRIPTION = Description(
    module="djl_python",
    well_known_files=(),
    growth=Growth((".py",), 1),
    packages=("numpy",),
    recognise=recognise,
    runs_code=True,
    template="script",
)
