"""Requests that moto reads in another way than they seem to mean: whoever sends them gets no further than with others.

No SDK makes them: they are signed as SDKs sign, and sent as they are.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.endpoint.access.conftest import Guarded, Person, arn
from tests.endpoint.local import KEYS

FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
ROOT = {name: value for name, value in KEYS.items() if name != "region_name"}


def allow(action: Any, resource: Any = "*", effect: str = "Allow", **more: Any) -> dict[str, Any]:
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


def send(
    guarded: Guarded,
    user: Person | None,
    service: str,
    method: str,
    target: str,
    body: str | dict[str, str] = "",
    headers: dict[str, str] | None = None,
    host: str = "",
    signed_target: str = "",
) -> tuple[int, str]:
    """Signed for ``service`` by ``user``, the root user where there is none. A body of pairs is a form."""
    address = urlsplit(guarded.url)
    host = f"{host or address.hostname}:{address.port}"
    data = (body if isinstance(body, str) else urlencode(body)).encode()
    request = AWSRequest(method, f"http://{host}{signed_target or target}", {**(headers or {}), "Host": host}, data)
    request.context["payload_signing_enabled"] = True
    keys = user.keys if user is not None else ROOT
    credentials = Credentials(keys["aws_access_key_id"], keys["aws_secret_access_key"])
    (S3SigV4Auth if service == "s3" else SigV4Auth)(credentials, service, "us-east-1").add_auth(request)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() != "content-length":
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


# ---- services with forms ----


@pytest.fixture(scope="module")
def role(guarded: Guarded) -> str:
    """One that only SageMaker may assume."""
    return arn("role", guarded.role(allow("*"), Service="sagemaker.amazonaws.com"))


@pytest.mark.parametrize(
    ("target", "content_type", "is_multipart"),
    [
        ("/?Action=GetCallerIdentity&Version=2011-06-15", "Application/x-www-form-urlencoded", False),
        ("/?Action=GetCallerIdentity&Version=2011-06-15", "application/x-www-form-urlencoded", False),
        ("/?Action=GetCallerIdentity&Version=2011-06-15", "multipart/form-data; boundary=b", True),
        ("/?Version=2011-06-15", "text/plain", False),
        ("/", "application/json", False),
        ("/", "", False),
    ],
)
def test_a_form_by_whatever_content_type(
    guarded: Guarded, role: str, target: str, content_type: str, is_multipart: bool
) -> None:
    user = guarded.user(allow("sts:GetSessionToken"))
    form = {"Action": "AssumeRole", "RoleArn": role, "RoleSessionName": "x", "Version": "2011-06-15"}
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in form.items()]
    body = "--b\r\n" + "\r\n--b\r\n".join(parts) + "\r\n--b--\r\n" if is_multipart else urlencode(form)
    headers = {"Content-Type": content_type} if content_type else {}
    status, text = send(guarded, user, "sts", "POST", target, body, headers)
    assert (status in (400, 403), "SecretAccessKey" in text) == (True, False), text


@pytest.mark.parametrize("target", ["/", "/?RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fmine"])
def test_a_parameter_that_is_there_twice(guarded: Guarded, role: str, target: str) -> None:
    user = guarded.user(allow("sts:AssumeRole", "arn:aws:iam::123456789012:role/mine"))
    form = urlencode({"Action": "AssumeRole", "RoleSessionName": "x", "Version": "2011-06-15"})
    arns = ["arn:aws:iam::123456789012:role/mine"] if target == "/" else []
    body = "&".join([form, *(urlencode({"RoleArn": each}) for each in [*arns, role])])
    status, text = send(guarded, user, "sts", "POST", target, body, FORM)
    assert (status, "SecretAccessKey" in text) == (400, False), text


@pytest.mark.parametrize("service", ["iam.x", "IAM", "Iam", "iamx"])
def test_a_service_that_only_moto_takes_for_iam(guarded: Guarded, service: str) -> None:
    power = guarded.user({"Effect": "Allow", "NotAction": ["iam:*"], "Resource": "*"})
    form = {"Action": "CreateUser", "UserName": "evil", "Version": "2010-05-08"}
    assert send(guarded, power, service, "POST", "/", form, FORM)[0] in (400, 403)
    assert "evil" not in [user["UserName"] for user in guarded.iam.list_users()["Users"]]


@pytest.mark.parametrize("service", ["S3", "s3x", "s3express", "s3-object-lambda"])
def test_a_service_that_only_moto_takes_for_s3(guarded: Guarded, service: str) -> None:
    user = guarded.user(allow("*"), allow("s3:*", effect="Deny"))
    guarded.s3.put_object(Bucket="test-models", Key="secret", Body=b"content")
    status, text = send(guarded, user, service, "GET", "/test-models/secret")
    assert (status in (400, 403), text == "content") == (True, False), text


# ---- services with targets ----


def test_a_body_that_reads_like_a_form(guarded: Guarded) -> None:
    logs = guarded.client("logs")
    logs.create_log_group(logGroupName="kept")
    user = guarded.user(allow("logs:DescribeLogGroups"))
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Logs_20140328.DescribeLogGroups"}
    body = json.dumps({"logGroupName": "kept", "a": "&Action=DeleteLogGroup&b="})
    assert send(guarded, user, "logs", "POST", "/", body, headers)[0] == 400
    assert send(guarded, user, "logs", "POST", "/?Action=DeleteLogGroup", "{}", headers)[0] == 400
    assert send(guarded, user, "logs", "POST", "/", "{}", headers)[0] == 200
    assert [each["logGroupName"] for each in logs.describe_log_groups(logGroupNamePrefix="kept")["logGroups"]]
    logs.delete_log_group(logGroupName="kept")


def test_a_target_for_a_service_that_has_none(guarded: Guarded, role: str) -> None:
    user = guarded.user()
    form = {"Action": "AssumeRole", "RoleArn": role, "RoleSessionName": "x", "Version": "2011-06-15"}
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        headers = {"X-Amz-Target": "a.GetCallerIdentity", "Content-Type": content_type}
        status, text = send(guarded, user, "sts", "POST", "/", form, headers)
        assert (status, "SecretAccessKey" in text) == (400, False), text


def test_an_invocation_with_the_target_of_another_operation(guarded: Guarded) -> None:
    user = guarded.user(allow("sagemaker:ListModels"))
    headers = {"X-Amz-Target": "SageMaker.ListModels", "Content-Type": "application/json"}
    headers["X-Amzn-SageMaker-Target-Model"] = "company_a/m"
    status, text = send(guarded, user, "sagemaker", "POST", "/endpoints/Endpoint/invocations", "{}", headers)
    assert (status in (400, 403), text == "company_a") == (True, False), text


# ---- S3 ----

S3 = "arn:aws:s3:::"
ARN_ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def limited(guarded: Guarded) -> Person:
    """Everything, but nothing of "victim", "logs.private" and "pub/secret/", no deletion and no other version."""
    for bucket in ("pub", "victim", "logs", "logs.private"):
        guarded.s3.create_bucket(Bucket=bucket)
        for key in ("secret/x", "public/y", "z"):
            guarded.s3.put_object(Bucket=bucket, Key=key, Body=f"content of {bucket}".encode())
    return guarded.user(
        allow("s3:*"),
        allow("s3:GetObject", f"{S3}pub/secret/*", effect="Deny"),
        allow("s3:*", [f"{S3}victim", f"{S3}victim/*", f"{S3}logs.private/*"], effect="Deny"),
        allow(["s3:DeleteObject", "s3:DeleteBucket", "s3:GetObjectVersion"], effect="Deny"),
    )


@pytest.mark.parametrize(
    ("method", "target", "host"),
    [
        ("GET", "/pub/secret/x", ""),
        ("GET", "/pub/secret%2Fx", ""),
        ("GET", "/pub%2Fsecret/x", ""),
        ("GET", "/pub/secret/x?torrent", ""),
        ("GET", "/pub/secret/x?retention", ""),
        ("GET", "/pub/secret/x?legal-hold=&attributes", ""),
        ("HEAD", "/pub/secret/x?acl", ""),
        ("GET", "/pub/z?versionId=null", ""),
        ("GET", "/pub/z?versionId=null&versionId=", ""),
        ("GET", "/z", "victim.localhost"),
        ("GET", "/z", "VICTIM.LOCALHOST"),
        ("GET", "/z", "logs.private.localhost"),
        ("GET", "/victim/z", "localhost."),
        ("DELETE", "/pub/z", ""),
        ("DELETE", "/pub/z?acl", ""),
        ("DELETE", "/pub/public/y?retention", ""),
        ("DELETE", "/logs?acl", ""),
        ("DELETE", "/logs?versioning", ""),
        ("GET", "/v20180820/accesspoint", ""),
        ("GET", "/data.json", "moto-api.localhost"),
        ("POST", "/reset", "moto-api.localhost"),
    ],
)
def test_another_way_to_what_s3_denies(guarded: Guarded, limited: Person, method: str, target: str, host: str) -> None:
    for signed in {target, target.replace("%2F", "/")}:
        status, text = send(guarded, limited, "s3", method, target, host=host, signed_target=signed)
        assert (status in (400, 403), "content" in text) == (True, False), text
    assert len(guarded.s3.list_objects_v2(Bucket="pub")["Contents"]) >= 3


@pytest.mark.parametrize(
    "source",
    [
        "/victim/z",
        "a:/victim/z",
        "//x/victim/z",
        "%2F%2Fvictim/z",
        "%2Fvictim/z",
        "http://x/victim/z",
        "pub%2F../victim/z",
        "/victim/z;a",
        "/victim/z#a",
        "/victim/z?a=b",
    ],
)
def test_a_copy_of_what_may_not_be_read(guarded: Guarded, limited: Person, source: str) -> None:
    status, text = send(guarded, limited, "s3", "PUT", "/pub/stolen", "", {"x-amz-copy-source": source})
    assert status in (400, 403), text
    assert "stolen" not in [each["Key"] for each in guarded.s3.list_objects_v2(Bucket="pub")["Contents"]]


def test_a_copy_of_what_may_be_read(guarded: Guarded, limited: Person) -> None:
    for source in ("pub/z", "/pub/public/y", "pub/public%2Fy"):
        status, text = send(guarded, limited, "s3", "PUT", "/pub/copied", "", {"x-amz-copy-source": source})
        assert status == 200, text


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=b", "Multipart/Form-Data; boundary=b", FORM["Content-Type"]]
)
def test_a_form_for_s3(guarded: Guarded, limited: Person, content_type: str) -> None:
    writer = guarded.user(allow("s3:*", f"{S3}pub/*"), allow("s3:*", f"{S3}pub/secret/*", effect="Deny"))
    form = {"key": "secret/new", "file": "evil"}
    parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in form.items()]
    body = "--b\r\n" + "\r\n--b\r\n".join(parts) + "\r\n--b--\r\n" if "boundary" in content_type else urlencode(form)
    status, text = send(guarded, writer, "s3", "POST", "/pub", body, {"Content-Type": content_type})
    assert status in (400, 403), text
    assert "secret/new" not in [each["Key"] for each in guarded.s3.list_objects_v2(Bucket="pub")["Contents"]]


def test_a_list_of_another_prefix(guarded: Guarded, limited: Person) -> None:
    condition = {"StringEquals": {"s3:prefix": "public/"}}
    user = guarded.user(allow("s3:ListBucket", f"{S3}pub", Condition=condition))
    assert send(guarded, user, "s3", "GET", "/pub?prefix=public%2F")[0] == 200
    for query in ("prefix=secret%2F&prefix=public%2F", "prefix=public%2F&prefix=secret%2F"):
        status, text = send(guarded, user, "s3", "GET", f"/pub?{query}")
        assert (status in (400, 403), "secret/x" in text) == (True, False), text


def test_a_version_in_a_body(guarded: Guarded, limited: Person) -> None:
    status, text = send(guarded, limited, "s3", "GET", "/pub/z", '{"versionId": "null"}')
    assert (status in (400, 403), "content" in text) == (True, False), text


def test_a_reader_of_a_public_bucket_reads_no_other(guarded: Guarded, limited: Person) -> None:
    """Whatever the host: unsigned."""
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"{S3}logs/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [everyone]})
    guarded.s3.put_bucket_policy(Bucket="logs", Policy=policy)
    address = urlsplit(guarded.url)

    def read(target: str, host: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
        try:
            connection.request("GET", target, headers={"Host": f"{host}:{address.port}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    assert read("/z", "logs.localhost") == (200, "content of logs")
    assert read("/logs/z", "localhost") == (200, "content of logs")
    for target, host in (
        ("/z", "logs.private.localhost"),
        ("/z", "LOGS.PRIVATE.localhost"),
        ("/logs/z", "victim.localhost"),
        ("/logs.private/z", "logs"),
        ("/data.json", "moto-api.localhost"),
    ):
        assert read(target, host)[0] in (403, 404), (target, host)
    guarded.s3.delete_bucket_policy(Bucket="logs")


def test_what_moto_cannot_dispatch_is_answered(guarded: Guarded) -> None:
    """DynamoDB's requests have a target."""
    status, text = send(guarded, None, "dynamodb", "GET", "/")
    assert (status, "The request failed in the local endpoint" in text) == (500, True), text


