"""Reads artifacts from S3: straight from moto's WSGI application, without a socket or one of the server's threads.

(An invocation holds a server thread while it waits for a download; a download that needed one too could starve.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from moto.s3.models import FakeDeleteMarker, s3_backends
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, run_wsgi_app

from local_endpoint.configuration import ACCOUNT, DEFAULT_REGION
from local_endpoint.storage.location import S3Location


class ObjectUnavailable(Exception):
    """S3 refused: ``status`` is 404 (no such object or bucket), 403 (not allowed) or whatever else it answered."""

    def __init__(self, location: S3Location, status: int) -> None:
        super().__init__(f"{location.url}: S3 answered {status}")
        self.status = status


class ObjectReader:
    """Reads objects and looks buckets up, as the endpoint's execution role would (see ``as_role``)."""

    def __init__(
        self,
        s3_application: Any,
        role_may: Callable[[str | None, str, str, str], bool] | None = None,
        role: str | None = None,
    ) -> None:
        """``role_may`` is asked with the role, the action, the bucket and the key; None lets every role do it."""
        self._application = s3_application
        self._role_may = role_may
        self._role = role

    def as_role(self, role: str | None) -> ObjectReader:
        """The same for this role, by its ARN."""
        return ObjectReader(self._application, self._role_may, role)

    def _check_role(self, location: S3Location, action: str = "s3:GetObject") -> None:
        if self._role_may is not None and not self._role_may(self._role, action, location.bucket, location.key):
            raise ObjectUnavailable(location, 403)

    def _request(self, method: str, path: str, data: bytes = b"") -> tuple[int, dict[str, str], Iterator[bytes]]:
        scope = f"20200101/{DEFAULT_REGION}/s3/aws4_request"
        authorization = f"AWS4-HMAC-SHA256 Credential=LOCALENDPOINT/{scope}, SignedHeaders=host, Signature=0"
        headers = Headers({"Authorization": authorization})
        environ = EnvironBuilder(
            path=path, method=method, headers=headers, data=data, base_url="http://127.0.0.1"
        ).get_environ()
        # moto takes the undecoded path from here
        environ["REQUEST_URI"] = environ["RAW_URI"] = path
        body, status, response_headers = run_wsgi_app(self._application, environ)
        return int(status.split()[0]), dict(response_headers), iter(body)

    def size_bytes(self, location: S3Location) -> int:
        """Raises ``ObjectUnavailable``."""
        self._check_role(location)
        status, headers, _ = self._request("HEAD", f"/{location.bucket}/{quote(location.key)}")
        if status != 200:
            raise ObjectUnavailable(location, status)
        return int(headers.get("Content-Length") or headers.get("content-length") or 0)

    def read(self, location: S3Location) -> Iterator[bytes]:
        """The object in pieces. Raises ``ObjectUnavailable`` before the first."""
        self._check_role(location)
        status, _, body = self._request("GET", f"/{location.bucket}/{quote(location.key)}")
        if status != 200:
            raise ObjectUnavailable(location, status)
        return body

    def check_readable(self, location: S3Location) -> None:
        """Raises ``ObjectUnavailable``. (S3 has policies on reading an object, moto none on asking for its size.)"""
        body = self.read(location)
        close = getattr(body, "close", None)
        if close is not None:
            close()

    def bucket_exists(self, bucket: str) -> bool:
        return self._request("HEAD", f"/{bucket}")[0] == 200

    def below(self, prefix: S3Location) -> list[S3Location]:
        """All objects whose key begins with the prefix's, in order; those that only name a folder are left out.

        Raises ``ObjectUnavailable``.
        """
        self._check_role(prefix, "s3:ListBucket")
        bucket = s3_backends[ACCOUNT]["aws"].buckets.get(prefix.bucket)
        keys = [] if bucket is None else [name for name, its in bucket.keys.items() if not _is_deleted(its)]
        found = sorted(name for name in keys if name.startswith(prefix.key) and not name.endswith("/"))
        return [S3Location(prefix.bucket, name) for name in found]

    def exists(self, location: S3Location) -> bool:
        """For the local endpoint itself: no role is asked."""
        bucket = s3_backends[ACCOUNT]["aws"].buckets.get(location.bucket)
        return bucket is not None and location.key in bucket.keys and not _is_deleted(bucket.keys[location.key])

    def write(self, location: S3Location, data: bytes) -> None:
        """Puts an object. Raises ``ObjectUnavailable``."""
        self._check_role(location, "s3:PutObject")
        status, _, _ = self._request("PUT", f"/{location.bucket}/{quote(location.key)}", data)
        if status != 200:
            raise ObjectUnavailable(location, status)


def _is_deleted(key: Any) -> bool:
    return isinstance(key, FakeDeleteMarker)
