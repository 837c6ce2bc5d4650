"""What the role of a training job may do with S3, and who may hand it over."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.endpoint.access.conftest import Guarded, arn
from tests.endpoint.local import BUCKET
from tests.endpoint.test_training import csv, finish, request

LIST = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{BUCKET}"}
GET = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{BUCKET}/data/*"}
PUT = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/output/*"}


def role(guarded: Guarded, *statements: dict[str, Any]) -> str:
    guarded.upload("data/train/a.csv", csv(slice(0, 50)).encode())
    return arn("role", guarded.role(*statements, Service="sagemaker.amazonaws.com"))


def test_a_job_lists_reads_and_writes_by_its_role(guarded: Guarded) -> None:
    below = {**LIST, "Condition": {"StringLike": {"s3:prefix": "data/*"}}}
    guarded.sagemaker.create_training_job(**request("may-all", RoleArn=role(guarded, below, GET, PUT)))
    finish(guarded, "may-all")


def test_a_job_whose_role_may_not_list_is_refused(guarded: Guarded) -> None:
    elsewhere = {**LIST, "Condition": {"StringLike": {"s3:prefix": "models/*"}}}
    for statements in ([GET, PUT], [elsewhere, GET, PUT]):
        with pytest.raises(ClientError, match='has "s3:ListBucket" permissions'):
            guarded.sagemaker.create_training_job(**request("may-not-list", RoleArn=role(guarded, *statements)))


def test_a_job_whose_role_may_not_write_fails(guarded: Guarded) -> None:
    guarded.sagemaker.create_training_job(**request("may-not-write", RoleArn=role(guarded, LIST, GET)))
    assert "Artifact upload failed" in finish(guarded, "may-not-write", "Failed")["FailureReason"]
    assert "may-not-write" not in str(guarded.s3.list_objects_v2(Bucket=BUCKET).get("Contents"))


def test_a_role_that_does_not_trust_sagemaker_trains_nothing(guarded: Guarded) -> None:
    role(guarded)
    with pytest.raises(ClientError, match="Could not assume role"):
        guarded.sagemaker.create_training_job(**request("untrusted", RoleArn=arn("role", guarded.role(LIST, GET))))


def test_whoever_starts_a_job_needs_to_pass_its_role(guarded: Guarded) -> None:
    mine, other = role(guarded, LIST, GET, PUT), role(guarded, LIST, GET, PUT)
    user = guarded.user(
        {"Effect": "Allow", "Action": "sagemaker:*", "Resource": "*"},
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": mine},
    )
    sagemaker = user.client("sagemaker", parameter_validation=False)
    with pytest.raises(ClientError, match="iam:PassRole"):
        sagemaker.create_training_job(**request("passed", RoleArn=other))
    sagemaker.create_training_job(**request("passed", RoleArn=mine))
    finish(guarded, "passed")