# ---- SageMaker ----


def control(guarded: Guarded, user: Person, operation: str, parameters: dict[str, Any]) -> tuple[int, str]:
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"SageMaker.{operation}"}
    return send(guarded, user, "sagemaker", "POST", "/", json.dumps(parameters), headers)


def test_a_name_that_the_operation_does_not_take(guarded: Guarded) -> None:
    """A user may do everything with what is tagged as the user's."""
    tags = [{"Key": "team", "Value": "a"}]
    container = {"Image": "image"}
    role = arn("role", "tests")
    for name, its in (("mine", tags), ("victim", [])):
        guarded.sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=role, Tags=its)
    config = {"ProductionVariants": [{"VariantName": "v", "ModelName": "mine", "InitialInstanceCount": 1}]}
    config["ProductionVariants"][0]["InstanceType"] = "ml.m5.large"
    guarded.sagemaker.create_endpoint_config(EndpointConfigName="mine", Tags=tags, **config)
    condition = {"StringEquals": {"aws:ResourceTag/team": "a"}}
    user = guarded.user(allow("sagemaker:*", Condition=condition))
    for more in ({}, {"EndpointConfigName": "mine"}, {"NotebookInstanceName": "mine"}):
        assert control(guarded, user, "DeleteModel", {"ModelName": "victim", **more})[0] == 400
    # moto's own: its tags are of the notebook, not of a model
    notebook = {"NotebookInstanceName": "n", "ModelName": "mine"}
    assert control(guarded, user, "DeleteNotebookInstance", notebook)[0] == 400
    # each resource's own tags count
    status, text = control(guarded, user, "CreateEndpoint", {"EndpointName": "new", "EndpointConfigName": "mine"})
    assert (status, "AccessDenied" in text) == (400, True), text
    assert control(guarded, user, "DeleteEndpointConfig", {"EndpointConfigName": "mine"})[0] == 200
    assert control(guarded, user, "DeleteModel", {"ModelName": "mine"})[0] == 200
    guarded.sagemaker.delete_model(ModelName="victim")


