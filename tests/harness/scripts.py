"""Models that are programs, for tests: each function fills ``folder`` with one, and returns the folder."""

from __future__ import annotations

import json
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


# Makes the calls that AWS's sample of a thousand models makes, in its layout: aws-samples/sagemaker-hosting,
# Advanced-Model-Deployment/MME-DJL/sklearn-djl-mme.ipynb. A regressor of scikit-learn is found in the working folder,
# errors are answered by ``Output.error``, answers are numbers that stand alone, and all is printed.
THOUSAND_MODELS = """
    import logging
    import os

    import joblib
    from djl_python import Input
    from djl_python import Output


    class Regressor:
        model = None

        def load(self, properties):
            print(os.listdir())
            if not os.path.exists("model.joblib"):
                raise ValueError("there is no model.joblib")
            self.model = joblib.load("model.joblib")

        def answer(self, inputs):
            try:
                answer = Output()
                answer.add_as_json(self.model.predict(inputs.get_as_json()).tolist()[0])
            except Exception as error:
                logging.exception("not predicted")
                answer = Output().error(str(error))
            print(answer, type(answer))
            return answer


    regressor = Regressor()


    def handle(inputs: Input):
        if regressor.model is None:
            regressor.load(inputs.get_properties())
        return None if inputs.is_empty() else regressor.answer(inputs)
"""
# Which no Python from 3.11 on can install: with it a model needs MME_MODEL_REQUIREMENTS=ignore.
THOUSAND_MODELS_REQUIREMENTS = "numpy==1.22.3\njoblib\nscikit-learn==0.23.2\n"


def thousand_models(folder: Path, coefficient: float = 2.0, *, requirements: bool = False) -> Path:
    """The layout of that sample: ``model.joblib``, ``model.py``, ``serving.properties``; its requirements, if asked."""
    import joblib
    import numpy as np
    from sklearn.linear_model import LinearRegression

    djl(folder, THOUSAND_MODELS, properties="engine=Python\n# seconds\nmax_idle_time=600\n")
    if requirements:
        (folder / "requirements.txt").write_text(THOUSAND_MODELS_REQUIREMENTS)
    rows = np.arange(4.0).reshape(-1, 1)
    joblib.dump(LinearRegression().fit(rows, coefficient * rows.ravel()), folder / "model.joblib")
    return folder


def reverser(folder: Path) -> Path:
    """A handler of the Multi Model Server's that answers the body turned round; an empty one is 400."""
    script(
        folder,
        """
        def handle(data, context):
            if data is None:
                return None
            answers = []
            for index, request in enumerate(data):
                text = bytes(request["body"]).decode()
                if not text:
                    context.set_response_status(400, "nothing was sent", index)
                answers.append(text[::-1])
            return answers
        """,
        program="service.py",
    )
    (folder / "MAR-INF").mkdir()
    manifest = {"model": {"modelName": "reverser", "handler": "service:handle"}}
    (folder / "MAR-INF/MANIFEST.json").write_text(json.dumps(manifest))
    return folder
