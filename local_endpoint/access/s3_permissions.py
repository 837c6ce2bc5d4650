"""Which permissions an S3 request needs: pairs of an action and the ARN that it is on, and S3's own condition keys."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

from moto.s3.responses import S3Response

from local_endpoint.access.operations import is_form
from local_endpoint.access.signatures import header

Permission = tuple[str, str]
ARN = "arn:aws:s3:::"
ALL = "*"

# What follows Get, Put or Delete in the action of a subresource.
BUCKET_SUBRESOURCES = {
    "accelerate": "AccelerateConfiguration",
    "acl": "BucketAcl",
    "analytics": "AnalyticsConfiguration",
    "cors": "BucketCORS",
    "encryption": "EncryptionConfiguration",
    "intelligent-tiering": "IntelligentTieringConfiguration",
    "inventory": "InventoryConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "location": "BucketLocation",
    "logging": "BucketLogging",
    "metrics": "MetricsConfiguration",
    "notification": "BucketNotification",
    "object-lock": "BucketObjectLockConfiguration",
    "ownershipControls": "BucketOwnershipControls",
    "policy": "BucketPolicy",
    "policyStatus": "BucketPolicyStatus",
    "publicAccessBlock": "BucketPublicAccessBlock",
    "replication": "ReplicationConfiguration",
    "requestPayment": "BucketRequestPayment",
    "tagging": "BucketTagging",
    "versioning": "BucketVersioning",
    "website": "BucketWebsite",
}
# Others are deleted by the permission to put them.
DELETED_BY_NAME = ("policy", "website")
OBJECT_SUBRESOURCES = {
    "acl": "ObjectAcl",
    "legal-hold": "ObjectLegalHold",
    "retention": "ObjectRetention",
    "tagging": "ObjectTagging",
    "torrent": "ObjectTorrent",
}
# The others moto takes for the operation without a subresource.
ANSWERED_OBJECT_SUBRESOURCES = {
    "GET": {"acl", "attributes", "legal-hold", "tagging"},
    "PUT": {"acl", "legal-hold", "retention", "tagging"},
    "DELETE": {"tagging"},
}
_CHANGED_BUCKET_SUBRESOURCES = {
    "cors",
    "encryption",
    "lifecycle",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "tagging",
    "website",
}
ANSWERED_BUCKET_SUBRESOURCES = {
    "GET": _CHANGED_BUCKET_SUBRESOURCES
    | {"accelerate", "acl", "inventory", "location", "logging", "notification", "object-lock", "policyStatus"}
    | {"versioning"},
    "PUT": _CHANGED_BUCKET_SUBRESOURCES
    | {"accelerate", "acl", "inventory", "logging", "notification", "object-lock", "versioning"},
    "DELETE": _CHANGED_BUCKET_SUBRESOURCES,
}
_DOCUMENTS = {*BUCKET_SUBRESOURCES, *OBJECT_SUBRESOURCES, "delete"}
# Condition keys that are parameters of the query, and those that are headers.
QUERY_KEYS = {
    "prefix": "s3:prefix",
    "delimiter": "s3:delimiter",
    "max-keys": "s3:max-keys",
    "versionId": "s3:versionid",
}
HEADER_KEYS = (
    "x-amz-acl",
    "x-amz-copy-source",
    "x-amz-grant-read",
    "x-amz-metadata-directive",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
)


# moto has another service below it.
CONTROL_PATH = "/v20180820/"
_BUCKET = re.compile(r"[A-Za-z0-9._-]*")
# What moto would take for a scheme, a host, a fragment or a path's parameters is no copy source.
_COPY_SOURCE = re.compile(r"/?(?P<path>[A-Za-z0-9._-]+/[^?#;]+)(?P<version>\?versionId=[A-Za-z0-9._~-]+)?")


class UnreadableRequest(Exception):
    """It cannot be said what moto will take the request to be about."""


def bucket_and_key(environ: Mapping[str, Any]) -> tuple[str, str]:
    """As moto finds them in a path that has the bucket (``http.s3_addressing``). Both are empty for the buckets' list.

    Raises ``UnreadableRequest``.
    """
    # moto has the key from what was sent, the kind of operation from what the server decoded
    raw = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    decoded = environ.get("PATH_INFO", "")
    host = environ.get("HTTP_HOST", "")
    if not host or _is_in_host(host) or decoded.startswith(("//", CONTROL_PATH)):
        raise UnreadableRequest
    if not raw.startswith("/") or raw.startswith("//"):
        raise UnreadableRequest
    bucket, _, key = raw[1:].partition("/")
    if not _BUCKET.fullmatch(bucket) or decoded[1:].partition("/")[0] != bucket:
        raise UnreadableRequest
    return bucket, unquote(key)


@functools.lru_cache(1024)
def _is_in_host(host: str) -> bool:
    """Whether moto would look for the bucket there."""
    request = SimpleNamespace(headers={"host": host}, url=f"http://{host}/")
    return bool(S3Response.subdomain_based_buckets(request))


def permissions(environ: Mapping[str, Any], body: bytes) -> list[Permission]:
    """All that are needed. ``body`` is that of a DeleteObjects only. Raises ``UnreadableRequest``."""
    method = environ["REQUEST_METHOD"]
    bucket, key = bucket_and_key(environ)
    query = _query(environ)
    _check_body(environ, method)
    if not bucket:
        return [("s3:ListAllMyBuckets", ALL)]
    if not key:
        return _of_bucket(method, bucket, query, body)
    needed = [(action, f"{ARN}{bucket}/{key}") for action in _of_object(method, query)]
    if method == "PUT":
        for name, action in (("x-amz-acl", "s3:PutObjectAcl"), ("x-amz-tagging", "s3:PutObjectTagging")):
            if header(environ, name) and (action, needed[0][1]) not in needed:
                needed.append((action, needed[0][1]))
        if "HTTP_X_AMZ_COPY_SOURCE" in environ:
            match = _COPY_SOURCE.fullmatch(environ["HTTP_X_AMZ_COPY_SOURCE"])
            if match is None:
                raise UnreadableRequest
            action = "s3:GetObjectVersion" if match["version"] else "s3:GetObject"
            needed.append((action, ARN + unquote(match["path"])))
    return needed


def subresources(environ: Mapping[str, Any]) -> set[str]:
    """That the request names, and what else changes the operation."""
    return set(_query(environ)) & {*BUCKET_SUBRESOURCES, *OBJECT_SUBRESOURCES, "attributes", "restore", "select"}


def _query(environ: Mapping[str, Any]) -> dict[str, str]:
    """moto takes a name's first value, others the last. Raises ``UnreadableRequest`` where there are several."""
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, errors="strict")
    except ValueError:
        raise UnreadableRequest from None
    for name, value in pairs:
        if name in found:
            raise UnreadableRequest
        found[name] = value
    return found


