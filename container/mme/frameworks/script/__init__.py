"""Models that are a script for the SageMaker Inference Toolkit: ``code/inference.py`` with ``model_fn`` and others.

What is known of them without NumPy or the toolkit stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mme.frameworks import djl
from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

if TYPE_CHECKING:
    from mme.settings import Settings

CODE_FOLDER = "code"
DEFAULT_PROGRAM = "inference.py"


def program_of(model_dir: Path, settings: Settings) -> Path | None:
    """The model's script: what ``SAGEMAKER_PROGRAM`` names, in ``code/`` or at the top; else ``code/inference.py``.

    At the top of a model for DJL Serving it is a module of its program, or the program itself.
    """
    at_the_top = model_dir / settings.program
    places = (model_dir / CODE_FOLDER / settings.program, at_the_top, model_dir / CODE_FOLDER / DEFAULT_PROGRAM)
    found = (file for file in places if file.is_file())
    return next((file for file in found if file != at_the_top or not djl.has_program(model_dir)), None)


def recognise(model_dir: Path, _names: Sequence[str], settings: Settings) -> bool:
    """Has the model a script?"""
    return program_of(model_dir, settings) is not None


# Measured for a script of a few lines, private MiB of the worker after load and two requests: 2.9 (3.8 for a model.py
# of DJL's). What it loads and imports is not known before; the files beside it count by their own framework's figures.
DESCRIPTION = Description(
    module="sagemaker_inference",
    well_known_files=(),
    growth=Growth((".py",), 1),
    packages=("numpy",),
    recognise=recognise,
    runs_code=True,
)
