"""What a request may say: its headers, hostile targets, its size."""

from __future__ import annotations

from typing import Any

import pytest

from tests.endpoint.local import BUCKET, Local, behaving, message, pack, refused

PREFIX_OF_HEADERS = "X-Amzn-SageMaker-"
TARGET = PREFIX_OF_HEADERS + "Target-Model"


def test_the_headers_of_invoke_endpoint_reach_the_container_and_no_others(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    more: dict[str, Any] = {"TargetVariant": "AllTraffic", "EnableExplanations": "`true`", "PrefixAwareId": "prefix-1"}
    raw = local.invoke("m.tar.gz", CustomAttributes="trace=1", Accept="text/csv", InferenceId="id-1", **more)
    seen = raw["headers"]
    ours = {name: value for name, value in seen.items() if name.startswith(PREFIX_OF_HEADERS.lower())}
    assert {name.removeprefix(PREFIX_OF_HEADERS.lower()): value for name, value in ours.items()} == {
        "target-model": "m.tar.gz",
        "custom-attributes": "trace=1",
        "inference-id": "id-1",
        "target-variant": "AllTraffic",
        "enable-explanations": "`true`",
        "prefix-aware-id": "prefix-1",
    }
    assert (seen["content-type"], seen["accept"]) == ("application/json", "text/csv")
    of_http = {"host", "user-agent", "accept-encoding", "content-length", "content-type", "accept"}
    assert set(seen) - set(ours) == of_http


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Target-Container-Hostname", "is not a multi-container endpoint with direct invocation and does not support"),
        ("Inference-Component", "is not an endpoint of inference components and does not support inference component"),
        ("Session-Id", "is not an endpoint with stateful sessions and does not support session id header."),
    ],
)
def test_headers_of_other_kinds_of_endpoints_are_refused_not_ignored(local: Local, header: str, text: str) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    answer = local.post({TARGET: "m.tar.gz", PREFIX_OF_HEADERS + header: "one"})
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (400, "ValidationError")
    assert text in answer.json()["Message"]


@pytest.mark.parametrize(
    ("header", "value", "member", "constraint"),
    [
        (TARGET, "x" * 1025, "targetModel", "Member must have length less than or equal to 1024"),
        (TARGET, "ünïcode.tar.gz", "targetModel", r"regular expression pattern: \A\S[\p{Print}]*\z"),
        (TARGET, "日.tar.gz", "targetModel", r"regular expression pattern: \A\S[\p{Print}]*\z"),
        (TARGET, "models/日本.tar.gz", "targetModel", r"regular expression pattern: \A\S[\p{Print}]*\z"),
        (TARGET, "tab\tin.tar.gz", "targetModel", r"regular expression pattern: \A\S[\p{Print}]*\z"),
        ("Accept", "日", "accept", r"regular expression pattern: \p{ASCII}*"),
        ("Content-Type", "ü", "contentType", r"regular expression pattern: \p{ASCII}*"),
        ("X-Amzn-SageMaker-Custom-Attributes", "日", "customAttributes", r"regular expression pattern: \p{ASCII}*"),
        ("X-Amzn-SageMaker-Inference-Id", "x" * 65, "inferenceId", "length less than or equal to 64"),
    ],
    ids=lambda value: value[:12],
)
def test_a_header_that_aws_does_not_allow_is_refused_in_its_words(
    local: Local, header: str, value: str, member: str, constraint: str
) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    if value.isprintable() and header == TARGET and len(value) < 1024:
        local.upload(f"models/{value}", behaving())  # S3 takes the key, but no target leads to it
    answer = local.post({TARGET: "m.tar.gz", header: value})
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (400, "ValidationError")
    message = answer.json()["Message"]
    assert message.startswith(
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint"
    )
    assert constraint in message


def test_several_errors_are_counted_the_bodys_size_among_them(local: Local) -> None:
    local.deploy()
    answer = local.post({TARGET: "x" * 1025, "Accept": "日"}, b"x" * 6_291_457)
    message = answer.json()["Message"]
    assert message.startswith("3 validation errors detected: ")
    assert message.count("failed to satisfy constraint") == 3


def test_an_error_has_the_fields_of_the_wire(local: Local) -> None:
    """``ErrorCode`` is not in boto3's model of the service, but AWS sends it."""
    local.deploy()
    for status, code in ((400, "CLIENT_ERROR_FROM_MODEL"), (503, "INTERNAL_FAILURE_FROM_MODEL")):
        local.upload(f"models/{status}.tar.gz", behaving(invoke_status=status, invoke_body="why"))
        answer = local.post({TARGET: f"{status}.tar.gz"})
        assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (424, "ModelError")
        assert answer.json()["ErrorCode"] == code
        assert set(answer.json()) == {"Message", "ErrorCode", "OriginalStatusCode", "OriginalMessage", "LogStreamArn"}


def test_a_body_over_6_mib_is_refused(local: Local) -> None:
    local.deploy()
    response = refused(local, "ValidationError", 400, "m.tar.gz", b"x" * 6_291_457)
    assert message(response) == (
        "1 validation error detected: Value at 'body' failed to satisfy constraint: "
        "Member must have length less than or equal to 6291456"
    )


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("../models/m.tar.gz", "models/../models/m.tar.gz"),
        ("../../../../../../etc/passwd", "models/../../../../../../etc/passwd"),
        ("/m.tar.gz", "models/m.tar.gz"),
        ("//m.tar.gz", "models//m.tar.gz"),
        ("a b  c.tar.gz", "models/a b  c.tar.gz"),
        ("%2e%2e%2fm.tar.gz", "models/%2e%2e%2fm.tar.gz"),
        ("a?b#c&d=e.tar.gz", "models/a?b#c&d=e.tar.gz"),
        ("x" * 1017, "models/" + "x" * 1017),
    ],
    ids=lambda value: value[:20],
)
def test_a_hostile_target_is_just_a_key_in_s3(local: Local, target: str, key: str) -> None:
    local.deploy()
    response = refused(local, "ValidationError", 400, target)
    assert f"key: {key})" in message(response)
    local.upload(key, pack({"text": "found"}))
    assert local.invoke(target)["text"] == "found"


def test_a_target_of_1024_characters_is_the_longest_key_of_s3(local: Local) -> None:
    target = "../" * 300 + "x" * 124
    assert len(target) == 1024
    local.deploy(url=f"s3://{BUCKET}/")
    assert f"key: {target})" in message(refused(local, "ValidationError", 400, target))
    local.upload(target, pack({"text": "found"}))
    assert local.invoke(target)["text"] == "found"


def test_a_prefix_may_be_unicode(local: Local) -> None:
    local.deploy(url=f"s3://{BUCKET}/modèles/日本")
    local.upload("modèles/日本/m.tar.gz", pack({"text": "found"}))
    assert local.invoke("m.tar.gz")["text"] == "found"
