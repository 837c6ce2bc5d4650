"""Loads models that are a script of the Inference Toolkit; see ``docs/frameworks.md`` for what they may hold."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mme.errors import ModelLoadError
from mme.frameworks import programs
from mme.frameworks.base import CodeAdapter, DataModel, Service
from mme.frameworks.script import CODE_FOLDER, DEFAULT_PROGRAM, DESCRIPTION, program_of
from mme.settings import Settings

_SAMPLE = """
import json
import os

import numpy as np


def model_fn(model_dir):
    return os.path.basename(model_dir)


def predict_fn(data, model):
    return np.asarray(data, dtype=float)
"""


class ScriptAdapter(CodeAdapter):
    """See the module."""

    name = "script"
    description = DESCRIPTION
    artifacts = f"{CODE_FOLDER}/{DEFAULT_PROGRAM}, or what SAGEMAKER_PROGRAM names"
    sample_shape = (1, 2)

    def import_framework(self, settings: Settings) -> Any:
        """The toolkit's decoders and encoders."""
        from sagemaker_inference import decoder, encoder, errors

        from mme.frameworks.script import service

        return decoder, encoder, errors, service

    def warm_template(self, settings: Settings) -> None:
        """Imports what scripts, DJL's models too, find under them."""
        import djl_python

        self.import_framework(settings)
        djl_python.Input()

    def write_sample(self, folder: Path, settings: Settings) -> None:
        """A script in which the toolkit's defaults read and write."""
        code = folder / CODE_FOLDER
        code.mkdir()
        (code / Path(settings.program).name).write_text(textwrap.dedent(_SAMPLE))

    def load_service(
        self, model_dir: Path, settings: Settings, context: Any, load_data: Callable[[], DataModel | None]
    ) -> Service:
        """See ``CodeAdapter``."""
        from mme.frameworks.script.functions import Functions
        from mme.frameworks.script.service import ScriptService, check_can_predict

        program = program_of(model_dir, settings)
        if program is None:
            raise ModelLoadError(f"{model_dir} holds no script any more: {self.artifacts}.")
        file = str(program.relative_to(model_dir))
        programs.check_allowed(model_dir, settings, file)
        functions = Functions(programs.import_program(model_dir, program), file)
        folder = str(model_dir)
        if functions.pre_model:
            with programs.load_errors(f"pre_model_fn of {file} failed"):
                functions.pre_model(context, folder)
        data_model = None
        if functions.model:
            with programs.load_errors(f"model_fn of {file} failed"):
                model = functions.model(context, folder)
            check_can_predict(functions, model, file)
        else:
            data_model = load_data()
            model = data_model and data_model.model
            if data_model is None and not (functions.transform or functions.predict):
                raise ModelLoadError(
                    f"{file} has no model_fn, and there are no files of a model beside it that a framework here knows. "
                    "Define model_fn(model_dir), or predict_fn or transform_fn, which then get None for the model."
                )
        if functions.model_warmup:
            with programs.load_errors(f"model_warmup_fn of {file} failed"):
                functions.model_warmup(context, folder, model)
        return ScriptService(functions, model, data_model, model_dir, settings.default_accept)


ADAPTER = ScriptAdapter()
