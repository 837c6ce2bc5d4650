"""What moto must do otherwise where access is checked here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket
from moto.sts.models import STSBackend

from local_endpoint.access.identities import ROOT_ARN
from local_endpoint.configuration import ACCOUNT

# What moto calls whom it does not know.
NOBODY = ":user/moto"


@contextmanager
def changed_moto() -> Iterator[None]:
    """The policies of buckets are ours alone: moto would deny too much, as it knows no conditions and principals.

    And the root user has its own name: whoever else comes so far has a key of IAM or STS.
    """
    original = STSBackend.get_caller_identity

    def get_caller_identity(backend: Any, access_key_id: str, region: str) -> tuple[str, str, str]:
        found: tuple[str, str, str] = original(backend, access_key_id, region)
        return (ACCOUNT, ROOT_ARN, ACCOUNT) if found[1].endswith(NOBODY) else found

    with (
        patch.object(FakeBucket, "get_permission", lambda *_: PermissionResult.NEUTRAL),
        patch.object(STSBackend, "get_caller_identity", get_caller_identity),
    ):
        yield
