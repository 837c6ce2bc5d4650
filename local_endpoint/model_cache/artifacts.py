"""One instance's disk: fetches model archives from S3 and unpacks them into ``<base>/models/<name>/model``."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from local_endpoint.configuration import Limits
from local_endpoint.errors import AwsError, ContainerGone, validation_error
from local_endpoint.model_cache.archives import DISK_FULL, BadArchive, extract
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.objects import ObjectReader, ObjectUnavailable


def download_refused(location: S3Location) -> AwsError:
    return validation_error(
        f"Failed to download model data(bucket: {location.bucket}, key: {location.key}). Please ensure that there is "
        "an object located at the URL and that the role passed to CreateModel has permissions to download the model."
    )


def extraction_refused(location: S3Location, reason: BadArchive) -> AwsError:
    return validation_error(
        f'Failed to extract model data archive from URL "{location.url}". Please ensure that the object located at '
        f"the URL is a valid tar.gz archive. Reason: {reason}."
    )


def larger_than_disk(location: S3Location, archive_bytes: int, disk_bytes: int) -> AwsError:
    return validation_error(
        f"Failed to download model data(bucket: {location.bucket}, key: {location.key}): the archive has "
        f"{archive_bytes:,} bytes, and the instance's disk {disk_bytes:,}. Give the production variant a larger "
        "VolumeSizeInGB."
    )


DISK_FULL_CODE = "InsufficientStorage"


@contextlib.contextmanager
def told_if_full(location: S3Location, folder: Path) -> Iterator[None]:
    """AWS has no such error: an instance's disk is its own, and this machine's may be full of other things."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise AwsError(
            DISK_FULL_CODE,
            507,
            f"Failed to download model data(bucket: {location.bucket}, key: {location.key}): the disk is full "
            f"({error.strerror}) in {folder}. Free space there, or start the local endpoint where there is more "
            "(TMPDIR).",
        ) from None


class ArtifactStore:
    """Fetches and removes; which artifact is kept or dropped is the cache's decision. Safe to use from many threads."""

    def __init__(self, base_dir: Path, objects: ObjectReader, limits: Limits, disk_bytes: int) -> None:
        self._base_dir = base_dir
        self._objects = objects
        self._limit_bytes = min(limits.archive_bytes, disk_bytes)
        self._limit_members = limits.archive_members
        self._closed = threading.Event()
        self._downloads_dir = base_dir / "downloads"
        self._downloads_dir.mkdir(parents=True, exist_ok=True)
        (base_dir / "models").mkdir(exist_ok=True)
        (base_dir / "models").chmod(0o755)  # the container may have another user, and we any umask

    def archive_bytes(self, location: S3Location) -> int:
        """Size of the archive as S3 has it. Raises ``AwsError`` (ValidationError) for 403 and 404."""
        try:
            return self._objects.size_bytes(location)
        except ObjectUnavailable:
            raise download_refused(location) from None

    def fetch(self, location: S3Location, folder: Path, deadline_s: float) -> int:
        """Downloads and unpacks into ``folder``, which appears at once and whole; returns the unpacked bytes.

        Raises ``AwsError``; after ``deadline_s`` (monotonic) ``TimeoutError``, and after ``close`` ``ContainerGone``.
        """
        with told_if_full(location, self._downloads_dir):
            return self._fetch(location, folder, deadline_s)

    def _fetch(self, location: S3Location, folder: Path, deadline_s: float) -> int:
        def check() -> None:
            if self._closed.is_set():
                raise ContainerGone("the instance was ended")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{location.url} was not downloaded and unpacked in time")

        unpacked = Path(tempfile.mkdtemp(prefix="unpacked-", dir=self._downloads_dir))
        try:
            with tempfile.TemporaryFile(dir=self._downloads_dir) as archive:
                try:
                    for piece in self._objects.read(location):
                        archive.write(piece)
                        check()
                except ObjectUnavailable:
                    raise download_refused(location) from None
                archive.seek(0)
                try:
                    size = extract(archive, unpacked, self._limit_bytes, self._limit_members, check)
                except BadArchive as error:
                    raise extraction_refused(location, error) from None
            unpacked.chmod(0o755)
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.parent.chmod(0o755)
            self._clear(folder)
            unpacked.replace(folder)
            return size
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)

    def close(self) -> None:
        """Has every ``fetch`` that is under way end soon."""
        self._closed.set()

    def model_folder(self, name: str) -> Path:
        return self._base_dir / "models" / name / "model"

    def remove(self, name: str) -> None:
        self._clear(self._base_dir / "models" / name)

    def _clear(self, folder: Path) -> None:
        """Makes way for the next artifact.

        A container that runs as root may have written below it, and we may not be root: what cannot be removed is put
        aside, where the container does not see it, until the instance ends.
        """
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            aside = Path(tempfile.mkdtemp(prefix="left-", dir=self._downloads_dir))
            folder.replace(aside / folder.name)
