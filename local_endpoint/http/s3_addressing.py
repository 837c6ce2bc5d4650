"""S3 names a bucket in the path (``/BUCKET/KEY``) or in the host (``BUCKET.HOST``); behind the front it is the path.

moto takes the first label of any dotted host for a bucket (``box.lan`` would be the bucket "box"), and the state folder
goes by paths.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs

from local_endpoint.http.origin_policy import OriginPolicy, bare_host

Environ = dict[str, Any]
SCOPE = re.compile(r"/(?P<service>[^/]*)/aws4_request")
NEUTRAL_HOST = "localhost"  # in which moto looks for no bucket
RAW_PATHS = ("REQUEST_URI", "RAW_URI")


def by_path(environ: Environ, origin_policy: OriginPolicy) -> Environ:
    """The request with its bucket in the path, and a host without one; any other than S3's as it is."""
    host = environ.get("HTTP_HOST", "")
    bare = bare_host(host)
    base = origin_policy.base_of(host)
    bucket = bare.removesuffix(base).removesuffix(".") if base is not None else ""
    if not _is_s3(environ, bool(bucket)):
        return environ
    port = host.rpartition(":")[2] if host.rpartition(":")[2].isdigit() and base is not None else ""
    changed = {**environ, "HTTP_HOST": f"{NEUTRAL_HOST}:{port}" if port else NEUTRAL_HOST}
    if base is None:
        changed["HTTP_HOST"] = host  # an address
    if bucket:
        path = environ.get("PATH_INFO", "")
        changed["PATH_INFO"] = f"/{bucket}{path}" if path.startswith("/") else f"/{bucket}/{path}"
        for name in RAW_PATHS:
            raw = environ.get(name)
            if raw is not None:
                changed[name] = _with_bucket(raw, bucket)
    return changed


def _with_bucket(raw: str, bucket: str) -> str:
    if raw.startswith("/"):
        return f"/{bucket}{raw}"
    # absolute form: http://HOST/KEY
    scheme, separator, rest = raw.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority}/{bucket}{slash}{path}" if separator else f"/{bucket}/{raw}"


def _is_s3(environ: Environ, names_bucket: bool) -> bool:
    scope = SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
    if scope is not None:
        return scope["service"] == "s3"
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if "X-Amz-Credential" in query:
        return query["X-Amz-Credential"][0].endswith("/s3/aws4_request")
    if "HTTP_X_AMZ_TARGET" in environ or "Action" in query:
        return False
    # an old signed address, or one of a bucket that everybody may read
    return "AWSAccessKeyId" in query or names_bucket
