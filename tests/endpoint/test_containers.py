"""Endpoints of several containers: direct invocation, chains, and what CreateModel says of their members."""

from __future__ import annotations

import json
import os
import re
import signal
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError

from local_endpoint.events import Invoked, ModelLoaded
from tests.endpoint.containers import behaving_container, container, create_model, deploy, journal_of, pids
from tests.endpoint.local import ROLE, Local, behaving, message, pack, refused
from tests.harness.waiting import wait_until

# ---- direct ----


def test_a_direct_request_goes_to_the_container_that_it_names(local: Local) -> None:
    local.upload("models/m.tar.gz", pack({"text": "of the first"}))
    local.upload("only.tar.gz", pack({"text": "of the second"}))
    second = container("second", ModelDataUrl="s3://test-models/only.tar.gz", Environment={"WHO": "me"})
    described = deploy(local, [container("first", multi=True), second], "Direct")
    assert len(described["ProductionVariants"][0]["DeployedImages"]) == 2
    assert local.sagemaker.describe_model(ModelName="endpoint")["InferenceExecutionConfig"] == {"Mode": "Direct"}

    one = local.invoke("m.tar.gz", TargetContainerHostname="first", ContentType="text/csv")
    two = local.invoke(TargetContainerHostname="second", ContentType="application/x-npy")
    assert (one["text"], two["text"]) == ("of the first", "of the second")
    assert (one["headers"]["content-type"], two["headers"]["content-type"]) == ("text/csv", "application/x-npy")
    assert one["headers"]["x-amzn-sagemaker-target-container-hostname"] == "first"
    assert one["headers"]["x-amzn-sagemaker-target-model"] == "m.tar.gz"
    assert "WHO" not in one["environment"] and two["environment"]["WHO"] == "me"
    assert one["environment"]["SAGEMAKER_MULTI_MODEL"] == "true"
    assert two["environment"]["SAGEMAKER_MULTI_MODEL"] == "false"
    assert one["pid"] != two["pid"]


def test_each_member_is_told_a_port_and_a_range_of_further_ones(local: Local) -> None:
    deploy(local, [container("a"), container("b"), container("c")], "Direct")
    taken: set[int] = set()
    for name in "abc":
        environment = local.invoke(TargetContainerHostname=name)["environment"]
        first, last = map(int, environment["SAGEMAKER_SAFE_PORT_RANGE"].split("-"))
        ports = {int(environment["SAGEMAKER_BIND_TO_PORT"]), *range(first, last + 1)}
        assert len(ports) > 2 and not ports & taken
        taken |= ports


def test_a_direct_request_that_names_no_container_or_an_unknown_one_is_refused(local: Local) -> None:
    deploy(local, [container("first", multi=True), container("second")], "Direct")
    assert "is missing a target container hostname header" in message(
        refused(local, "ValidationError", 400, "m.tar.gz")
    )
    response = refused(local, "ValidationError", 400, TargetContainerHostname="third")
    assert message(response) == "Container third not found for endpoint endpoint of account 123456789012."
    response = refused(local, "ValidationError", 400, TargetContainerHostname="first")
    assert "is missing a target model header" in message(response)
    response = refused(local, "ValidationError", 400, "m.tar.gz", TargetContainerHostname="second")
    assert "Container second of endpoint endpoint is not a multi-model container" in message(response)


def test_events_say_which_container_served(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving())
    deploy(local, [container("first", multi=True), container("second")], "Direct")
    local.events.clear()
    local.invoke("m.tar.gz", TargetContainerHostname="first")
    local.invoke(TargetContainerHostname="second")
    wait_until(lambda: sum(isinstance(each, Invoked) for each in local.events) == 2, "an event is missing")
    assert [each.where.container for each in local.events if isinstance(each, ModelLoaded)] == ["first"]
    invoked = [each for each in local.events if isinstance(each, Invoked)]
    assert [each.where.container for each in invoked] == ["first", "second"]
    assert [[(call.container, call.status) for call in each.calls] for each in invoked] == [
        [("first", 200)],
        [("second", 200)],
    ]


# ---- serial ----


