"""ModelDataUrl and TargetModel."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_endpoint.storage.location import S3Location, TargetModel


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://b/models/", "b", "models/"),
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://b/a%20b?c#d", "b", "a%20b?c#d"),
        ("https://s3-eu-west-1.amazonaws.com/b/models/", "b", "models/"),
        ("https://s3.eu-west-1.amazonaws.com/b/models/", "b", "models/"),
        ("https://s3.amazonaws.com/b/a%20b", "b", "a b"),
        ("https://s3.cn-north-1.amazonaws.com.cn/b/x", "b", "x"),
        ("https://my.bucket.s3.eu-west-1.amazonaws.com/models/", "my.bucket", "models/"),
        ("https://b.s3.amazonaws.com/models/m.tar.gz", "b", "models/m.tar.gz"),
        ("https://s3.dualstack.eu-west-1.amazonaws.com/b/models/", "b", "models/"),
        ("https://s3-fips.us-east-1.amazonaws.com/b/models/", "b", "models/"),
        ("https://s3-fips.dualstack.us-east-1.amazonaws.com/b/models/", "b", "models/"),
        ("https://my.bucket.s3.dualstack.eu-west-1.amazonaws.com/models/", "my.bucket", "models/"),
        ("https://b.s3-us-west-2.amazonaws.com/models/", "b", "models/"),
    ],
)
def test_every_form_of_an_address_is_understood(url: str, bucket: str, key: str) -> None:
    assert S3Location.parse(url) == S3Location(bucket, key)


@pytest.mark.parametrize(
    "url", ["", "models/", "s3://", "s3:///key", "ftp://b/key", "https://example.com/b/k", "https://s3.amazonaws.com/"]
)
def test_what_is_no_address_in_s3_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        S3Location.parse(url)


@pytest.mark.parametrize(("prefix", "key"), [("models/", "models/m"), ("models", "models/m"), ("", "m")])
def test_a_prefix_is_a_folder_with_or_without_its_slash(prefix: str, key: str) -> None:
    assert TargetModel.below(S3Location("b", prefix), "m").location.key == key


def test_a_target_is_text_below_the_prefix_and_never_climbs() -> None:
    assert TargetModel.below(S3Location("b", "models/"), "../secret").location.key == "models/../secret"
    assert TargetModel.below(S3Location("b", "models/"), "/m").location.key == "models/m"


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_name_on_disk_is_opaque_and_differs_for_different_targets(one: str, other: str) -> None:
    prefix = S3Location("b", "models/")
    names = {TargetModel.below(prefix, target).name for target in (one, other)}
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)
    assert len(names) == len({each.removeprefix("/") for each in (one, other)})  # joined by one slash
