"""Who may invoke what, with boto3: users, groups, roles, boundaries, sessions; keys that are wrong, old or unknown."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.sts.models import sts_backends

from tests.endpoint.access.conftest import Guarded, Person, arn, assume, document
from tests.endpoint.local import KEYS, wait_until

ENDPOINT = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/endpoint"


def allow(target: str | None = None, **more: Any) -> dict[str, Any]:
    """To invoke, models of this pattern only where it is given."""
    condition = {"Condition": {"StringLike": {"sagemaker:TargetModel": target}}} if target else {}
    return {"Effect": "Allow", "Action": "sagemaker:InvokeEndpoint", "Resource": ENDPOINT, **condition, **more}


def denied(person: Person, target: str, **more: Any) -> str:
    """The text of the refusal."""
    with pytest.raises(ClientError) as caught:
        person.invoke(target, **more)
    response: Any = caught.value.response
    assert response["Error"]["Code"] == "AccessDeniedException"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return str(response["Error"]["Message"])


def refused(person: Person, code: str, service: str = "sagemaker-runtime") -> str:
    with pytest.raises(ClientError) as caught:
        if service == "sagemaker-runtime":
            person.invoke("company_a/m")
        elif service == "s3":
            person.client("s3").list_buckets()
        elif service == "sagemaker":
            person.client("sagemaker").list_endpoints()
        else:
            person.client("sts").get_caller_identity()
    assert caught.value.response["Error"]["Code"] == code
    return str(caught.value.response["Error"]["Message"])


def test_a_user_may_invoke_the_models_of_its_policy_only(guarded: Guarded) -> None:
    user = guarded.user(allow("company_a/*"))
    assert user.invoke("company_a/m") == "company_a"
    who = (
        f"User: {arn('user', user.name)} is not authorized to perform: sagemaker:InvokeEndpoint on resource: {ENDPOINT}"
    )
    assert denied(user, "company_b/m") == (
        f"{who} because no identity-based policy allows the sagemaker:InvokeEndpoint action"
    )
    # a slash before the name leads past nothing
    assert "company" not in denied(user, "/company_b/m")


def test_an_explicit_deny_wins(guarded: Guarded) -> None:
    user = guarded.user(allow(), {**allow("company_b/*"), "Effect": "Deny"})
    assert user.invoke("others/m") == "others"
    for target in ("company_b/m", "/company_b/m"):
        assert denied(user, target).endswith("with an explicit deny in an identity-based policy")


def test_a_policy_that_is_changed_holds_for_the_next_request(guarded: Guarded) -> None:
    user = guarded.user()
    denied(user, "others/m")
    guarded.iam.create_group(GroupName="scorers")
    guarded.iam.add_user_to_group(GroupName="scorers", UserName=user.name)
    policy = guarded.iam.create_policy(PolicyName="invoke", PolicyDocument=document(allow()))["Policy"]["Arn"]
    guarded.iam.attach_group_policy(GroupName="scorers", PolicyArn=policy)
    assert user.invoke("others/m") == "others"
    guarded.iam.create_policy_version(
        PolicyArn=policy, PolicyDocument=document(allow("company_a/*")), SetAsDefault=True
    )
    denied(user, "others/m")
    assert user.invoke("company_a/m") == "company_a"
    guarded.iam.remove_user_from_group(GroupName="scorers", UserName=user.name)
    denied(user, "company_a/m")


def test_the_container_that_a_request_names_can_be_a_condition(guarded: Guarded) -> None:
    """Authorization comes before anything of the endpoint: which containers it has does not matter here."""
    condition = {"StringLike": {"sagemaker:TargetContainerHostname": "first"}}
    user = guarded.user(allow(Condition=condition))
    assert "no identity-based policy" in denied(user, "others/m", TargetContainerHostname="second")
    with pytest.raises(ClientError) as caught:
        user.invoke("others/m", TargetContainerHostname="first")
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def test_a_session_policy_and_a_boundary_limit_a_role(guarded: Guarded) -> None:
    role = guarded.role(allow())
    user = guarded.user({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": arn("role", role)})
    denied(user, "others/m")
    assert assume(user, role).invoke("others/m") == "others"

    limited = assume(user, role, Policy=document(allow("company_a/*")))
    assert limited.invoke("company_a/m") == "company_a"
    session = "arn:aws:sts::123456789012:assumed-role"
    assert denied(limited, "company_b/m") == (
        f"User: {session}/{role}/night is not authorized to perform: sagemaker:InvokeEndpoint on resource: {ENDPOINT} "
        "because no session policy allows the sagemaker:InvokeEndpoint action"
    )
    boundary = guarded.iam.create_policy(PolicyName="only-b", PolicyDocument=document(allow("company_b/*")))
    guarded.iam.put_role_permissions_boundary(RoleName=role, PermissionsBoundary=boundary["Policy"]["Arn"])
    assert "because no permissions boundary allows" in denied(limited, "company_a/m")
    assert assume(user, role).invoke("company_b/m") == "company_b"


def test_a_user_has_a_boundary_too(guarded: Guarded) -> None:
    boundary = guarded.iam.create_policy(PolicyName="only-a", PolicyDocument=document(allow("company_a/*")))
    user = guarded.user(allow())
    assert user.invoke("others/m") == "others"
    guarded.iam.put_user_permissions_boundary(UserName=user.name, PermissionsBoundary=boundary["Policy"]["Arn"])
    assert "because no permissions boundary allows" in denied(user, "others/m")
    assert user.invoke("company_a/m") == "company_a"
    guarded.iam.delete_user_permissions_boundary(UserName=user.name)
    assert user.invoke("others/m") == "others"


def test_a_role_may_be_assumed_by_whom_it_trusts(guarded: Guarded) -> None:
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    trusted, other, powerful = guarded.user(), guarded.user(), guarded.user(everything)
    role = guarded.role(allow(), AWS=arn("user", trusted.name))
    assert assume(trusted, role).invoke("others/m") == "others"
    for person in (other, powerful):
        with pytest.raises(ClientError, match="is not authorized to perform: sts:AssumeRole on resource"):
            assume(person, role)
    with pytest.raises(ClientError, match="AccessDenied"):
        assume(powerful, "nobody-made-it")


def test_keys_that_are_unknown_wrong_inactive_or_deleted(guarded: Guarded) -> None:
    user = guarded.user(allow(), {"Effect": "Allow", "Action": "*", "Resource": "*"})
    key = user.keys["aws_access_key_id"]
    unknown = Person(guarded, "", {**user.keys, "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE"})
    wrong = Person(guarded, "", {**user.keys, "aws_secret_access_key": "wrong"})
    for service, unknown_code, wrong_code in (
        ("sagemaker-runtime", "UnrecognizedClientException", "InvalidSignatureException"),
        ("sagemaker", "UnrecognizedClientException", "InvalidSignatureException"),
        ("s3", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        ("sts", "InvalidClientTokenId", "SignatureDoesNotMatch"),
    ):
        refused(unknown, unknown_code, service)
        assert "does not match the signature you provided" in refused(wrong, wrong_code, service)
    guarded.iam.update_access_key(UserName=user.name, AccessKeyId=key, Status="Inactive")
    assert refused(user, "UnrecognizedClientException") == "The security token included in the request is invalid."
    guarded.iam.update_access_key(UserName=user.name, AccessKeyId=key, Status="Active")
    assert user.invoke("others/m") == "others"
    guarded.iam.delete_access_key(UserName=user.name, AccessKeyId=key)
    refused(user, "UnrecognizedClientException")


def test_sessions_that_are_expired_or_of_another_token(guarded: Guarded) -> None:
    role = guarded.role(allow())
    session = assume(guarded.user({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}), role)
    assert session.invoke("others/m") == "others"
    other_token = Person(guarded, "", {**session.keys, "aws_session_token": "another"})
    no_token = Person(guarded, "", {name: key for name, key in session.keys.items() if name != "aws_session_token"})
    refused(other_token, "UnrecognizedClientException")
    refused(other_token, "InvalidToken", "s3")
    refused(no_token, "UnrecognizedClientException")
    (kept,) = [
        each
        for each in sts_backends["123456789012"]["aws"].assumed_roles
        if each.access_key_id == session.keys["aws_access_key_id"]
    ]
    kept.expiration = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    assert refused(session, "ExpiredTokenException") == "The security token included in the request is expired"
    refused(session, "ExpiredToken", "s3")
    refused(session, "ExpiredToken", "sts")


def test_an_unsigned_request_is_refused(guarded: Guarded) -> None:
    answer = guarded.post({"X-Amzn-SageMaker-Target-Model": "others/m"}, endpoint="Endpoint")
    assert answer.status_code == 403
    assert answer.headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException"
    assert answer.json() == {"message": "Missing Authentication Token"}


def test_the_execution_role_reads_the_models_data(guarded: Guarded) -> None:
    """A model that was read already goes on; the next one is refused."""
    role = guarded.role(Service="sagemaker.amazonaws.com")
    guarded.sagemaker.create_model(
        ModelName="poor",
        ExecutionRoleArn=arn("role", role),
        PrimaryContainer={"Image": "an-image", "Mode": "MultiModel", "ModelDataUrl": "s3://test-models/models/"},
    )
    guarded.create_config("poor", "poor")
    guarded.sagemaker.create_endpoint(EndpointName="poor", EndpointConfigName="poor")
    guarded.wait("poor", "InService")
    with pytest.raises(ClientError) as caught:
        guarded.invoke("others/m", endpoint="poor")
    assert caught.value.response["Error"]["Code"] == "ValidationError"
    assert caught.value.response["Error"]["Message"] == (
        "Failed to download model data(bucket: test-models, key: models/others/m). Please ensure that there is an "
        "object located at the URL and that the role passed to CreateModel has permissions to download the model."
    )
    read = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::test-models/models/others/*"}
    guarded.iam.put_role_policy(RoleName=role, PolicyName="read", PolicyDocument=document(read))
    assert guarded.invoke("others/m", endpoint="poor") == "others"
    with pytest.raises(ClientError, match="Failed to download model data"):
        guarded.invoke("company_a/m", endpoint="poor")
    guarded.sagemaker.delete_endpoint(EndpointName="poor")
    wait_until(lambda: guarded.is_gone("poor"), "the endpoint is not gone", 60)


def test_a_model_needs_a_role_that_sagemaker_may_assume(guarded: Guarded) -> None:
    for role in (guarded.role(), "nobody-made-it"):
        with pytest.raises(ClientError, match=f"Could not assume role {arn('role', role)}. Please ensure that"):
            guarded.sagemaker.create_model(
                ModelName="m", ExecutionRoleArn=arn("role", role), PrimaryContainer={"Image": "an-image"}
            )


def test_the_control_plane_asks_for_each_action_and_for_the_role_to_be_passed(guarded: Guarded) -> None:
    models = "arn:aws:sagemaker:us-east-1:123456789012:model/mine*"
    user = guarded.user({"Effect": "Allow", "Action": "sagemaker:*Model", "Resource": models})
    sagemaker = user.client("sagemaker")
    create = {"ExecutionRoleArn": arn("role", "tests"), "PrimaryContainer": {"Image": "an-image"}}
    with pytest.raises(
        ClientError, match=f"iam:PassRole on resource: {arn('role', 'tests')} because no identity-based"
    ):
        sagemaker.create_model(ModelName="mine1", **create)
    passing = {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "*"}
    guarded.iam.put_user_policy(UserName=user.name, PolicyName="pass", PolicyDocument=document(passing))
    sagemaker.create_model(ModelName="Mine1", **create)
    with pytest.raises(ClientError, match=r"sagemaker:CreateModel on resource: .*:model/others because"):
        sagemaker.create_model(ModelName="others", **create)
    with pytest.raises(ClientError) as caught:
        sagemaker.list_models()
    assert caught.value.response["Error"]["Code"] == "AccessDeniedException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert "sagemaker:ListModels on resource: * because" in caught.value.response["Error"]["Message"]
    sagemaker.delete_model(ModelName="mine1")


def test_other_services_ask_too(guarded: Guarded) -> None:
    """Whoever could write its own policies could do everything."""
    user = guarded.user(allow())
    with pytest.raises(ClientError, match=r"not authorized to perform: iam:PutUserPolicy on resource: .*:user/"):
        user.client("iam").put_user_policy(UserName=user.name, PolicyName="more", PolicyDocument=document(allow()))
    with pytest.raises(ClientError, match="not authorized to perform: logs:DescribeLogGroups"):
        user.client("logs").describe_log_groups()
    with pytest.raises(ClientError, match="cloudwatch:ListMetrics"):
        user.client("cloudwatch").list_metrics()
    assert user.client("sts").get_caller_identity()["Arn"] == arn("user", user.name)


def test_the_root_user_may_do_everything(guarded: Guarded) -> None:
    assert guarded.invoke("others/m", endpoint="Endpoint") == "others"
    assert guarded.sts.get_caller_identity()["Arn"] == "arn:aws:iam::123456789012:root"
    groups = [group["logGroupName"] for group in guarded.client("logs").describe_log_groups()["logGroups"]]
    assert "/aws/sagemaker/Endpoints/Endpoint" in groups
    assert KEYS["aws_access_key_id"] == "test"
