"""Which frameworks there are, and which of them a model folder is for. Adapters are imported when first asked for.

What the supervisor and the zygote's root ask (``description`` and all that is made of it) imports neither an adapter
nor NumPy.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mme.errors import ModelLoadError, ModelRefused
from mme.frameworks.description import names_in
from mme.settings import Settings

if TYPE_CHECKING:
    from mme.frameworks.base import Adapter, AnyAdapter
    from mme.frameworks.description import Description

# framework -> module that defines its ADAPTER, in a package that defines its DESCRIPTION; asked in this order
ADAPTERS = {
    "mxnet": "mme.frameworks.mxnet.adapter",
    "onnx": "mme.frameworks.onnx.adapter",
    "xgboost": "mme.frameworks.xgboost.adapter",
    "sklearn": "mme.frameworks.sklearn.adapter",
    "lightgbm": "mme.frameworks.lightgbm.adapter",
    "pytorch": "mme.frameworks.pytorch.adapter",
    "script": "mme.frameworks.script.adapter",
    "djl": "mme.frameworks.djl.adapter",
}


def frameworks_of(model_dir: str | os.PathLike[str], settings: Settings) -> tuple[str, ...]:
    """All frameworks that the model in ``model_dir`` has files of, by their names, or their first bytes at most."""
    try:
        names = names_in(model_dir)
    except OSError:
        return ()
    return tuple(each for each in ADAPTERS if description(each).recognises(Path(model_dir), names, settings))


def has_program(frameworks: Iterable[str]) -> bool:
    """Is any of ``frameworks`` a way to write models as programs?"""
    return any(description(each).runs_code for each in frameworks)


def framework_of(model_dir: str | os.PathLike[str], settings: Settings) -> str | None:
    """The framework whose template a worker for the model is best forked from; None where it is that of none.

    A model that is a program is forked from a template of the framework whose files lie beside it, which it is going
    to import, else from one of its own kind.
    """
    found = frameworks_of(model_dir, settings)
    data = [each for each in found if not description(each).runs_code and is_installed(each)]
    name = next(iter([*data, *found]), None)
    return name and (description(name).template or name)


def frameworks_to_preload(settings: Settings) -> tuple[str, ...]:
    """The frameworks of ``MME_PRELOAD``, else all known ones that are installed here and have a template."""
    if settings.preload is not None:
        return settings.preload
    return tuple(each for each in ADAPTERS if not description(each).template and is_installed(each))


@cache
def is_installed(name: str) -> bool:
    """Whether the framework called ``name`` can be imported here."""
    # (not importlib.util.find_spec, which asks finders that prepare the import, too: mme/before_import.py)
    return importlib.machinery.PathFinder.find_spec(description(name).module) is not None


def description(name: str) -> Description:
    """What is known of the framework called ``name`` without its adapter; ``KeyError`` where there is none."""
    return importlib.import_module(ADAPTERS[name].rpartition(".")[0]).DESCRIPTION


def descriptions() -> Iterator[Description]:
    """Of all frameworks, in the order of ``ADAPTERS``."""
    return map(description, ADAPTERS)


def code_refused(model_dir: str | os.PathLike[str], what: str) -> ModelRefused:
    """The error of a model that brings code where models may not; ``what`` it brings is named, and what it may be."""
    formats = ", ".join(each for description in descriptions() for each in description.data_formats)
    return ModelRefused(
        f"{os.fspath(model_dir)!r} brings code ({what}), which MME_MODEL_CODE=refuse does not let run. Load the "
        f"model's files without it, in a format that is data alone: {formats} (docs/security.md)."
    )


def environment(settings: Settings) -> dict[str, str]:
    """The variables that the frameworks are to find in each worker, where the user has set none."""
    return {name: value for each in descriptions() for name, value in each.environment(settings).items()}


def adapter(name: str) -> AnyAdapter:
    """The adapter of the framework called ``name``; ``KeyError`` where there is none."""
    return importlib.import_module(ADAPTERS[name]).ADAPTER


def adapters() -> Iterator[AnyAdapter]:
    """All adapters, in the order in which they are asked."""
    return map(adapter, ADAPTERS)


def adapter_for(model_dir: Path, settings: Settings) -> AnyAdapter:
    """The adapter of the model in ``model_dir``. A program wins over files of data beside it.

    Raises ``ModelLoadError``, which names what the folder holds and what it should hold, where it is of no framework,
    of two, or of one that is not installed.
    """
    if not model_dir.is_dir():
        raise ModelLoadError(f"{model_dir} is not a folder: there is no model to load.")
    found = frameworks_of(model_dir, settings)
    found = tuple(each for each in found if description(each).runs_code) or found
    if not found:
        raise ModelLoadError(_of_no_framework(model_dir, settings))
    if len(found) > 1:
        each = "; ".join(f"{name}: {adapter(name).artifacts}" for name in found)
        programs = has_program(found)
        remedy = "" if programs else ", or add code/inference.py, which says what is done with them"
        raise ModelLoadError(
            f"{model_dir} holds files of {len(found)} kinds of model: {each}. Keep those of one{remedy}."
        )
    (name,) = found
    return _installed(name, model_dir)


def data_adapter_beside(model_dir: Path, settings: Settings) -> Adapter | None:
    """The adapter of the files of data beside a program; None where there are none.

    Raises ``ModelLoadError`` where they are of two frameworks, or of one that is not installed.
    """
    found = [each for each in frameworks_of(model_dir, settings) if not description(each).runs_code]
    if len(found) > 1:
        raise ModelLoadError(
            f"{model_dir} holds files of {len(found)} kinds of model beside its program: {', '.join(found)}. Let the "
            "program load what it needs (model_fn), or keep the files of one."
        )
    return cast("Adapter", _installed(found[0], model_dir)) if found else None


def _installed(name: str, model_dir: Path) -> AnyAdapter:
    if not is_installed(name):
        argument = description(name).build_argument
        how = f"Build the image with --build-arg {argument}." if argument else f"Install {description(name).module}."
        raise ModelLoadError(f"{model_dir} holds a model of {name}, which is not installed here. {how}")
    return adapter(name)


def data_adapter_for(model_dir: Path, settings: Settings) -> Adapter:
    """The same for a model that is data. Raises ``ModelLoadError`` for one that is a program, too."""
    found = adapter_for(model_dir, settings)
    if description(found.name).runs_code:
        raise ModelLoadError(
            f"{model_dir} holds a program ({found.artifacts}), and SAGEMAKER_HANDLER names what handles requests for "
            "all models. Keep one of the two."
        )
    return cast("Adapter", found)


def folder_of_model(model_dir: str | os.PathLike[str], settings: Settings) -> str | None:
    """The one folder in ``model_dir`` that holds a model, where ``model_dir`` itself is to; None where it is not so.

    People pack a folder where its content is meant.
    """
    if frameworks_of(model_dir, settings):
        return None
    try:
        folders = [each for each in names_in(model_dir) if frameworks_of(Path(model_dir, each), settings)]
    except OSError:
        return None
    return folders[0] if len(folders) == 1 else None


def too_deep(folder: str) -> str:
    """What is wrong with a model whose files are in ``folder`` of its archive, and the remedy."""
    return (
        f"The model's files are in the folder {folder}/, and must be at the top of the archive. Pack what is in the "
        f"folder, not the folder itself: tar czf model.tar.gz -C {folder} ."
    )


def _of_no_framework(model_dir: Path, settings: Settings) -> str:
    folder = folder_of_model(model_dir, settings)
    if folder is not None:
        return f"{model_dir} holds no model at its top. {too_deep(folder)}"
    found = [name + ("/" if (model_dir / name).is_dir() else "") for name in names_in(model_dir)]
    known = "; ".join(f"{each.name}: {each.artifacts}" for each in adapters())
    holds = ", ".join(found[:10]) + (" …" if len(found) > 10 else "") if found else "nothing"
    return (
        f"{model_dir} holds no model that is known here. Found: {holds}. A model is one of: {known}. "
        "The files must be at the top of the archive, not in a folder inside it."
    )
