"""Models that are programs, for tests: each function fills ``folder`` with one, and returns the folder."""

from __future__ import annotations

import textwrap
from pathlib import Path


def script(folder: Path, source: str, *, program: str = "code/inference.py", **files: str) -> Path:
    """A model with a script of the Inference Toolkit; ``files`` are others beside it, by name without ``.py``."""
    file = folder / program
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(source))
    for name, text in files.items():
        (file.parent / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def adder(folder: Path, number: float = 1.0) -> Path:
    """A script that adds ``number`` to what it is sent; the toolkit's defaults read and write."""
    return script(
        folder,
        f"""
        import numpy as np

        def model_fn(model_dir):
            return {number!r}

        def predict_fn(data, model):
            return np.asarray(data, float) + model
        """,
    )
