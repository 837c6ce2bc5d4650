"""InvokeEndpoint with real boto3, against containers that are stand-ins: caching, errors, hostile requests."""

from __future__ import annotations

import io
import json
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from botocore.exceptions import ClientError

from tests.endpoint.local import BUCKET, PREFIX, Local, behaving, journal, message, pack, refused, targets
from tests.harness.waiting import wait_until

GROUP = "/aws/sagemaker/Endpoints/endpoint"


# ---- the way of a request ----


def test_a_model_is_downloaded_unpacked_loaded_and_invoked(local: Local) -> None:
    local.deploy()
    local.upload("models/a/b.tar.gz", pack({"text": "hello"}))
    raw = local.invoke_raw("a/b.tar.gz", CustomAttributes="trace=1", Accept="application/json")
    assert raw["ContentType"] == "application/json"
    assert raw["InvokedProductionVariant"] == "AllTraffic"
    assert raw["CustomAttributes"] == "from=stand-in"
    answer = json.loads(raw["Body"].read())
    assert answer["text"] == "hello"
    instance = local.instances()[0]
    load = journal(instance, "load")[0]
    assert load["target"] == "a/b.tar.gz"
    assert load["url"] == f"{instance.container.base_dir}/models/{load['name']}/model"
    assert answer["path"] == f"/models/{load['name']}/invoke"
    assert "tar" not in load["name"]


