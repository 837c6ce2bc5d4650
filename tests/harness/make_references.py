"""Writes tests/references: what MXNet answers here. Run it where MXNet needs no help, on Python 3.11 and NumPy 1.23:

uv venv --python 3.11 /tmp/numpy-1.23
VIRTUAL_ENV=/tmp/numpy-1.23 uv pip install mxnet==1.9.1 numpy==1.23.5 pillow psutil 'setuptools<81'
PYTHONPATH=.:container /tmp/numpy-1.23/bin/python -m tests.harness.make_references ../shared
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np

from mme.settings import Settings
from tests.harness import models, reference_functions, reference_networks, references

USAGE = "usage: python -m tests.harness.make_references [FOLDER-WITH-models-AND-images]"


def main(arguments: list[str]) -> int:
    if len(arguments) > 1 or (arguments and not Path(arguments[0], "models").is_dir()):
        print(USAGE, file=sys.stderr)
        return 2
    mx = models.import_mxnet(Settings())
    made_with = f"Python {platform.python_version()}, NumPy {np.__version__}, MXNet {mx.__version__}"
    operators = {
        f"{name}/{number}": array
        for name in reference_networks.names()
        for number, array in enumerate(reference_networks.answers(mx, name))
    }
    references.write("mxnet_operators", operators, made_with)
    functions = {name: reference_functions.answer(mx, name) for name in reference_functions.names()}
    references.write("mxnet_functions", functions, made_with)
    if arguments:
        shared = Path(arguments[0])
        networks = sorted(folder.name for folder in (shared / "models").iterdir())
        answers = {name: references.answer_of_trained_model(shared, name) for name in networks}
        references.write("mxnet_trained", answers, made_with)
    print(f"written to {references.FOLDER} by {made_with}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
