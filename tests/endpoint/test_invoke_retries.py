"""The ``invoke`` program waits for a model that is not ready, which boto3 does not; and what it makes of errors."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber

from scripts.programs.console import Failure
from scripts.programs.invoke import invoke
from tests.endpoint.local import KEYS, Local, behaving
from tests.endpoint.test_programs import call


def test_invoke_waits_for_a_model_that_is_not_ready() -> None:
    with Local(response_timeout_s=0.3) as local:
        local.deploy("mme")
        local.upload("models/slow.tar.gz", behaving(load_s=3))
        invoke = ("invoke", "--endpoint", "mme", "--target-model", "slow.tar.gz")
        too_short = call(local, *invoke, "--wait-s", "0.5", "-", code=1, stdin=b"{}")
        assert "model slow.tar.gz was not ready within 0.5 s." in too_short.stderr
        done = call(local, *invoke, "-", stdin=b"{}")
        assert "not ready yet" in done.stderr
        assert '"path"' in done.stdout


def test_a_model_error_of_few_fields_is_told_as_far_as_it_goes() -> None:
    """AWS leaves some out where the container said nothing that could be passed on."""
    runtime = boto3.client("sagemaker-runtime", **KEYS)
    with Stubber(runtime) as stub:
        stub.add_client_error("invoke_endpoint", "ModelError", "could not load the entire response body", 424)
        with pytest.raises(Failure, match="the model answered with an error: could not load the entire response body"):
            invoke(runtime, {"EndpointName": "e", "Body": b""}, 0)
