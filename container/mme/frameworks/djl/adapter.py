"""Loads models for DJL Serving's Python engine; see ``docs/frameworks.md`` for what they may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mme.errors import ModelLoadError
from mme.frameworks import programs, properties
from mme.frameworks.base import CodeAdapter, DataModel, Service
from mme.frameworks.djl import DEFAULT_ENTRY_POINT, DESCRIPTION, ENTRY_POINT, OWN_HANDLERS, entry_point_of
from mme.settings import Settings

_OPTION = "option."
_NO_DEVICE = "-1"  # how DJL names the processor itself


class DjlAdapter(CodeAdapter):
    """See the module."""

    name = "djl"
    description = DESCRIPTION
    artifacts = f"{properties.FILE} with engine=Python, and {DEFAULT_ENTRY_POINT} or what {ENTRY_POINT} names"

    def import_framework(self, settings: Settings) -> Any:
        """The package that DJL's models import."""
        import djl_python

        return djl_python

    def load_service(
        self, model_dir: Path, settings: Settings, context: Any, load_data: Callable[[], DataModel | None]
    ) -> Service:
        """See ``CodeAdapter``. Calls the program's ``handle`` once with nothing in its inputs, as DJL does."""
        from mme.frameworks.djl.handlers import handler_of
        from mme.frameworks.djl.service import DjlService

        given = properties.read(model_dir)
        file = _file_of(model_dir, entry_point_of(model_dir, given) or DEFAULT_ENTRY_POINT)
        name = str(file.relative_to(model_dir))
        programs.check_allowed(model_dir, settings, name)
        options = _options(given, context, model_dir)
        module = programs.import_program(model_dir, file)
        handler = handler_of(module, name, options, load_data)
        service = DjlService(handler, options, model_dir, name)
        service.load()
        return service


def _options(given: Mapping[str, str], context: Any, model_dir: Path) -> dict[str, str]:
    """What DJL tells a program when it loads: the file's options, and where the model is."""
    gpu = context.system_properties.get("gpu_id")
    named = {name.removeprefix(_OPTION): value for name, value in given.items() if name.startswith(_OPTION)}
    return {**named, "model_dir": str(model_dir), "device_id": _NO_DEVICE if gpu is None else str(gpu)}


def _file_of(model_dir: Path, entry_point: str) -> Path:
    """Raises ``ModelLoadError`` for an entry point that is no file of the model."""
    if entry_point.startswith(OWN_HANDLERS):
        raise ModelLoadError(
            f"{properties.place(model_dir, ENTRY_POINT)}={entry_point} is one of DJL Serving's own programs, which "
            "are not part of this container. Leave it out, and bring a "
            f"{DEFAULT_ENTRY_POINT}, or the model's files alone."
        )
    path = entry_point if entry_point.endswith(".py") else entry_point.replace(".", "/") + ".py"
    file = model_dir / path
    if not file.is_file() or not file.resolve().is_relative_to(model_dir.resolve()):
        raise ModelLoadError(
            f"{properties.place(model_dir, ENTRY_POINT)}={entry_point} is no file in the model's folder. It takes "
            f"the name of one, as {DEFAULT_ENTRY_POINT}."
        )
    return file


ADAPTER = DjlAdapter()
