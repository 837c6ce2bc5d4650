"""InvokeEndpoint with real boto3, against containers that are fake containers: caching, errors, hostile requests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from botocore.exceptions import ClientError

from local_endpoint.storage.location import S3Location
from local_endpoint.storage.objects import ObjectReader
from tests.endpoint.local import BUCKET, PREFIX, Local, base_dir, behaving, journal, message, pack, refused

GROUP = "/aws/sagemaker/Endpoints/endpoint"
MODELS, CAPACITY = 100, 20  # six times what an instance holds, less would do, more takes seconds


# ---- the way of a request ----


def test_a_model_is_downloaded_unpacked_loaded_and_invoked(local: Local) -> None:
    local.deploy()
    local.upload("models/a/b.tar.gz", pack({"text": "hello"}))
    raw = local.invoke_raw("a/b.tar.gz", CustomAttributes="trace=1", Accept="application/json")
    assert raw["ContentType"] == "application/json"
    assert raw["InvokedProductionVariant"] == "AllTraffic"
    assert raw["CustomAttributes"] == "from=fake-container"
    answer = json.loads(raw["Body"].read())
    assert answer["text"] == "hello"
    instance = local.instances()[0]
    load = journal(instance, "load")[0]
    assert load["target"] == "a/b.tar.gz"
    assert load["url"] == f"{base_dir(instance)}/models/{load['name']}/model"
    assert answer["path"] == f"/models/{load['name']}/invoke"
    assert "tar" not in load["name"]


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


def test_one_download_and_one_load_however_many_callers_wait(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    read, downloads = ObjectReader.read, []

    def count(reader: ObjectReader, location: S3Location) -> Iterator[bytes]:
        downloads.append(location.key)
        return read(reader, location)

    monkeypatch.setattr(ObjectReader, "read", count)
    local.deploy()
    local.upload("models/m.tar.gz", behaving(load_s=0.5))
    with ThreadPoolExecutor(32) as callers:
        pids = {each["pid"] for each in callers.map(lambda _: local.invoke("m.tar.gz"), range(32))}
    assert len(pids) == 1
    lines = journal(local.instances()[0])
    assert [line["call"] for line in lines] == ["load"] + ["invoke"] * 32
    assert downloads == ["models/m.tar.gz"]


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
    local.deploy(Environment={"FAKE_CAPACITY": "1"})
    local.upload("models/m.tar.gz", pack({"text": "old"}))
    assert local.invoke("m.tar.gz")["text"] == "old"
    local.upload("models/m.tar.gz", pack({"text": "new"}))
    assert local.invoke("m.tar.gz")["text"] == "old"
    local.upload("models/other.tar.gz", behaving())
    local.invoke("other.tar.gz")  # unloads the first, which stays on the disk
    assert local.invoke("m.tar.gz")["text"] == "old"
    local.upload("models/m-2.tar.gz", pack({"text": "new"}))
    assert local.invoke("m-2.tar.gz")["text"] == "new"


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


def test_a_long_error_body_is_left_out(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(invoke_status=500, invoke_body="x" * 3000))
    response = refused(local, "ModelError", 424, "m.tar.gz")
    assert message(response).startswith(
        "Received server error (500) from primary and could not load the entire response body. See https://"
    )
    assert (response["OriginalStatusCode"], response["OriginalMessage"]) == (500, "")


def test_an_answer_larger_than_the_limit_is_a_model_error(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(invoke_body="x" * 6_291_457))
    response = refused(local, "ModelError", 424, "m.tar.gz")
    assert "The response is larger than 6291456 bytes." in message(response)
    assert response["OriginalStatusCode"] == 0
    local.upload("models/largest.tar.gz", behaving(invoke_body="x" * 6_291_456))
    assert len(local.invoke_raw("largest.tar.gz")["Body"].read()) == 6_291_456


def test_a_load_that_fails_is_a_model_error_and_the_next_request_tries_again(local: Local) -> None:
    local.deploy()
    local.upload("models/m.tar.gz", behaving(load_status=500))
    assert refused(local, "ModelError", 424, "m.tar.gz")["OriginalStatusCode"] == 500
    local.upload("models/m.tar.gz", pack({"text": "mended"}))
    assert local.invoke("m.tar.gz")["text"] == "mended"


@pytest.mark.parametrize(("status", "side"), [(400, "client"), (422, "client"), (500, "server"), (507, "server")])
def test_the_reason_of_a_failed_load_reaches_the_caller(local: Local, status: int, side: str) -> None:
    reason = 'model-0000.params has 12 bytes; "weight" (5×3, float32) needs 60. Save the parameters again.'
    local.deploy()
    local.upload("models/m.tar.gz", behaving(load_status=status, load_message=reason))
    response = refused(local, "ModelError", 424, "m.tar.gz")
    assert response["OriginalStatusCode"] == status
    answered = json.loads(response["OriginalMessage"])
    assert (answered["code"], answered["message"]) == (status, reason)
    quoted = f'Received {side} error ({status}) from primary with message "{response["OriginalMessage"]}". See https://'
    assert message(response).startswith(quoted)


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
    base = base_dir(local.instances()[0])
    assert list((base / "models").iterdir()) == []
    assert list((base / "downloads").iterdir()) == []
    assert not journal(local.instances()[0])


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


def test_sixty_four_clients_on_a_prefix_of_many_more_models_than_fit(local: Local) -> None:
    for number in range(MODELS):
        local.upload(f"models/{number}.tar.gz", pack({"text": str(number)}))
    local.deploy(instances=2, Environment={"FAKE_CAPACITY": str(CAPACITY)})
    with ThreadPoolExecutor(64) as clients:
        answers = list(clients.map(lambda number: local.invoke(f"{number}.tar.gz")["text"], range(MODELS)))
    assert answers == [str(number) for number in range(MODELS)]
    loaded = [len(local.loaded(instance)) for instance in local.instances()]
    assert loaded == [CAPACITY, CAPACITY]
