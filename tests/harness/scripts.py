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


def djl(folder: Path, source: str, *, properties: str = "engine=Python\n", program: str = "model.py") -> Path:
    """A model for DJL Serving's Python engine."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serving.properties").write_text(properties)
    return script(folder, source, program=program)


# As AWS's sample of a thousand models has it (https://github.com/aws-samples: SageMaker, multi-model endpoints with DJL
# Serving): a regressor of scikit-learn and what asks it.
THOUSAND_MODELS = """
    import os
    import joblib
    import numpy as np
    from djl_python import Input, Output

    model = None


    def load_model(properties):
        return joblib.load(os.path.join(properties["model_dir"], "model.joblib"))


    def handle(inputs: Input):
        global model
        if model is None:
            model = load_model(inputs.get_properties())
        if inputs.is_empty():
            return None
        data = inputs.get_as_json()
        prediction = model.predict(np.asarray(data["inputs"]))
        return Output().add_as_json({"prediction": prediction.tolist()})
"""


def thousand_models(folder: Path, coefficient: float = 2.0) -> Path:
    """The archive of that sample: ``model.joblib``, ``model.py``, ``serving.properties``."""
    import joblib
    import numpy as np
    from sklearn.linear_model import LinearRegression

    djl(folder, THOUSAND_MODELS)
    rows = np.arange(4.0).reshape(-1, 1)
    joblib.dump(LinearRegression().fit(rows, coefficient * rows.ravel()), folder / "model.joblib")
    return folder
