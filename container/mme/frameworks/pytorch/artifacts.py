"""The files of a PyTorch model, looked at without PyTorch.

    NAME.pt2            a program of torch.export.save: it says itself what it takes
    NAME.pt, NAME.pth   TorchScript, as torch.jit.save writes it
    NAME-shapes.json    beside TorchScript, what it takes: [{"name": "image", "shape": [null, 3, 224, 224]}], the batch
                        first, null for any length; "dtype" optional

All of them are ZIP archives. TorchScript has its code in ``code/`` and a ``constants.pkl``; what torch.save writes has
a ``data.pkl`` alone, and is read nowhere here: it is weights without a network, or a pickle that needs its classes.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mme.errors import ModelLoadError, ModelRefused
from mme.frameworks.base import FREE
from mme.frameworks.description import paths_in
from mme.frameworks.pytorch import EXPORTED, SCRIPTS, SHAPES_SUFFIX
from mme.settings import Settings

_EXPORT = "torch.export.save(torch.export.export(model, (sample,), dynamic_shapes=…), 'model.pt2')"
# parts of an exported program that PyTorch unpickles whatever they say
_PICKLED_PARTS = ("data/constants/custom_obj_", "data/constants/opaque_obj_")


@dataclass(frozen=True)
class Artifacts:
    """The model's file, and whether it is an exported program rather than TorchScript."""

    path: Path
    is_exported: bool


def find(model_dir: Path, settings: Settings) -> Artifacts:
    """The model's file. Raises ``ModelLoadError``, and ``ModelRefused`` where models may not bring code."""
    found = [path for path in paths_in(model_dir) if path.name.endswith((EXPORTED, *SCRIPTS))]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelLoadError(
            f"{model_dir} holds {len(found)} files of PyTorch ({names}); a model has exactly one, *{EXPORTED} or "
            f"TorchScript's {' or '.join(f'*{suffix}' for suffix in SCRIPTS)}. Make an archive for each."
        )
    (path,) = found
    members = _members(path)
    if path.suffix == EXPORTED:
        if not any(name.endswith("archive_format") for name in members):
            raise ModelLoadError(f"{path} is no program of torch.export. Write it with {_EXPORT}.")
        pickled = [name for name in members if any(part in name for part in _PICKLED_PARTS)]
        if settings.refuses_model_code and pickled:
            raise ModelRefused(
                f"{path} holds objects as pickles ({pickled[0]}), which can run any code when they are read, and "
                "MME_MODEL_CODE=refuse allows models that are data alone. Export the model without them."
            )
        return Artifacts(path, is_exported=True)
    if not any(name.endswith("/constants.pkl") for name in members):
        raise ModelLoadError(
            f"{path} is what torch.save writes: weights without a network, or a pickle that needs its classes. Export "
            f"the model: {_EXPORT}; or bring code/inference.py, which makes the network and loads the weights into it."
        )
    if settings.refuses_model_code:
        raise ModelRefused(
            f"{path} is TorchScript, a program, and MME_MODEL_CODE=refuse allows models that are data alone. Export "
            f"the model: {_EXPORT}."
        )
    return Artifacts(path, is_exported=False)


def read_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """What TorchScript takes: shape and type of each input, of ``NAME-shapes.json``. Raises ``ModelLoadError``."""
    file = path.with_name(path.stem + SHAPES_SUFFIX)

    def wrong(what: str) -> ModelLoadError:
        return ModelLoadError(
            f'{file}: {what}. It names the inputs of {path.name} in their order: [{{"name": "image", "shape": '
            "[null, 3, 224, 224]}], null for any length, the batch first."
        )

    if not file.is_file():
        raise wrong("it is missing, and TorchScript does not say itself what it takes")
    try:
        entries = json.loads(file.read_bytes())
        shapes = {
            str(entry["name"]): (_shape(entry["shape"]), np.dtype(str(entry.get("dtype", "float32"))))
            for entry in entries
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise wrong(f"it cannot be read ({error})") from None
    if not shapes or len(shapes) != len(entries):
        raise wrong("it names no input, or one twice")
    return shapes


def _shape(value: object) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) else None
    if not sizes or not all(size is None or (type(size) is int and size > 0) for size in sizes):
        raise ValueError(f"the shape {json.dumps(value)[:60]}")
    return tuple(FREE if size is None else size for size in sizes)


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        size = path.stat().st_size if path.is_file() else 0
        raise ModelLoadError(
            f"{path} is no archive of PyTorch ({size} bytes): it is truncated, was written before PyTorch 1.6, or is "
            "something else under that name. Export the model again, or make the archive again."
        ) from None