def test_the_answer_of_one_is_the_request_of_the_next_its_content_type_too(local: Local) -> None:
    local.upload("models/m.tar.gz", behaving(invoke_body="1,2", invoke_type="text/csv"))
    first = behaving_container(local, "first", invoke_body="cleaned", invoke_type="text/plain")
    deploy(local, [first, container("second", multi=True), container("third")], "Serial")
    raw = local.invoke_raw(
        "m.tar.gz", b"raw", ContentType="application/x-raw", Accept="image/png", CustomAttributes="a=1"
    )
    answer = json.loads(raw["Body"].read())
    assert (answer["path"], answer["body"], answer["headers"]["content-type"]) == ("/invocations", "1,2", "text/csv")
    assert answer["headers"]["accept"] == "image/png"
    assert answer["headers"]["x-amzn-sagemaker-custom-attributes"] == "a=1"
    assert "x-amzn-sagemaker-target-model" not in answer["headers"]  # it is for the second only
    assert raw["ContentType"] == "application/json"
    (instance,) = local.instances()
    seen = [journal_of(instance, index) for index in range(3)]
    assert [[line["call"] for line in lines] for lines in seen] == [["invoke"], ["load", "invoke"], ["invoke"]]
    assert seen[1][0]["target"] == "m.tar.gz"


def test_only_the_last_of_a_chain_is_told_what_the_client_accepts(local: Local) -> None:
    deploy(local, [container(), container()])
    told = json.loads(local.invoke(Accept="text/csv")["body"].partition(', "text"')[0] + "}")["headers"]
    assert told["content-type"] == "application/json"
    assert "accept" not in told or told["accept"] != "text/csv"


def test_the_member_that_fails_is_named_and_those_after_it_are_not_asked(local: Local) -> None:
    failing = behaving_container(local, "second", invoke_status=400, invoke_body="I cannot")
    deploy(local, [container("first"), failing, container("third")])
    response = refused(local, "ModelError", 424)
    assert message(response).startswith('Received client error (400) from second with message "I cannot". See https')
    assert (response["OriginalStatusCode"], response["OriginalMessage"]) == (400, "I cannot")
    (instance,) = local.instances()
    assert [len(journal_of(instance, index)) for index in range(3)] == [1, 1, 0]


def test_members_without_a_hostname_are_named_by_their_position(local: Local) -> None:
    deploy(local, [container(), behaving_container(local, None, invoke_status=500, invoke_body="no")])
    assert "Received server error (500) from container-2 with message" in message(refused(local, "ModelError", 424))


def test_five_megabytes_pass_from_one_to_the_next_and_no_more(local: Local) -> None:
    limit = 5 * 1024 * 1024
    for name, size in (("fits", limit), ("large", limit + 1)):
        local.upload(f"models/{name}.tar.gz", behaving(invoke_bytes=size, invoke_type="application/x-echo"))
    deploy(local, [container("first", multi=True), container("second")])
    assert len(local.invoke_raw("fits.tar.gz")["Body"].read()) == limit
    assert message(refused(local, "ModelError", 424, "large.tar.gz")).startswith(
        "Received response from first with status code 200. However, the request payload from first to second is "
        f"{limit + 1} bytes, which has exceeded the maximum limit of 5 MB."
    )


def test_a_chain_takes_a_target_model_only_where_a_member_has_models_and_no_hostname(local: Local) -> None:
    deploy(local, [container("first"), container("second")])
    assert message(refused(local, "ValidationError", 400, "m.tar.gz")) == (
        "Endpoint endpoint is not a multi-model endpoint and does not support target model header."
    )
    assert "is not a multi-container endpoint with direct invocation" in message(
        refused(local, "ValidationError", 400, TargetContainerHostname="first")
    )


# ---- life ----


def test_an_instance_dies_with_one_of_its_containers_and_is_replaced_whole(local: Local) -> None:
    deploy(local, [container("first"), container("second")], "Direct")
    (before,) = local.instances()
    old = pids(before)
    os.kill(old[1], signal.SIGKILL)
    wait_until(lambda: local.instances() and local.instances() != [before], "it was not replaced")
    answered = {local.invoke(TargetContainerHostname=name)["pid"] for name in ("first", "second")}
    assert answered == set(pids(local.instances()[0])) and not answered & set(old)
    wait_until(lambda: not any(map(psutil.pid_exists, old)), "a container survives its instance")


def test_a_request_that_ends_a_container_wherever_it_goes_is_answered_503_and_all_are_replaced(local: Local) -> None:
    dying = behaving_container(local, "second", dies=True)
    deploy(local, [container("first"), dying])
    assert "The container ended while it served" in message(refused(local, "ServiceUnavailable", 503))
    wait_until(lambda: len(local.instances()) == 1, "it was not replaced")


