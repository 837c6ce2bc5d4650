"""Which operation a request to another service than S3 names, read as moto reads it; what is ambiguous is refused.

moto takes the operation from the body's form, the query or X-Amz-Target, whichever it finds first, and takes text for a
form that is none. So a request must name one operation in one way, and no parameter twice.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from local_endpoint.access.refusals import Kind, Refusal
from local_endpoint.access.signatures import Signature, header

FORM = "application/x-www-form-urlencoded"
_DOCUMENTS = re.compile(r"application/(?:json|cbor|x-amz-json-1\.[01]|x-amz-cbor-1\.[01])")
_NAME = re.compile(r"[A-Za-z0-9]+")
_RPC_PATH = re.compile(r"/service/\w+/operation/(?P<operation>\w+)")
# moto takes a body apart that is a form, whatever the service.
_FORMS = (FORM, "multipart/form-data", "application/x-url-encoded")
_INFLATED_BYTES = 64 * 1024 * 1024
# What clients sign for, by how the service's operations are named (botocore's models of the services that moto has).
_QUERY = (
    "autoscaling cloudformation ec2 elasticache elasticbeanstalk elasticloadbalancing email iam monitoring rds "
    "redshift sdb ses sns sqs sts"
)
_TARGET = (
    "acm acm-pca aoss application-autoscaling athena aws-marketplace bedrock budgets ce cloudhsm cloudtrail "
    "codebuild codecommit codedeploy codepipeline cognito-identity cognito-idp comprehend config datapipeline "
    "datasync dax directconnect dms ds dynamodb ec2-instance-connect ecr ecs elasticmapreduce events firehose "
    "forecast fsx glue identitystore kinesis kinesisanalytics kms logs mediastore memorydb monitoring network- "
    "firewall organizations payment-cryptography personalize redshift-data rekognition route53domains "
    "route53resolver sagemaker secretsmanager servicecatalog servicediscovery servicequotas shield sqs ssm sso "
    "states support swf tagging textract timestream timestream-influxdb transcribe transfer wafv2 workspaces"
)
_PATH = (
    "account aidevops apigateway appconfig appmesh appsync aps aws-marketplace backup batch bedrock bedrock- "
    "agentcore cleanrooms clouddirectory cloudfront connect connect-campaigns databrew dsql ebs eks "
    "elasticfilesystem emr-containers emr-serverless es execute-api fis glacier greengrass guardduty inspector2 iot "
    "iotdata ivs kafka kinesisvideo lakeformation lambda lex macie2 managedblockchain mediaconnect medialive "
    "mediapackage mediapackagev2 mediastore mobiletargeting mq networkmanager osis payment-cryptography personalize "
    "pipes polly quicksight ram rds-data resiliencehub resource-groups route53 sagemaker scheduler securityhub "
    "servicecatalog ses signer synthetics vpc-lattice workspaces-web xray"
)
QUERY, TARGET, PATH = frozenset(_QUERY.split()), frozenset(_TARGET.split()), frozenset(_PATH.split())
SERVICES = QUERY | TARGET | PATH | {"s3"}


@dataclass(frozen=True)
class Named:
    """``operation`` is empty where the method and the path name it."""

    operation: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of a form."""
    body: bytes = b""
    """Inflated."""


def check_service(service: str) -> None:
    """moto matches names in its own ways (``STS``, ``iam.x``). Raises ``Refusal`` but for clients' own names."""
    if service not in SERVICES:
        raise Refusal(Kind.WRONG_SIGNATURE, f"Credential should be scoped to a service of this endpoint: {service!r}.")


def media_type(environ: Mapping[str, Any]) -> str:
    return header(environ, "content-type").partition(";")[0].strip().lower()


def is_form(environ: Mapping[str, Any]) -> bool:
    return media_type(environ) in _FORMS


def named_operation(environ: Mapping[str, Any], signature: Signature, body: bytes) -> Named:
    """Raises ``Refusal``."""
    body = _inflated(environ, body)
    query = _pairs(environ.get("QUERY_STRING", ""))
    if signature.is_presigned:
        query = {name: value for name, value in query.items() if not name.startswith("X-Amz-")}
    if "HTTP_ACTION" in environ:  # moto looks there, too
        raise Refusal(Kind.INVALID, "An operation is not named by a header Action.")
    media, service = media_type(environ), signature.service
    target = header(environ, "x-amz-target")
    rpc = _RPC_PATH.fullmatch(environ.get("PATH_INFO", ""))
    if target or rpc:
        if service not in TARGET or (target and rpc):
            raise Refusal(Kind.INVALID, f"{service} takes no operation of X-Amz-Target.")
        if body and not _DOCUMENTS.fullmatch(media):
            raise Refusal(Kind.INVALID, f"The body of an operation of X-Amz-Target is JSON or CBOR, not {media!r}.")
        # moto looks for a form in the text of a body that is none
        if "Action" in query or (body and "Action" in loose_names(body)):
            raise Refusal(Kind.INVALID, "The request names an operation by X-Amz-Target, and by Action.")
        return Named(_checked(target.rpartition(".")[2] if target else rpc["operation"] if rpc else ""), {}, body)
    if service in QUERY and media == FORM and body:
        if query:
            raise Refusal(Kind.INVALID, "Parameters are in the body or in the query, not in both.")
        query = _pairs(_text(body))
    elif media in _FORMS and body:
        raise Refusal(Kind.INVALID, f"The body's Content-Type must not be {media!r}.")
    elif service in QUERY and service not in PATH and body:
        raise Refusal(Kind.INVALID, f"The body's Content-Type must be {FORM!r}, not {media!r}.")
    if "Action" not in query:
        return Named("", query, body)
    if service not in QUERY:
        raise Refusal(Kind.INVALID, f"{service} takes no operation of a parameter Action.")
    return Named(_checked(query["Action"]), query, body)


def _checked(operation: str) -> str:
    """moto folds names: ``delete_user`` is DeleteUser to it."""
    if not _NAME.fullmatch(operation):
        raise Refusal(Kind.INVALID, f"{operation!r} is no name of an operation.")
    return operation


def _pairs(text: str) -> dict[str, str]:
    """moto takes a name's first value, others the last."""
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refusal(Kind.INVALID, "The request's parameters are not UTF-8.") from None
    for name, value in pairs:
        if name in found:
            raise Refusal(Kind.INVALID, f"The request has the parameter {name} twice.")
        found[name] = value
    return found


def loose_names(body: bytes) -> set[str]:
    return {name for name, _ in parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)}


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(Kind.INVALID, "The request's parameters are not UTF-8.") from None


def _inflated(environ: Mapping[str, Any], body: bytes) -> bytes:
    """moto inflates bodies: SDKs compress long lists of metrics."""
    encoding = header(environ, "content-encoding")
    if encoding in ("", "identity", "amz-1.0") or not body:
        return body
    if encoding != "gzip":
        raise Refusal(Kind.INVALID, f"The body's Content-Encoding must be gzip, not {encoding!r}.")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(body, _INFLATED_BYTES)
    except zlib.error:
        raise Refusal(Kind.INVALID, "The body is not gzip, as its Content-Encoding says.") from None
    if not inflater.eof or inflater.unused_data:
        raise Refusal(Kind.INVALID, "The body is more than one gzip member, or a part of one, or too large.")
    return inflated
