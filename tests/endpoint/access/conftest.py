"""A local endpoint that checks who may do what, with one multi-model endpoint on it; users and roles for its tests."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.endpoint.local import PREFIX, REGION, Local, behaving

ROLE_NAME = "tests"
_numbers = itertools.count(1)


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trusting(**principal: Any) -> str:
    """A trust policy."""
    return document({"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"})


@dataclass
class Person:
    """Someone with keys, who makes clients."""

    local: Guarded
    name: str
    keys: dict[str, str]

    def client(self, service: str, **config: Any) -> Any:
        settings = Config(retries={"total_max_attempts": 1}, read_timeout=70, **config)
        return boto3.client(service, endpoint_url=self.local.url, region_name=REGION, config=settings, **self.keys)

    def invoke(self, target: str, **more: Any) -> Any:
        answer = self.client("sagemaker-runtime").invoke_endpoint(
            EndpointName="Endpoint", TargetModel=target, ContentType="application/json", Body=b"{}", **more
        )
        return json.loads(answer["Body"].read())


class Guarded(Local):
    """``Local`` with ``--auth``."""

    def __init__(self) -> None:
        super().__init__(auth=True, health_interval_s=0.2)

    def __enter__(self) -> Guarded:
        super().__enter__()
        self.iam = self.client("iam")
        self.sts = self.client("sts")
        trust = trusting(Service="sagemaker.amazonaws.com")
        self.iam.create_role(RoleName=ROLE_NAME, AssumeRolePolicyDocument=trust)
        read = document({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::test-models/*"})
        self.iam.put_role_policy(RoleName=ROLE_NAME, PolicyName="read", PolicyDocument=read)
        return self

    def user(self, *statements: dict[str, Any]) -> Person:
        """A new one, with these statements as inline policy."""
        name = f"user{next(_numbers)}"
        self.iam.create_user(UserName=name)
        if statements:
            self.iam.put_user_policy(UserName=name, PolicyName="inline", PolicyDocument=document(*statements))
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        return Person(self, name, keys)

    def role(self, *statements: dict[str, Any], **principal: Any) -> str:
        """Name of a new one with these statements, which ``principal`` may assume (the account, by default)."""
        name = f"role{next(_numbers)}"
        trust = trusting(**(principal or {"AWS": "123456789012"}))
        self.iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        if statements:
            self.iam.put_role_policy(RoleName=name, PolicyName="inline", PolicyDocument=document(*statements))
        return name


def assume(person: Person, role: str, **more: Any) -> Person:
    """``person`` in that role."""
    answer = person.client("sts").assume_role(RoleArn=arn("role", role), RoleSessionName="night", **more)
    found = answer["Credentials"]
    keys = {
        "aws_access_key_id": found["AccessKeyId"],
        "aws_secret_access_key": found["SecretAccessKey"],
        "aws_session_token": found["SessionToken"],
    }
    return Person(person.local, role, keys)


def arn(kind: str, name: str) -> str:
    return f"arn:aws:iam::123456789012:{kind}/{name}"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """An endpoint "Endpoint" with the models company_a/m, company_b/m and others/m serves on it."""
    with Guarded() as local:
        for folder in ("company_a", "company_b", "others"):
            local.upload(f"models/{folder}/m", behaving(invoke_body=json.dumps(folder)))
        local.deploy("Endpoint", url=PREFIX)
        yield local