def test_only_the_headers_of_the_contract_reach_the_container(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    raw = local.invoke("m.tar.gz", CustomAttributes="trace=1", Accept="text/csv", InferenceId="id-1")
    seen = raw["headers"]
    assert seen["x-amzn-sagemaker-target-model"] == "m.tar.gz"
    assert seen["x-amzn-sagemaker-custom-attributes"] == "trace=1"
    assert (seen["content-type"], seen["accept"]) == ("application/json", "text/csv")
    assert not {"authorization", "x-amz-date", "x-amzn-sagemaker-inference-id", "amz-sdk-request"} & set(seen)


def test_the_container_gets_the_environment_of_its_model_and_the_platforms(local: Local) -> None:
    local.deploy(Environment={"MY_SETTING": "mine", "SAGEMAKER_MULTI_MODEL": "no"})
    local.upload("models/m.tar.gz", behaving())
    environment = local.invoke("m.tar.gz")["environment"]
    assert environment["MY_SETTING"] == "mine"
    assert environment["SAGEMAKER_MULTI_MODEL"] == "true"
    assert not [name for name in environment if name.startswith("AWS_")]


def test_bodies_pass_unchanged_whatever_they_hold(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    for body in (b"", bytes(range(256)) * 100, b"\xff" * 6_291_456):
        raw = local.invoke_raw("m.tar.gz", body, ContentType="application/x-echo")
        assert raw["Body"].read() == body
        assert raw["ContentType"] == "application/x-echo"


def test_one_download_and_one_load_however_many_callers_wait(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(load_s=0.5))
    with ThreadPoolExecutor(32) as callers:
        pids = {each["pid"] for each in callers.map(lambda _: local.invoke("m.tar.gz"), range(32))}
    assert len(pids) == 1
    lines = journal(local.instances()[0])
    assert [line["call"] for line in lines] == ["load"] + ["invoke"] * 32


def test_the_https_form_of_the_address_works_too(local: Local) -> None:
    local.deploy(url=f"https://s3-eu-west-1.amazonaws.com/{BUCKET}/models/")
    local.upload("models/m.tar.gz", pack({"text": "by https"}))
    assert local.invoke("m.tar.gz")["text"] == "by https"


def test_a_single_model_endpoint_serves_its_archive(local: Local) -> None:
    local.upload("models/only.tar.gz", pack({"text": "the only one"}))
    local.deploy(url=PREFIX + "only.tar.gz", multi=False)
    answer = local.invoke()
    assert (answer["path"], answer["text"]) == ("/invocations", "the only one")
    assert answer["environment"]["SAGEMAKER_MULTI_MODEL"] == "false"
    response = refused(local, "ValidationError", 400, "m.tar.gz")
    assert message(response) == (
        "Endpoint endpoint is not a multi-model endpoint and does not support target model header."
    )


def test_an_object_overwritten_in_place_goes_on_answering_as_before_until_it_is_dropped(local: Local) -> None:
    local.deploy(Environment={"STAND_IN_CAPACITY": "1"})
    local.upload("models/m.tar.gz", pack({"text": "old"}))
    assert local.invoke("m.tar.gz")["text"] == "old"
    local.upload("models/m.tar.gz", pack({"text": "new"}))
    assert local.invoke("m.tar.gz")["text"] == "old"
    local.upload("models/other.tar.gz", behaving())
    local.invoke("other.tar.gz")  # unloads the first, which stays on the disk
    assert local.invoke("m.tar.gz")["text"] == "old"
    local.upload("models/m-2.tar.gz", pack({"text": "new"}))
    assert local.invoke("m-2.tar.gz")["text"] == "new"


# ---- memory and disk ----


def test_on_507_the_least_recently_used_model_goes_and_comes_back_without_download(local: Local) -> None:
    local.deploy(Environment={"STAND_IN_CAPACITY": "2"})
    for name in "abc":
        local.upload(f"models/{name}.tar.gz", pack({"text": name}))
    for name in "aba":
        local.invoke(f"{name}.tar.gz")
    local.invoke("c.tar.gz")  # b is the older one
    instance = local.instances()[0]
    assert targets(journal(instance, "unload")) == ["b.tar.gz"]
    assert instance.cache.loaded() == ["a.tar.gz", "c.tar.gz"]
    assert instance.cache.on_disk() == ["a.tar.gz", "b.tar.gz", "c.tar.gz"]
    local.s3.delete_object(Bucket=BUCKET, Key="models/b.tar.gz")
    assert local.invoke("b.tar.gz")["text"] == "b"  # it was on the disk
    assert targets(journal(instance, "unload")) == ["b.tar.gz", "a.tar.gz"]


def test_a_model_with_a_request_in_flight_is_never_unloaded(local: Local) -> None:
    local.deploy(Environment={"STAND_IN_CAPACITY": "1"})
    local.upload("models/slow.tar.gz", behaving(invoke_s=1.0))
    local.upload("models/other.tar.gz", behaving())
    instance_journal = lambda call: journal(local.instances()[0], call)  # noqa: E731
    with ThreadPoolExecutor(1) as caller:
        slow = caller.submit(local.invoke, "slow.tar.gz")
        wait_until(lambda: instance_journal("invoke"), "the slow model was not invoked")
        local.invoke("other.tar.gz")
        assert slow.done()
    unload, other = instance_journal("unload")[0], instance_journal("invoke")[1]
    assert unload["target"] == "slow.tar.gz"
    assert unload["time"] - instance_journal("invoke")[0]["time"] >= 1.0
    assert other["time"] > unload["time"]


def test_when_nothing_can_be_unloaded_507_reaches_the_client(local: Local) -> None:
    local.deploy(Environment={"STAND_IN_CAPACITY": "0"})
    local.upload("models/m.tar.gz", behaving())
    response = refused(local, "ModelError", 424, "m.tar.gz")
    assert response["OriginalStatusCode"] == 507


def test_model_cache_setting_disabled_drops_a_model_after_each_invocation(local: Local) -> None:
    local.deploy(MultiModelConfig={"ModelCacheSetting": "Disabled"})
    local.upload("models/m.tar.gz", behaving())
    instance = local.instances()[0]
    for _ in range(2):
        local.invoke("m.tar.gz")
        wait_until(lambda: not instance.cache.on_disk() and not instance.cache.loaded(), "the model is still there")
    assert [line["call"] for line in journal(instance)] == ["load", "invoke", "unload"] * 2


def test_a_model_that_the_container_lost_is_loaded_again(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(forgets=True))
    local.invoke("m.tar.gz")
    calls = [line["call"] for line in journal(local.instances()[0])]
    assert calls == ["load", "invoke", "load", "invoke"]


def test_a_models_own_404_is_passed_on(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(invoke_status=404))
    assert refused(local, "ModelError", 424, "m.tar.gz")["OriginalStatusCode"] == 404
    assert len(journal(local.instances()[0], "load")) == 1


# ---- errors ----


@pytest.mark.parametrize(("status", "side"), [(400, "client"), (415, "client"), (500, "server"), (503, "server")])
def test_an_error_of_the_container_is_a_model_error(local: Local, status: int, side: str) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(invoke_status=status, invoke_body='{"code": "why"}'))
    response = refused(local, "ModelError", 424, "m.tar.gz")
    assert response["OriginalStatusCode"] == status
    assert response["OriginalMessage"] == '{"code": "why"}'
    assert response["LogStreamArn"] == f"arn:aws:logs:us-east-1:123456789012:log-group:{GROUP}"
    assert message(response).startswith(
        f'Received {side} error ({status}) from primary with message "{{"code": "why"}}". See https://us-east-1.'
    )
    assert message(response).endswith("in account 123456789012 for more information.")


def test_an_error_body_that_is_no_text_is_left_out(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(invoke_status=500, invoke_body="\xff\xfe"))
    response = refused(local, "ModelError", 424, "m.tar.gz")
    assert "and could not load the entire response body" in message(response)


def test_a_load_that_fails_is_a_model_error_and_the_next_request_tries_again(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(load_status=500))
    assert refused(local, "ModelError", 424, "m.tar.gz")["OriginalStatusCode"] == 500
    local.upload("models/m.tar.gz", pack({"text": "mended"}))
    assert local.invoke("m.tar.gz")["text"] == "mended"


def test_unknown_endpoints_and_missing_targets_are_refused(local: Local) -> None:
    local.deploy()
    response = refused(local, "ValidationError", 400, "m.tar.gz", endpoint="nobody")
    assert message(response) == "Endpoint nobody of account 123456789012 not found."
    assert "is missing a target model header." in message(refused(local, "ValidationError", 400))
    response = refused(local, "ValidationError", 400, "m.tar.gz", TargetVariant="other")
    assert "Variant other not found for endpoint endpoint" in message(response)
    response = refused(local, "ValidationError", 400, "m.tar.gz", TargetContainerHostname="other")
    assert "does not support target container hostname" in message(response)


def test_a_missing_object_a_missing_bucket_and_a_forbidden_one_are_validation_errors(local: Local) -> None:
    local.deploy()
    response = refused(local, "ValidationError", 400, "missing.tar.gz")
    assert message(response).startswith(
        f"Failed to download model data(bucket: {BUCKET}, key: models/missing.tar.gz). Please ensure that there is"
    )
    local.upload("models/secret.tar.gz", behaving())
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": f"arn:aws:s3:::{BUCKET}/models/secret*"}
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    local.s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
    with pytest.raises(ClientError, match="403"):
        local.s3.get_object(Bucket=BUCKET, Key="models/secret.tar.gz")
    assert "key: models/secret.tar.gz" in message(refused(local, "ValidationError", 400, "secret.tar.gz"))
    local.s3.delete_bucket_policy(Bucket=BUCKET)
    local.invoke("secret.tar.gz")
    # the next time it is looked for, it is found
    local.upload("models/missing.tar.gz", behaving())
    local.invoke("missing.tar.gz")


def pack_links() -> bytes:
    """An archive with a symbolic link out of it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        link = tarfile.TarInfo("text")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return packed.getvalue()


def test_bad_archives_are_refused_and_leave_nothing_behind(local: Local) -> None:
    local.deploy()
    local.upload("models/rubbish.tar.gz", b"rubbish")
    local.upload("models/climbs.tar.gz", pack({"../../escaped": b"x"}))
    local.upload("models/links.tar.gz", pack_links())
    for name in ("rubbish", "climbs", "links"):
        response = refused(local, "ValidationError", 400, f"{name}.tar.gz")
        assert f'Failed to extract model data archive from URL "{PREFIX}{name}.tar.gz"' in message(response)
    base = local.instances()[0].container.base_dir
    assert list(Path(base, "models").iterdir()) == []
    assert list(Path(base, "downloads").iterdir()) == []
    assert not journal(local.instances()[0])


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
        ("/m.tar.gz", "models//m.tar.gz"),
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


@pytest.mark.parametrize(
    ("target", "constraint"),
    [
        ("x" * 1025, "Member must have length less than or equal to 1024"),
        ("ünïcode.tar.gz", "Member must satisfy regular expression pattern"),
        ("tab\tin.tar.gz", "Member must satisfy regular expression pattern"),
    ],
    ids=["too long", "unicode", "tab"],
)
def test_a_target_that_aws_does_not_allow_is_refused(local: Local, target: str, constraint: str) -> None:
    local.deploy()
    # not by boto3, which strips or refuses some of them itself
    answer = requests.post(
        f"{local.url}/endpoints/endpoint/invocations",
        data=b"{}",
        headers={"X-Amzn-SageMaker-Target-Model": target.encode()},
        timeout=10,
    )
    assert (answer.status_code, answer.headers["x-amzn-ErrorType"]) == (400, "ValidationError")
    assert constraint in answer.json()["Message"]


def test_curl_without_a_signature_works(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving())
    answer = requests.post(
        f"{local.url}/endpoints/endpoint/invocations",
        data=b"{}",
        headers={"X-Amzn-SageMaker-Target-Model": "m.tar.gz"},
        timeout=10,
    )
    assert answer.status_code == 200
    assert answer.headers["x-amzn-RequestId"]


def test_streaming_and_asynchronous_invocations_are_refused_not_faked(local: Local) -> None:
    local.deploy()
    with pytest.raises(ClientError, match="answers InvokeEndpoint"):
        local.runtime.invoke_endpoint_async(EndpointName="endpoint", InputLocation=f"s3://{BUCKET}/x")
    with pytest.raises(ClientError, match="answers InvokeEndpoint"):
        local.runtime.invoke_endpoint_with_response_stream(EndpointName="endpoint", Body=b"")


def test_sixty_four_clients_on_a_prefix_of_a_thousand_models(local: Local) -> None:
    for number in range(1000):
        local.upload(f"models/{number}.tar.gz", pack({"text": str(number)}))
    local.deploy(instances=2, Environment={"STAND_IN_CAPACITY": "300"})
    started_s = time.monotonic()
    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(lambda number: local.invoke(f"{number}.tar.gz")["text"], range(1000)))
    assert answers == [str(number) for number in range(1000)]
    assert time.monotonic() - started_s < 60
    loaded = [instance.cache.loaded_count for instance in local.instances()]
    assert sum(loaded) == 600


def test_clients_of_more_models_than_fit_wait_for_each_other_instead_of_failing(local: Local) -> None:
    local.deploy(Environment={"STAND_IN_CAPACITY": "1"})
    for number in range(8):
        local.upload(f"models/{number}.tar.gz", behaving(load_s=0.02, invoke_s=0.01))
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda number: local.invoke(f"{number % 8}.tar.gz")["path"], range(64)))
    assert len(set(answers)) == 8
