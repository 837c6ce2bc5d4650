"""How much memory an instance type has."""

from __future__ import annotations

import pytest

from local_endpoint.hosting.instance_types import GIB, memory_bytes


@pytest.mark.parametrize(
    ("instance_type", "gib"),
    [
        ("ml.t2.medium", 4),
        ("ml.t3.xlarge", 16),
        ("ml.m5.large", 8),
        ("ml.m5.xlarge", 16),
        ("ml.m5.24xlarge", 384),
        ("ml.c5.large", 4),
        ("ml.c6i.8xlarge", 64),
        ("ml.r5.2xlarge", 64),
        ("ml.g4dn.xlarge", 16),
        ("ml.g5.12xlarge", 192),
        ("ml.p3.2xlarge", 61),
        ("ml.inf1.xlarge", 8),
        ("ml.unheard-of.huge", 16),
    ],
)
def test_it_is_what_aws_has(instance_type: str, gib: int) -> None:
    assert memory_bytes(instance_type) == gib * GIB
