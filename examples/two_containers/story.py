"""Two classifiers of digits, MXNet and XGBoost, as two containers of one endpoint: each called by its name, one of them
forbidden to a user, and metrics of each."""

from __future__ import annotations

import io
import json
import os
import time
from typing import Any

import boto3
import numpy as np
from botocore.exceptions import ClientError
from PIL import Image

from examples.story import ROLE, Story, expect, heading, parser, tell
from local_endpoint.configuration import RootKey
from scripts.programs.console import run
from scripts.programs.metrics import print_all, read
from scripts.programs.other_frameworks import five_best, train_xgboost
from scripts.programs.sample_models import SAMPLES, Digits, inputs_of, load_digits, train

PICTURES = 10  # one of each digit
LEAST_RIGHT = 8
NETWORK, TREES = "mxnet", "xgboost"
USER, POLICY = "of-the-trees", "what-is-needed"
ROLE_NAME = ROLE.rpartition("/")[2]
ROOT_KEY = RootKey("local", "local")  # which boto3 is given where nothing else is
METRICS_PERIOD_S = 1.0  # once a minute on AWS
METRICS_TIMEOUT_S = 30.0


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
    make_role(story)
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

    show_access(story, as_rows(pictures)[0])
    show_metrics(story)
    delete_role()


def refusal(story: Story, runtime: Any = None, **request: str) -> str:
    """What InvokeEndpoint says to a request that it must refuse. ``runtime`` is a client of somebody else's."""
    picture = as_png(np.zeros((64, 64), np.uint8))
    runtime = runtime or boto3.client("sagemaker-runtime")
    try:
        runtime.invoke_endpoint(EndpointName=story.name, Body=picture, **request)
    except ClientError as error:
        its = error.response["Error"]
        return f"{its['Code']}: {its['Message'].partition(' See https')[0]}"
    expect(False, f"{request} is answered")
    raise AssertionError("unreachable")


def make_role(story: Story) -> None:
    """The role that SageMaker reads the models with: this endpoint checks policies."""
    iam = boto3.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    bucket = f"arn:aws:s3:::{story.bucket}"
    reading = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": [bucket, f"{bucket}/*"]}
    iam.create_role(RoleName=ROLE_NAME, AssumeRolePolicyDocument=policy_of(trust))
    iam.put_role_policy(RoleName=ROLE_NAME, PolicyName=POLICY, PolicyDocument=policy_of(reading))


def delete_role() -> None:
    iam = boto3.client("iam")
    iam.delete_role_policy(RoleName=ROLE_NAME, PolicyName=POLICY)
    iam.delete_role(RoleName=ROLE_NAME)


def policy_of(statement: dict[str, Any]) -> str:
    """A policy's document."""
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def show_access(story: Story, row: np.ndarray) -> None:
    """A user whose policy names one container."""
    heading(f"A user who may invoke {TREES} only: sagemaker:TargetContainerHostname in a policy")
    iam = boto3.client("iam")
    iam.create_user(UserName=USER)
    statement = {
        "Effect": "Allow",
        "Action": "sagemaker:InvokeEndpoint",
        "Resource": f"arn:aws:sagemaker:*:*:endpoint/{story.name}",
        "Condition": {"StringEquals": {"sagemaker:TargetContainerHostname": TREES}},
    }
    iam.put_user_policy(UserName=USER, PolicyName=POLICY, PolicyDocument=policy_of(statement))
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    runtime = boto3.client("sagemaker-runtime", **keys)

    allowed = runtime.invoke_endpoint(
        EndpointName=story.name, TargetContainerHostname=TREES, ContentType="text/csv", Body=as_csv(row)
    )
    print(f"  {TREES}: answered, {len(json.loads(allowed['Body'].read())[0])} scores", flush=True)
    denied = refusal(story, runtime, TargetContainerHostname=NETWORK, ContentType="image/png")
    print(f"  {NETWORK}: {denied}", flush=True)
    expect(denied.startswith("AccessDeniedException: "), denied)

    iam.delete_access_key(UserName=USER, AccessKeyId=key["AccessKeyId"])
    iam.delete_user_policy(UserName=USER, PolicyName=POLICY)
    iam.delete_user(UserName=USER)


def show_metrics(story: Story) -> None:
    """What CloudWatch has of each container, once all invocations are there."""
    heading("CloudWatch's metrics of each container")
    answered = {NETWORK: PICTURES, TREES: PICTURES + 2}  # the PNG file was refused, the user's row was not
    cloudwatch = boto3.client("cloudwatch")
    deadline_s = time.monotonic() + METRICS_TIMEOUT_S
    while True:
        table = read(cloudwatch, "AWS/SageMaker", story.name, minutes=60)
        of_containers = {dict(each).get("ContainerName"): values for each, values in table.items()}
        found = {name: of_containers.get(name, {}).get(("Invocations", "Sum"), 0) for name in answered}
        if found == answered or time.monotonic() > deadline_s:
            break
        time.sleep(METRICS_PERIOD_S / 4)
    for dimensions in sorted(table):
        if "ContainerName" in dict(dimensions):
            print_all(dimensions, table[dimensions])
    expect(found == answered, f"invocations by container: {found} instead of {answered}")


def main() -> int:
    """Returns 0 once all was shown."""
    given = parser("two_containers", __doc__ or "").parse_args()
    settings = {"root_key": ROOT_KEY, "metric_period_s": METRICS_PERIOD_S}
    return tell("two-containers", given.port, show, **settings)


if __name__ == "__main__":
    run(main)
