"""A thousand scikit-learn models behind one endpoint, in the layout of DJL Serving, invoked at random."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.linear_model import LinearRegression

from examples.story import Story, expect, heading, parser, tell
from scripts.programs.archives import entries, write_archive
from scripts.programs.console import at_least_one, run
from scripts.programs.progress import steps_bar

PROGRAM = """\
import joblib
from djl_python import Input, Output

model = None


def handle(inputs: Input) -> Output:
    global model
    if model is None:
        model = joblib.load(f"{inputs.get_properties()['model_dir']}/model.joblib")
    if inputs.is_empty():
        return None  # the call at the load
    return Output().add_as_json(model.predict(inputs.get_as_json()["inputs"]).tolist())
"""
PROPERTIES = "engine=Python\noption.entryPoint=model.py\n"
KINDS = 10  # different models; the others are copies


def train(folder: Path, slope: float) -> None:
    """y = slope · x + 1, learnt, in the layout of DJL Serving."""
    folder.mkdir()
    x = np.linspace(-1, 1, 50).reshape(-1, 1)
    joblib.dump(LinearRegression().fit(x, slope * x[:, 0] + 1), folder / "model.joblib")
    (folder / "model.py").write_text(PROGRAM)
    (folder / "serving.properties").write_text(PROPERTIES)


def show(story: Story, models: int, calls: int) -> None:
    """All steps."""
    heading(f"{models} archives: {KINDS} regressors of scikit-learn, copied")
    for kind in range(KINDS):
        train(story.folder / f"kind-{kind}", slope=kind)
        members, _ = entries(story.folder / f"kind-{kind}")
        write_archive(members, story.folder / f"kind-{kind}.tar.gz")
        shutil.rmtree(story.folder / f"kind-{kind}")
    with steps_bar("uploading", models, "models") as bar:
        for number in range(models):
            story.upload_file(story.folder / f"kind-{number % KINDS}.tar.gz", f"regressor-{number:04}.tar.gz")
            bar.update()

    heading("One endpoint for all of them")
    story.deploy()

    heading(f"{calls} invocations of any of them")
    chosen = random.Random(0)
    cold_ms: list[float] = []
    warm_ms: list[float] = []
    seen: set[int] = set()
    started_s = time.monotonic()
    with steps_bar("invoking", calls, "calls") as bar:
        for _ in range(calls):
            number = chosen.randrange(models)
            answer = story.invoke(f"regressor-{number:04}.tar.gz", '{"inputs": [[2.0]]}', "application/json")
            (found,) = np.asarray(json.loads(answer.body), float)
            expect(abs(found - (2 * (number % KINDS) + 1)) < 1e-6, f"regressor {number} says {found}")
            (warm_ms if number in seen else cold_ms).append(answer.latency_ms)
            seen.add(number)
            bar.update()
    elapsed_s = time.monotonic() - started_s
    print(f"  all right, {elapsed_s:.1f} s; {len(seen)} models are loaded now")
    for which, found_ms in (("first call of a model (download, load, answer)", cold_ms), ("later calls", warm_ms)):
        if found_ms:
            print(f"  {which}: median {statistics.median(found_ms):.0f} ms, longest {max(found_ms):.0f} ms", flush=True)


def main() -> int:
    """Returns 0 once all was shown."""
    arguments = parser("thousand_regressors", __doc__ or "")
    arguments.add_argument("--models", type=at_least_one, default=1000, help="how many models (default 1000)")
    arguments.add_argument("--calls", type=at_least_one, default=2000, help="how many invocations (default 2000)")
    given = arguments.parse_args()
    return tell("regressors", given.port, lambda story: show(story, given.models, given.calls))


if __name__ == "__main__":
    run(main)
