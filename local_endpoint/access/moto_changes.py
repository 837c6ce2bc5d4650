"""What moto must do otherwise where access is checked here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from moto.core.responses import BaseResponse
from moto.iam.access_control import PermissionResult
from moto.s3.models import FakeBucket
from moto.s3.responses import S3Response
from moto.sts.models import STSBackend
from werkzeug.exceptions import Forbidden
from werkzeug.wrappers import Response

from local_endpoint.access.identities import ROOT_ARN
from local_endpoint.configuration import ACCOUNT

# In a request's environ: what was authorized, and moto is about to do.
OPERATION = "local_endpoint.operation"
BUCKET = "local_endpoint.bucket"
KEY = "local_endpoint.key"
AMBIGUOUS = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>"
    "<Message>The request can be understood in two ways.</Message></Error></ErrorResponse>"
)
# What moto calls whom it does not know.
NOBODY = ":user/moto"


@contextmanager
def changed_moto() -> Iterator[None]:
    """The policies of buckets are ours alone: moto would deny too much, as it knows no conditions and principals.

    And the root user has its own name: whoever else comes so far has a key of IAM or STS.

    Where moto finds another operation, bucket or key in a request than was authorized, it answers 403.
    """
    original = STSBackend.get_caller_identity

    def get_caller_identity(backend: Any, access_key_id: str, region: str) -> tuple[str, str, str]:
        found: tuple[str, str, str] = original(backend, access_key_id, region)
        return (ACCOUNT, ROOT_ARN, ACCOUNT) if found[1].endswith(NOBODY) else found

    operation_of = BaseResponse._get_action
    bucket_of, key_of = S3Response.parse_bucket_name_from_url, S3Response.parse_key_name

    def checked(response: Any, name: str, found: str | None) -> str | None:
        expected = response.normalized_request.environ.get(name)
        if expected is not None and (found or "") != expected:
            raise Forbidden(response=Response(AMBIGUOUS, 403, content_type="text/xml"))
        return found

    with (
        patch.object(BaseResponse, "_get_action", lambda self: checked(self, OPERATION, operation_of(self))),
        patch.object(
            S3Response, "parse_bucket_name_from_url", lambda self, *of: checked(self, BUCKET, bucket_of(self, *of))
        ),
        patch.object(S3Response, "parse_key_name", lambda self: checked(self, KEY, key_of(self))),
        patch.object(FakeBucket, "get_permission", lambda *_: PermissionResult.NEUTRAL),
        patch.object(STSBackend, "get_caller_identity", get_caller_identity),
    ):
        yield
