"""Two classifiers of digits, MXNet and XGBoost, as two containers of one endpoint, each called by its name."""

from __future__ import annotations

import io
import json
import os

import boto3
import numpy as np
from botocore.exceptions import ClientError
from PIL import Image

from examples.story import Story, expect, heading, parser, tell
from scripts.programs.console import run
from scripts.programs.other_frameworks import five_best, train_xgboost
from scripts.programs.sample_models import SAMPLES, Digits, inputs_of, load_digits, train

PICTURES = 10  # one of each digit
LEAST_RIGHT = 8
NETWORK, TREES = "mxnet", "xgboost"


def as_png(picture: np.ndarray) -> bytes:
    """A (64, 64) uint8 picture as a file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    return file.getvalue()


def one_of_each(digits: Digits) -> np.ndarray:
    """(10, 64, 64) uint8: the first picture of each digit from 0 to 9."""
    return np.stack([digits.pictures[digits.truths == digit][0] for digit in range(PICTURES)])


def as_rows(pictures: np.ndarray) -> np.ndarray:
    """(N, 64, 64) pictures as rows of 8×8 pixels from 0 to 1: (N, 64) float32."""
    return inputs_of(pictures, SAMPLES[0]).reshape(len(pictures), -1)


def as_csv(row: np.ndarray) -> str:
    """One row."""
    return ",".join(f"{pixel:.3f}" for pixel in row)


def show(story: Story) -> None:
    """All steps."""
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # read by MXNet's library: no chatter between our lines
    learned, held_out = load_digits()
    heading(f"Two models, trained on {len(learned.truths)} handwritten digits")
    network, trees = story.folder / NETWORK, story.folder / TREES
    train(SAMPLES[0], learned, network, lambda: None)
    train_xgboost(learned, trees)  # after MXNet: see docs/frameworks.md
    for folder in (network, trees):
        print(f"  {folder.name:8} {', '.join(sorted(each.name for each in folder.iterdir()))}", flush=True)
        story.upload(folder, f"{folder.name}.tar.gz")

    heading("One endpoint, two containers: each its own framework, memory and content type")
    story.deploy_containers("Direct", **{name: story.one_model(f"{name}.tar.gz") for name in (NETWORK, TREES)})

    heading("The same pictures to both: a PNG file to one, a row of 64 numbers as CSV to the other")
    print(f"  digit  {NETWORK + ', image/png':36}  {TREES + ', text/csv':36}")
    right = {NETWORK: 0, TREES: 0}
    pictures = one_of_each(held_out)
    for digit, (picture, row) in enumerate(zip(pictures, as_rows(pictures), strict=True)):
        labels = json.loads(story.invoke(None, as_png(picture), "image/png", container=NETWORK).body)
        (scores,) = json.loads(story.invoke(None, as_csv(row), "text/csv", container=TREES).body)
        best = {NETWORK: labels[0], TREES: five_best(scores)[0]}
        print(f"  {digit}      {best[NETWORK]:36}  {best[TREES]:36}", flush=True)
        for name, label in best.items():
            right[name] += f"class={digit} " in label
    expect(min(right.values()) >= LEAST_RIGHT, f"of {PICTURES} pictures so many were right: {right}")

    heading("Each takes what its framework takes, and nothing else; a request without a name is refused")
    shown = {
        "a PNG file to the trees": {"TargetContainerHostname": TREES, "ContentType": "image/png"},
        "no container named": {"ContentType": "image/png"},
        "a container that is not there": {"TargetContainerHostname": "onnx", "ContentType": "image/png"},
    }
    for what, request in shown.items():
        print(f"  {what}: {refusal(story, **request)}", flush=True)


def refusal(story: Story, **request: str) -> str:
    """What InvokeEndpoint says to a request that it must refuse."""
    picture = as_png(np.zeros((64, 64), np.uint8))
    try:
        boto3.client("sagemaker-runtime").invoke_endpoint(EndpointName=story.name, Body=picture, **request)
    except ClientError as error:
        its = error.response["Error"]
        return f"{its['Code']}: {its['Message'].partition(' See https')[0]}"
    expect(False, f"{request} is answered")
    raise AssertionError("unreachable")


def main() -> int:
    """Returns 0 once all was shown."""
    given = parser("two_containers", __doc__ or "").parse_args()
    return tell("two-containers", given.port, show)


if __name__ == "__main__":
    run(main)
