"""Which permissions an S3 request needs: pairs of an action and the ARN that it is on, and S3's own condition keys."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

from moto.s3.responses import S3Response
from moto.s3.utils import bucket_name_from_url

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


class UnreadableRequest(Exception):
    """It cannot be said what the request is about: a path that begins with //, or a DeleteObjects without its XML."""


def bucket_and_key(environ: Mapping[str, Any]) -> tuple[str, str]:
    """As moto finds them, in the host's name or in the path. Both are empty for the list of buckets."""
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "surrogateescape").lstrip("/")
    of_host = _bucket_of_host(environ.get("HTTP_HOST", ""))
    if of_host is not None:
        return of_host, path
    bucket, _, key = path.partition("/")
    return bucket, key


@functools.lru_cache(1024)
def _bucket_of_host(host: str) -> str | None:
    """None where the path has the bucket. Only here moto is asked what it would do."""
    request = SimpleNamespace(headers={"host": host}, url=f"http://{host}/")
    if not S3Response.subdomain_based_buckets(request):
        return None
    return bucket_name_from_url(f"http://{host}/") or ""


def permissions(environ: Mapping[str, Any], body: bytes) -> list[Permission]:
    """All that are needed. ``body`` is that of a DeleteObjects only. Raises ``UnreadableRequest``."""
    method = environ["REQUEST_METHOD"]
    if environ.get("PATH_INFO", "").startswith("//"):
        raise UnreadableRequest
    bucket, key = bucket_and_key(environ)
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    if not bucket:
        return [("s3:ListAllMyBuckets", ALL)]
    if not key:
        return _of_bucket(method, bucket, query, body)
    needed = [(action, f"{ARN}{bucket}/{key}") for action in _of_object(method, query)]
    if method == "PUT":
        for name, action in (("x-amz-acl", "s3:PutObjectAcl"), ("x-amz-tagging", "s3:PutObjectTagging")):
            if header(environ, name) and (action, needed[0][1]) not in needed:
                needed.append((action, needed[0][1]))
        source = header(environ, "x-amz-copy-source")
        if source:
            source, _, version = unquote(source).removeprefix("/").partition("?versionId=")
            needed.append(("s3:GetObjectVersion" if version else "s3:GetObject", ARN + source))
    return needed


def has_document(environ: Mapping[str, Any]) -> bool:
    """Whether the body is a document on permissions or objects, not an object's data."""
    names = {name for name, _ in parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)}
    return environ["REQUEST_METHOD"] in ("PUT", "POST") and not names.isdisjoint(_DOCUMENTS)


def condition_values(environ: Mapping[str, Any], is_presigned: bool) -> dict[str, str]:
    """S3's own keys, in lower case."""
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
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
        return [("s3:PutObject", f"{arn}/{ALL}")]  # a form: its key is in the body
    # several subresources at once need all of their permissions: whichever is answered
    found = [name for name in query if name in BUCKET_SUBRESOURCES]
    if found:
        return [(f"s3:{_verb(method, name)}{BUCKET_SUBRESOURCES[name]}", arn) for name in found]
    if method in ("GET", "HEAD"):
        if "uploads" in query:
            return [("s3:ListBucketMultipartUploads", arn)]
        return [("s3:ListBucketVersions" if "versions" in query else "s3:ListBucket", arn)]
    return [("s3:CreateBucket" if method == "PUT" else "s3:DeleteBucket", arn)]


def _verb(method: str, subresource: str) -> str:
    if method in ("GET", "HEAD"):
        return "Get"
    return "Delete" if method == "DELETE" and subresource in DELETED_BY_NAME else "Put"


def _of_object(method: str, query: Mapping[str, str]) -> list[str]:
    version = "Version" if query.get("versionId") else ""
    verb = {"GET": "Get", "HEAD": "Get", "PUT": "Put", "DELETE": "Delete", "POST": "Put"}.get(method, "Put")
    found = [OBJECT_SUBRESOURCES[name] for name in query if name in OBJECT_SUBRESOURCES]
    if found:
        return [f"s3:{verb}{name.replace('Object', f'Object{version}', 1)}" for name in found]
    if "uploadId" in query and method in ("GET", "HEAD", "DELETE"):
        return ["s3:AbortMultipartUpload" if method == "DELETE" else "s3:ListMultipartUploadParts"]
    if method == "POST" and "restore" in query:
        return ["s3:RestoreObject"]
    if method == "POST" and "select" in query:
        return ["s3:GetObject"]
    if "attributes" in query:
        return [f"s3:Get{'Object'}{version}Attributes", f"s3:GetObject{version}"]
    return [f"s3:{verb}Object{version if verb != 'Put' else ''}"]


def _deleted(body: bytes) -> list[tuple[str, str]]:
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise UnreadableRequest from None
    found = []
    for each in root.iter():
        if each.tag.rpartition("}")[2] == "Object":
            members = {member.tag.rpartition("}")[2]: member.text or "" for member in each}
            action = "s3:DeleteObjectVersion" if members.get("VersionId") else "s3:DeleteObject"
            found.append((action, members.get("Key", "")))
    if not found:
        raise UnreadableRequest
    return found
