"""A pipeline of two containers: a script of yours makes numbers of a picture, a classifier says which digit it is."""

from __future__ import annotations

import json

import boto3
import joblib
import numpy as np
from botocore.exceptions import ClientError
from sklearn.ensemble import RandomForestClassifier

from examples.story import Story, expect, heading, parser, tell
from examples.two_containers.story import as_png, as_rows, one_of_each
from scripts.programs.console import run
from scripts.programs.other_frameworks import train_xgboost
from scripts.programs.sample_models import Digits, load_digits

LEAST_RIGHT = 8
SCRIPT, CLASSIFIERS = "pixels", "classifiers"
PREPROCESSING = """\
import io

import numpy as np
from PIL import Image


def model_fn(model_dir):
    return (8, 8)  # the size of picture that the classifiers take


def input_fn(body, content_type):
    return Image.open(io.BytesIO(body)).convert("L")


def predict_fn(picture, size):
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR)).reshape(-1) / 255


def output_fn(pixels, accept):
    return ",".join(f"{pixel:.3f}" for pixel in pixels), "text/csv"
"""


def make_models(story: Story, learned: Digits) -> None:
    """The script, and two classifiers below the prefix of the second container."""
    code = story.folder / SCRIPT / "code"
    code.mkdir(parents=True)
    (code / "inference.py").write_text(PREPROCESSING)
    story.upload(story.folder / SCRIPT, f"{SCRIPT}.tar.gz")

    trees, forest = story.folder / "trees", story.folder / "forest"
    train_xgboost(learned, trees)
    forest.mkdir()
    classifier = RandomForestClassifier(60, random_state=0).fit(as_rows(learned.pictures), learned.truths)
    joblib.dump(classifier, forest / "model.joblib")
    for folder in (trees, forest):
        story.upload(folder, f"{CLASSIFIERS}/{folder.name}.tar.gz")


def show(story: Story) -> None:
    """All steps."""
    heading("A script that makes 64 numbers of a picture, and two classifiers: XGBoost and scikit-learn")
    learned, held_out = load_digits()
    make_models(story, learned)

    heading("One endpoint: the script's answer is the classifier's request; TargetModel says which classifier")
    chain = {SCRIPT: story.one_model(f"{SCRIPT}.tar.gz"), CLASSIFIERS: story.many_models(f"{CLASSIFIERS}/")}
    story.deploy_containers("Serial", **chain)

    heading("Pictures go in as PNG files, and the digit comes out")
    right = {"trees": 0, "forest": 0}
    print("  digit  " + "  ".join(f"{name:8}" for name in right))
    for digit, picture in enumerate(one_of_each(held_out)):
        found = {}
        for name in right:
            (answer,) = json.loads(story.invoke(f"{name}.tar.gz", as_png(picture), "image/png").body)
            found[name] = int(np.argmax(answer)) if name == "trees" else answer  # scores, or the digit itself
            right[name] += found[name] == digit
        print(f"  {digit}      " + "  ".join(f"{each:<8}" for each in found.values()), flush=True)
    expect(min(right.values()) >= LEAST_RIGHT, f"of ten pictures so many were right: {right}")

    heading("The one that fails is named")
    try:
        boto3.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=story.name, TargetModel="trees.tar.gz", ContentType="image/png", Body=b"no picture"
        )
    except ClientError as error:
        text = error.response["Error"]["Message"].partition(" See https")[0]
        print(f"  {text}", flush=True)
        expect(f"from {SCRIPT} " in text, text)
    else:
        expect(False, "what is no picture is answered")


def main() -> int:
    """Returns 0 once all was shown."""
    given = parser("pipeline", __doc__ or "").parse_args()
    return tell("pipeline", given.port, show)


if __name__ == "__main__":
    run(main)
