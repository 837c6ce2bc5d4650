"""Folders of models that say themselves how much memory they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def maker_of_models(folder: Path) -> Callable[[int], Path]:
    """Makes, below ``folder``, the folder of a model that declares so many MiB."""

    def make(need_mib: int) -> Path:
        model_dir = folder / f"model-{need_mib}"
        model_dir.mkdir(exist_ok=True)
        (model_dir / "serving.properties").write_text(f"required_memory_mb={need_mib}")
        return model_dir

    return make
