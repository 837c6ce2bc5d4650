"""The ``invoke`` program waits for a model that is not ready, which boto3 does not."""

from __future__ import annotations

from tests.endpoint.local import Local, behaving
from tests.endpoint.test_programs import call


def test_invoke_waits_for_a_model_that_is_not_ready() -> None:
    with Local(response_timeout_s=0.3) as local:
        local.deploy("mme")
        local.upload("models/slow.tar.gz", behaving(load_s=2))
        invoke = ("invoke", "--endpoint", "mme", "--target-model", "slow.tar.gz")
        too_short = call(local, *invoke, "--wait-s", "0.5", "-", code=1, stdin=b"{}")
        assert "was not ready within 0 s" in too_short.stderr or "was not ready within 1 s" in too_short.stderr
        done = call(local, *invoke, "-", stdin=b"{}")
        assert "not ready yet" in done.stderr
        assert '"path"' in done.stdout