def test_all_members_that_do_not_come_up_are_named(local: Local) -> None:
    broken: dict[str, Any] = {"Environment": {"FAKE_EXIT": "3"}}
    described = deploy(local, [container("a", **broken), container("b"), container("c", **broken)], wanted="Failed")
    assert described["FailureReason"].startswith(
        "The a, c for production variant AllTraffic did not pass the ping health check. Please check CloudWatch logs"
    )
    assert "it ended with status 3" in described["FailureReason"]


def test_a_member_whose_data_is_missing_is_numbered(local: Local) -> None:
    missing = container("b", ModelDataUrl="s3://test-models/none.tar.gz")
    local.upload("none.tar.gz", behaving())
    create_model(local, "endpoint", [container("a", Environment={"FAKE_PING_STATUS": "500"}), missing])
    local.s3.delete_object(Bucket="test-models", Key="none.tar.gz")
    local.create_config("endpoint", "endpoint")
    local.sagemaker.create_endpoint(EndpointName="endpoint", EndpointConfigName="endpoint")
    # the first would fail its checks for minutes: it is not waited for
    reason = local.wait("endpoint", "Failed")["FailureReason"]
    assert (
        'Failed to download model data for container "container_2" from URL: "s3://test-models/none.tar.gz"' in reason
    )


def test_an_update_goes_from_one_container_to_a_chain_and_to_direct_invocation(local: Local) -> None:
    local.deploy(url=None, multi=False)
    create_model(local, "chain", [container("first"), container("second")], "Serial")
    create_model(local, "direct", [container("first"), container("second")], "Direct")
    assert local.invoke(body=b"{}")["body"] == "{}"
    for name in ("chain", "direct"):
        local.create_config(name, name)
        local.sagemaker.update_endpoint(EndpointName="endpoint", EndpointConfigName=name)
        local.wait("endpoint", "InService")
        if name == "chain":
            assert '"path": "/invocations"' in local.invoke(body=b"{}")["body"]  # what the first said
    assert local.invoke(body=b"{}", TargetContainerHostname="second")["body"] == "{}"


# ---- CreateModel ----


@pytest.mark.parametrize(
    "containers, mode, wanted",
    [
        ([container("a"), container()], "Direct", "ContainerHostname is required for each container"),
        ([container(), container()], "Direct", "ContainerHostname is required for each container"),
        ([container("a"), container()], "Serial", "ContainerHostname must be specified for all containers"),
        ([container("a"), container()], None, "ContainerHostname must be specified for all containers"),
        ([container("a"), container("a")], "Direct", "Two containers of the model have the same ContainerHostname"),
        ([container("a"), container("a")], None, "Two containers of the model have the same ContainerHostname"),
        (
            [container(multi=True), container(multi=True)],
            None,
            "More than one container in MultiModel mode is not supported with inference pipeline.",
        ),
        ([container("not a name"), container("b")], None, "Member must satisfy regular expression pattern"),
        ([container()] * 16, None, "Member must have length less than or equal to 15"),
    ],
)
def test_members_that_could_not_be_called_are_refused(
    local: Local, containers: list[dict[str, Any]], mode: str | None, wanted: str
) -> None:
    with pytest.raises(ClientError, match=re.escape(wanted)) as caught:
        create_model(local, "refused", containers, mode)
    assert caught.value.response["Error"]["Code"] == "ValidationException"
    assert not local.sagemaker.list_models()["Models"]


def test_direct_invocation_of_a_primary_container_is_refused(local: Local) -> None:
    with pytest.raises(ClientError, match="needs Containers, not PrimaryContainer"):
        local.sagemaker.create_model(
            ModelName="m",
            ExecutionRoleArn=ROLE,
            PrimaryContainer=container("a"),
            InferenceExecutionConfig={"Mode": "Direct"},
        )


def test_several_members_with_models_can_be_invoked_directly(local: Local) -> None:
    local.upload("models/m.tar.gz", pack({"text": "it"}))
    deploy(local, [container("a", multi=True), container("b", multi=True)], "Direct")
    answers = [local.invoke("m.tar.gz", TargetContainerHostname=name) for name in ("a", "b")]
    assert [each["text"] for each in answers] == ["it", "it"]
    assert answers[0]["pid"] != answers[1]["pid"]


def test_fifteen_containers_serve(local: Local) -> None:
    names = [f"c{number}" for number in range(15)]
    deploy(local, [container(name) for name in names], "Direct")
    assert len({local.invoke(TargetContainerHostname=name)["pid"] for name in names}) == 15