def _check_body(environ: Mapping[str, Any], method: str) -> None:
    """moto looks for parameters in a form, and in the JSON of a body that there should not be."""
    has_body = environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ
    if (has_body and method not in ("PUT", "POST")) or is_form(environ):
        raise UnreadableRequest


def has_document(environ: Mapping[str, Any]) -> bool:
    """Whether the body is a document on permissions or objects, not an object's data."""
    names = {name for name, _ in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)}
    return environ["REQUEST_METHOD"] in ("PUT", "POST") and not names.isdisjoint(_DOCUMENTS)


def condition_values(environ: Mapping[str, Any], is_presigned: bool) -> dict[str, str]:
    """S3's own keys, in lower case."""
    query = _query(environ)
    values = {key: query[name] for name, key in QUERY_KEYS.items() if name in query}
    values |= {f"s3:{name}": header(environ, name) for name in HEADER_KEYS if header(environ, name)}
    values["s3:authtype"] = "REST-QUERY-STRING" if is_presigned else "REST-HEADER"
    values["s3:signatureversion"] = "AWS4-HMAC-SHA256"
    return values


def _of_bucket(method: str, bucket: str, query: Mapping[str, str], body: bytes) -> list[Permission]:
    arn = ARN + bucket
    if method == "POST":
        if "delete" in query:
            return [(action, f"{arn}/{key}") for action, key in _deleted(body)]
        raise UnreadableRequest  # a form: its key is in the body
    # several subresources at once need all of their permissions: whichever is answered
    found = [name for name in query if name in BUCKET_SUBRESOURCES]
    needed = [f"s3:{_verb(method, name)}{BUCKET_SUBRESOURCES[name]}" for name in found]
    answered = not ANSWERED_BUCKET_SUBRESOURCES.get(method, set()).isdisjoint(found)
    if method == "GET":
        if "uploads" in query:
            needed.append("s3:ListBucketMultipartUploads")
        if "versions" in query:
            needed.append("s3:ListBucketVersions")
        answered = answered or "uploads" in query or "versions" in query
    if not answered:
        needed.append({"PUT": "s3:CreateBucket", "DELETE": "s3:DeleteBucket"}.get(method, "s3:ListBucket"))
    return [(action, arn) for action in needed]


def _verb(method: str, subresource: str) -> str:
    if method in ("GET", "HEAD"):
        return "Get"
    return "Delete" if method == "DELETE" and subresource in DELETED_BY_NAME else "Put"


def _of_object(method: str, query: Mapping[str, str]) -> list[str]:
    version = "Version" if query.get("versionId") else ""
    verb = {"GET": "Get", "HEAD": "Get", "PUT": "Put", "DELETE": "Delete", "POST": "Put"}.get(method, "Put")
    found = [name for name in query if name in OBJECT_SUBRESOURCES]
    needed = [f"s3:{verb}{OBJECT_SUBRESOURCES[name].replace('Object', f'Object{version}', 1)}" for name in found]
    answered = not ANSWERED_OBJECT_SUBRESOURCES.get(method, set()).isdisjoint(found)
    if "uploadId" in query and method in ("GET", "DELETE"):
        needed.append("s3:AbortMultipartUpload" if method == "DELETE" else "s3:ListMultipartUploadParts")
        answered = answered or query["uploadId"] != ""
    if method == "POST" and "restore" in query:
        return [*needed, "s3:RestoreObject"]
    if method == "POST" and "select" in query:
        return [*needed, "s3:GetObject"]
    if "attributes" in query:
        needed.append(f"s3:GetObject{version}Attributes")
        answered = False
    if not answered:
        needed.append(f"s3:{verb}Object{version if verb != 'Put' else ''}")
    return needed


def _deleted(body: bytes) -> list[tuple[str, str]]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise UnreadableRequest from None
    found = []
    for each in root.iter():
        if each.tag.rpartition("}")[2] == "Object":
            members = {member.tag.rpartition("}")[2]: member.text or "" for member in each}
            if len(members) < len(each):  # of several moto makes a list
                raise UnreadableRequest
            action = "s3:DeleteObjectVersion" if members.get("VersionId") else "s3:DeleteObject"
            found.append((action, members.get("Key", "")))
    if not found:
        raise UnreadableRequest
    return found
