"""Which permissions a request needs, and what policies can know of it: actions, ARNs and values of condition keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from botocore.auth import HmacV1Auth

from local_endpoint.access import s3_permissions
from local_endpoint.access.operations import FORM, check_service, loose_names, media_type, named_operation
from local_endpoint.access.refusals import Kind, Refusal
from local_endpoint.access.s3_permissions import ALL, Permission
from local_endpoint.access.signatures import OldSignature, Signature, header
from local_endpoint.configuration import ACCOUNT
from local_endpoint.protocols import Protocol
from local_endpoint.validation import service_model

Environ = Mapping[str, Any]
Values = dict[str, "str | tuple[str, ...]"]
INVOCATIONS = re.compile(r"/endpoints/(?P<name>[^/]*)/(?P<kind>invocations(?:-response-stream)?|async-invocations)")
# A model's images and data are fetched by a role: who hands it over needs iam:PassRole.
PASSED_ROLES = re.compile(r"\w*RoleArn|ExecutionRole|DefaultExecutionRole")
READS = ("Describe", "List", "Search", "Get")
SAGEMAKER_SERVICE = "sagemaker.amazonaws.com"
# Members of SageMaker's requests that name a resource of this kind.
SAGEMAKER_NAMES = {
    "EndpointName": "endpoint",
    "EndpointConfigName": "endpoint-config",
    "ModelName": "model",
    "TrainingJobName": "training-job",
}
_ARN = re.compile(rf"arn:aws:sagemaker:[a-z0-9-]+:{ACCOUNT}:[a-z-]+/[a-z0-9./-]+")
_KIND_OF_OPERATION = re.compile(r"(?:Create|Describe|Delete|Update|Stop|Start)(?P<kind>[A-Z]\w*)")
# What is answered for its X-Amz-Target, whatever service it is signed for: it must be signed for this one.
ANSWERED_BY_TARGET = {"SageMaker.": "sagemaker", "AnyScaleFrontendService.": "application-autoscaling"}
# Their errors are an ErrorResponse in XML, whatever a request looks like.
XML = ("cloudfront", "iam", "route53", "sts")
# Services whose actions begin with another word than what their clients sign for.
PREFIXES = {"monitoring": "cloudwatch", "email": "ses"}
# Members of IAM's requests that name what the operation is about, before those that are only used in it.
IAM_NAMES = {
    "GroupName": "group",
    "InstanceProfileName": "instance-profile",
    "UserName": "user",
    "RoleName": "role",
}


@dataclass(frozen=True)
class Needs:
    """What one request needs. ``values`` are of condition keys, under lower-case names."""

    permissions: tuple[Permission, ...]
    protocol: Protocol
    values: Values = field(default_factory=dict)
    spellings: tuple[Values, ...] = ({},)
    """Values that stand beside these in turn: all must be allowed."""
    of_resources: Mapping[str, Values] = field(default_factory=dict)
    """Further values where the permission is on this ARN."""
    passed_roles: tuple[str, ...] = ()
    operation: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


def protocol_of(environ: Environ, service: str | None) -> Protocol:
    """What the client expects an error to look like. ``service`` None is an unsigned request."""
    if header(environ, "x-amz-target"):
        return Protocol.JSON
    if service in XML or media_type(environ) == FORM:
        return Protocol.QUERY
    if service == "s3" or (service is None and INVOCATIONS.fullmatch(environ.get("PATH_INFO", "")) is None):
        return Protocol.S3
    return Protocol.REST_JSON


def needs_of(
    environ: Environ,
    signature: Signature,
    body: bytes,
    tags_of: Callable[[str], list[dict[str, str]]],
    arn_of: Callable[[str, str], str | None],
) -> Needs:
    """``body`` may be empty for S3, but of a DeleteObjects. Raises ``Refusal``.

    ``tags_of`` looks an ARN's up; ``arn_of`` one of IAM's by its kind and name.
    """
    protocol = protocol_of(environ, signature.service)
    check_service(signature.service)
    target, path = header(environ, "x-amz-target"), environ.get("PATH_INFO", "")
    for prefix, service in ANSWERED_BY_TARGET.items():
        if target.startswith(prefix) and signature.service != service:
            raise Refusal(Kind.WRONG_SIGNATURE, f"Credential should be scoped to correct service: '{service}'.")
    if signature.service == "s3":
        return _of_s3(environ, signature, body)
    if signature.service == "sagemaker":
        # the path first, as the front has it: whatever X-Amz-Target says
        if match := INVOCATIONS.fullmatch(path):
            return _of_invocation(environ, signature.region, match, tags_of)
        if target:
            named = named_operation(environ, signature, body)
            if target != f"SageMaker.{named.operation}":
                raise Refusal(Kind.INVALID, f"{target!r} is no operation of SageMaker's.")
            return _of_control_plane(named.operation, signature.region, named.body, tags_of)
        return Needs(((f"sagemaker:{path.rpartition('/')[2] or ALL}", ALL),), protocol)
    return _of_another(environ, signature, body, protocol, arn_of)


def _of_s3(environ: Environ, signature: Signature, body: bytes) -> Needs:
    try:
        needed = s3_permissions.permissions(environ, body)
    except s3_permissions.UnreadableRequest:
        raise Refusal(Kind.INVALID, "The request's path or body cannot be understood.") from None
    if isinstance(signature, OldSignature) and s3_permissions.subresources(environ) - set(HmacV1Auth.QSAOfInterest):
        raise Refusal(Kind.INVALID, "Signature version 2 does not sign this subresource: sign with version 4.")
    values: Values = {**s3_permissions.condition_values(environ, signature.is_presigned)}
    return Needs(tuple(needed), Protocol.S3, values)


def _of_invocation(
    environ: Environ, region: str, match: re.Match[str], tags_of: Callable[[str], list[dict[str, str]]]
) -> Needs:
    arn = sagemaker_arn(region, "endpoint", unquote(match["name"]))
    values: Values = _tag_values(tags_of(arn), "aws:resourcetag", "sagemaker:resourcetag")
    for key, name in (
        ("sagemaker:targetmodel", "HTTP_X_AMZN_SAGEMAKER_TARGET_MODEL"),
        ("sagemaker:targetcontainerhostname", "HTTP_X_AMZN_SAGEMAKER_TARGET_CONTAINER_HOSTNAME"),
    ):
        value = environ.get(name)
        if value is not None:
            values[key] = _utf8(value)
    spellings: tuple[Values, ...] = ({},)
    target = values.get("sagemaker:targetmodel")
    if isinstance(target, str) and target.startswith("/"):
        # the same model as without the slash, so that a slash leads past no policy
        spellings = ({}, {"sagemaker:targetmodel": target.lstrip("/")})
    asynchronous = match["kind"] == "async-invocations"
    action = "sagemaker:InvokeEndpointAsync" if asynchronous else "sagemaker:InvokeEndpoint"
    return Needs(((action, arn),), Protocol.REST_JSON, values, spellings)


def _of_control_plane(
    operation: str, region: str, body: bytes, tags_of: Callable[[str], list[dict[str, str]]]
) -> Needs:
    try:
        parameters = json.loads(body or b"{}")
    except ValueError:
        parameters = {}
    if not isinstance(parameters, dict):
        parameters = {}  # whatever it is: it will be refused, with this action's permission
    members = _members("sagemaker", operation)
    if not members.isdisjoint(loose_names(body)):  # moto takes the text for a form first
        raise Refusal(Kind.INVALID, "A value of the request reads like a form with the operation's parameters.")
    # what the operation does not know names no resource of it
    parameters = {name: value for name, value in parameters.items() if name in members}
    arns = []
    for member, kind in SAGEMAKER_NAMES.items():
        # a variant's ModelName is no member of the request itself
        if isinstance(parameters.get(member), str) and not operation.startswith("List"):
            arns.append(sagemaker_arn(region, kind, parameters[member]))
    if isinstance(parameters.get("ResourceArn"), str):
        arn = parameters["ResourceArn"].lower()
        if not _ARN.fullmatch(arn):
            raise Refusal(Kind.INVALID, f"{parameters['ResourceArn']!r} is no ARN of a resource of this account.")
        arns.append(arn)
    match = _KIND_OF_OPERATION.fullmatch(operation)
    if not arns and match and isinstance(parameters.get(f"{match['kind']}Name"), str):
        kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", match["kind"]).lower()
        arns.append(sagemaker_arn(region, kind, parameters[f"{match['kind']}Name"]))
    values: Values = {}
    tags = parameters.get("Tags")
    if isinstance(tags, list) and all(isinstance(tag, dict) and {"Key", "Value"} <= set(tag) for tag in tags):
        values |= _tag_values(tags, "aws:requesttag", "sagemaker:requesttag")
        values["aws:tagkeys"] = tuple(str(tag["Key"]) for tag in tags)
    variants = parameters.get("ProductionVariants")
    if isinstance(variants, list):
        types = [each.get("InstanceType") for each in variants if isinstance(each, dict)]
        values["sagemaker:instancetypes"] = tuple(str(each) for each in types if each)
    if isinstance(parameters.get("EnableNetworkIsolation"), bool):
        values["sagemaker:networkisolation"] = str(parameters["EnableNetworkIsolation"]).lower()
    passed = () if operation.startswith(READS) else tuple(dict.fromkeys(_roles(parameters)))
    needed = tuple((f"sagemaker:{operation}", arn) for arn in arns or [ALL])
    of_resources = {arn: _tag_values(tags_of(arn), "aws:resourcetag", "sagemaker:resourcetag") for arn in arns}
    return Needs(
        needed,
        Protocol.JSON,
        values,
        passed_roles=passed,
        operation=operation,
        parameters=parameters,
        of_resources=of_resources,
    )


def _members(service: str, operation: str) -> frozenset[str]:
    """Of the operation's input. Raises ``Refusal`` of another spelling than the service's: moto folds names."""
    model = service_model(service)
    if operation not in model.operation_names:
        raise Refusal(Kind.INVALID, f"{service} has no operation {operation!r}.")
    shape = model.operation_model(operation).input_shape
    return frozenset(shape.members) if shape is not None else frozenset()


def _roles(parameters: Any) -> Iterator[str]:
    """However deep they are."""
    if isinstance(parameters, list):
        for each in parameters:
            yield from _roles(each)
    elif isinstance(parameters, dict):
        for name, value in parameters.items():
            if isinstance(value, str) and PASSED_ROLES.fullmatch(name):
                yield value
            else:
                yield from _roles(value)


def _of_another(
    environ: Environ,
    signature: Signature,
    body: bytes,
    protocol: Protocol,
    arn_of: Callable[[str, str], str | None],
) -> Needs:
    """Any other service: its operation, on what is known of its resource. What cannot be named needs all of it."""
    named = named_operation(environ, signature, body)
    operation, parameters = named.operation or ALL, named.parameters
    if signature.service in ("iam", "sts") and operation != ALL:
        _members(signature.service, operation)
    if signature.service == "sts" and operation == "AssumeRole":
        resources = [parameters.get("RoleArn", ALL)]
    elif signature.service == "iam" and operation != ALL:
        resources = _iam_arns(operation, parameters, arn_of)
    else:
        resources = [ALL]
    action = f"{PREFIXES.get(signature.service, signature.service)}:{operation}"
    permissions = tuple((action, resource) for resource in resources)
    return Needs(permissions, protocol, operation=operation, parameters=parameters)


def _iam_arns(operation: str, parameters: Mapping[str, str], arn_of: Callable[[str, str], str | None]) -> list[str]:
    """Of the entity that the operation is about, and of what it is called afterwards; all where that is unclear."""
    members = _members("iam", operation)
    for member, kind in IAM_NAMES.items():
        if member not in members:
            continue
        if member not in parameters:
            return [ALL]
        path = parameters.get("Path") or "/"
        made = f"arn:aws:iam::{ACCOUNT}:{kind}{path}{parameters[member]}"
        found = arn_of(kind, parameters[member]) or made
        arns = [found]
        if operation == f"Create{member.removesuffix('Name')}":
            arns.append(made)
        if f"New{member}" in members and ({f"New{member}", "NewPath"} & set(parameters)):
            old_path, _, old_name = found.partition(f":{kind}")[2].rpartition("/")
            name = parameters.get(f"New{member}", old_name)
            arns.append(f"arn:aws:iam::{ACCOUNT}:{kind}{parameters.get('NewPath', old_path + '/')}{name}")
        return list(dict.fromkeys(arns))
    if operation == "CreatePolicy" and "PolicyName" in parameters:
        return [f"arn:aws:iam::{ACCOUNT}:policy{parameters.get('Path') or '/'}{parameters['PolicyName']}"]
    return [parameters["PolicyArn"] if "PolicyArn" in members and "PolicyArn" in parameters else ALL]


def sagemaker_arn(region: str, kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{kind}/{name.lower()}"


def _tag_values(tags: list[dict[str, str]], *keys: str) -> Values:
    return {f"{key}/{tag['Key'].lower()}": tag["Value"] for tag in tags for key in keys}


def _utf8(value: str) -> str:
    """As the data plane reads it: WSGI has Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