@pytest.mark.parametrize(
    "name", ["model/protected", "MODEL/protected", "model/PROTECTED", "model//protected", "model/protected "]
)
def test_tags_of_a_resource_by_another_spelling(guarded: Guarded, name: str) -> None:
    guarded.sagemaker.create_model(
        ModelName="protected", PrimaryContainer={"Image": "image"}, ExecutionRoleArn=arn("role", "tests")
    )
    prefix = f"arn:aws:sagemaker:us-east-1:{ARN_ACCOUNT}"
    user = guarded.user(allow("sagemaker:*"), allow("sagemaker:*", f"{prefix}:model/protected", effect="Deny"))
    tags = [{"Key": "team", "Value": "a"}]
    try:
        _, text = control(guarded, user, "AddTags", {"ResourceArn": f"{prefix}:{name}", "Tags": tags})
        assert not guarded.sagemaker.list_tags(ResourceArn=f"{prefix}:model/protected")["Tags"], text
    finally:
        guarded.sagemaker.delete_model(ModelName="protected")


def test_parameters_in_a_value(guarded: Guarded) -> None:
    user = guarded.user(allow("sagemaker:*"))
    parameters = {"NotebookInstanceName": "n", "a": "&NotebookInstanceName=victim&b="}
    status, text = control(guarded, user, "DeleteNotebookInstance", parameters)
    assert (status, "reads like a form" in text) == (400, True), text


