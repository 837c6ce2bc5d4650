"""Where model artifacts are: ModelDataUrl in its forms, and a target model below a prefix."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

# s3.amazonaws.com  s3-REGION.amazonaws.com  s3.REGION.amazonaws.com  s3.dualstack.REGION.amazonaws.com, also s3-fips
_HOST = r"s3(?:-fips)?(?:\.dualstack)?(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?"
_PATH_STYLE = re.compile(_HOST)  # HOST/BUCKET/…
_HOST_STYLE = re.compile(rf"(?P<bucket>.+)\.{_HOST}")  # BUCKET.HOST/…


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key, or the prefix of keys. A key is plain text: ``..`` in it never climbs."""

    bucket: str
    key: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @classmethod
    def parse(cls, url: str) -> S3Location:
        """Understands ``s3://BUCKET/KEY`` and S3's https addresses of both styles. Raises ``ValueError``."""
        parts = urlsplit(url)
        if parts.scheme == "s3" and parts.netloc:
            # an s3 URL is not percent-encoded; urlsplit would cut a key at ? or #
            return cls(parts.netloc, url.split("/", 3)[3] if url.count("/") >= 3 else "")
        if parts.scheme in ("https", "http"):
            path = unquote(parts.path.removeprefix("/"))
            if _PATH_STYLE.fullmatch(parts.netloc):
                bucket, _, key = path.partition("/")
                if bucket:
                    return cls(bucket, key)
            elif match := _HOST_STYLE.fullmatch(parts.netloc):
                return cls(match["bucket"], path)
        raise ValueError(
            f"{url} is not the address of something in S3 (s3://BUCKET/KEY or https://s3-REGION…/BUCKET/KEY)"
        )


@dataclass(frozen=True)
class TargetModel:
    """One artifact of a multi-model endpoint.

    ``name`` is what the container and the file system see: opaque, made of the location alone, so that no text
    of a caller ever becomes part of a path.
    """

    target: str
    location: S3Location
    name: str

    @classmethod
    def below(cls, prefix: S3Location, target: str) -> TargetModel:
        """``target`` below ``prefix``, joined as text by one slash, whether or not either brings it."""
        target = target.removeprefix("/")
        start = prefix.key if not prefix.key or prefix.key.endswith("/") else prefix.key + "/"
        location = S3Location(prefix.bucket, start + target)
        digest = hashlib.sha256(f"{location.bucket}\0{location.key}".encode("utf-8", "surrogateescape")).hexdigest()
        return cls(target, location, digest[:32])