# ---- IAM ----


def iam(guarded: Guarded, user: Person, **form: str) -> int:
    return send(guarded, user, "iam", "POST", "/", {**form, "Version": "2010-05-08"}, FORM)[0]


def test_who_may_change_itself_changes_no_other(guarded: Guarded) -> None:
    guarded.iam.create_group(GroupName="admins")
    role = guarded.role()
    user = guarded.user(allow("iam:*", "arn:aws:iam::123456789012:user/user*"))
    everything = json.dumps({"Version": "2012-10-17", "Statement": [allow("*")]})
    its = {"PolicyName": "x", "PolicyDocument": everything}
    assert iam(guarded, user, Action="AddUserToGroup", UserName=user.name, GroupName="admins") == 403
    assert iam(guarded, user, Action="PutRolePolicy", RoleName=role, UserName=user.name, **its) == 403
    assert iam(guarded, user, Action="PutGroupPolicy", GroupName="admins", UserName=user.name, **its) == 403
    assert iam(guarded, user, Action="UpdateUser", UserName=user.name, NewUserName="boss2") == 403
    assert iam(guarded, user, Action="PutUserPolicy", UserName=user.name, **its) == 200
    guarded.iam.delete_group(GroupName="admins")


def test_the_path_of_a_user_counts(guarded: Guarded) -> None:
    guarded.iam.create_user(UserName="boss", Path="/admins/")
    user = guarded.user(allow("iam:*"), allow("iam:*", "arn:aws:iam::123456789012:user/admins/*", effect="Deny"))
    assert iam(guarded, user, Action="CreateAccessKey", UserName="boss") == 403
    assert iam(guarded, user, Action="CreateAccessKey", UserName="boss", Path="/") == 403
    assert iam(guarded, user, Action="CreateUser", UserName="boss3", Path="/admins/") == 403
    assert iam(guarded, user, Action="UpdateUser", UserName=user.name, NewPath="/admins/") == 403
    assert iam(guarded, user, Action="CreateUser", UserName="clerk") == 200
    assert iam(guarded, user, Action="CreateAccessKey", UserName="clerk") == 200


@pytest.mark.parametrize("operation", ["assumeRole", "assume_role", "getSessionToken", "GetSessionTOKEN"])
def test_an_operation_by_another_spelling(guarded: Guarded, role: str, operation: str) -> None:
    user = guarded.user(allow("sts:*"))
    form = {"Action": operation, "RoleArn": role, "RoleSessionName": "x", "Version": "2011-06-15"}
    status, text = send(guarded, user, "sts", "POST", "/", form, FORM)
    assert (status, "SecretAccessKey" in text) == (400, False), text
