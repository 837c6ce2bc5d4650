"""The state folder, which outlives a restart: buckets and objects as files, the control plane's records as JSON.

    DIR/lock                          held while a local endpoint uses the folder
    DIR/sagemaker.json                see ``Resources``
    DIR/s3/BUCKET/bucket.json         region and policy
    DIR/s3/BUCKET/HASH.data|.json     one object: its bytes; its key, ETag, content type and metadata

Object versions, tags and what other services hold are not kept. Only folders that this class filled or restored are
ever removed, and a bucket whose name could be a path is not kept at all.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import logging
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.s3.models import FakeDeleteMarker, s3_backends

from local_endpoint.configuration import ACCOUNT, DEFAULT_REGION
from local_endpoint.errors import StateError, StateInUse, StateUnreadable
from local_endpoint.storage.object_files import FileValue, ObjectFiles, copy_file

logger = logging.getLogger(__name__)


# What AWS allows, and capitals and underscores, which it did once. moto takes any text, also ``..``.
BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class StateFolder:
    """``restore`` once, then ``keep_bucket`` after every change of one; ``close`` at the end."""

    def __init__(self, folder: Path) -> None:
        """Raises ``StateError``."""
        self._s3 = folder / "s3"
        self.resources_file = folder / "sagemaker.json"
        try:
            self._s3.mkdir(parents=True, exist_ok=True)
            self._lock_file = (folder / "lock").open("w")
        except OSError as error:
            raise StateError(
                f"{folder} cannot be the state folder ({error.strerror}). Name a folder that can be made and written."
            ) from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise StateInUse(
                f"{folder} is used by another local endpoint that is running. Stop it, or use another folder."
            ) from None
        self._lock = threading.Lock()
        # per bucket: what is on disk, as hash of the key -> ETag and time of the change
        self._kept: dict[str, dict[str, str]] = {}

    @staticmethod
    def _backend() -> Any:
        return s3_backends[ACCOUNT]["aws"]

    def restore(self, files: ObjectFiles) -> None:
        """Puts every bucket and object back into moto. Raises ``StateUnreadable``."""
        for folder in sorted(each for each in self._s3.iterdir() if (each / "bucket.json").exists()):
            with _understood(folder / "bucket.json"):
                about = json.loads((folder / "bucket.json").read_text())
                bucket = self._backend().create_bucket(folder.name, about["region"])
                if about["policy"] is not None:
                    bucket.policy = about["policy"].encode()
            kept = self._kept.setdefault(folder.name, {})
            for record_file in sorted(set(folder.glob("*.json")) - {folder / "bucket.json"}):
                with _understood(record_file):
                    kept[record_file.stem] = _version(self._restore_object(folder.name, record_file, files))

    def _restore_object(self, bucket: str, record_file: Path, files: ObjectFiles) -> Any:
        """moto's key."""
        record = json.loads(record_file.read_text())
        path = files.new_path()
        copy_file(record_file.with_suffix(".data"), path)
        key = self._backend().put_object(
            bucket,
            record["key"],
            FileValue(path, owns_file=True),
            storage=record["storage"],
            etag=record["etag"],
        )
        key.set_metadata(dict(record["metadata"]))
        key.last_modified = datetime.datetime.fromisoformat(record["modified"])
        return key

    def keep_bucket(self, name: str) -> None:
        """Makes the folder of bucket ``name`` what the bucket is now."""
        with self._lock:
            bucket = self._backend().buckets.get(name)
            if not BUCKET_NAME.fullmatch(name):
                if bucket is not None:
                    logger.warning("bucket %r is not kept in the state folder: AWS allows no such name", name)
                return
            folder = self._s3 / name
            if bucket is None:
                if self._kept.pop(name, None) is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                return
            folder.mkdir(exist_ok=True)
            policy = bucket.policy.decode() if isinstance(bucket.policy, bytes) else bucket.policy
            about = {"region": bucket.region_name or DEFAULT_REGION, "policy": policy}
            _write_json(folder / "bucket.json", about)
            kept = self._kept.setdefault(name, {})
            current = {
                hashlib.sha256(key.name.encode("utf-8", "surrogateescape")).hexdigest(): key
                for key in list(bucket.keys.values())
                if not isinstance(key, FakeDeleteMarker)
            }
            for digest in set(kept) - set(current):
                (folder / f"{digest}.json").unlink(missing_ok=True)
                (folder / f"{digest}.data").unlink(missing_ok=True)
                del kept[digest]
            for digest, key in current.items():
                version = _version(key)
                if kept.get(digest) != version:
                    with key.lock:
                        key._value_buffer.save(folder / f"{digest}.data")
                    record = {
                        "key": key.name,
                        "etag": key.etag.strip('"'),
                        "storage": key.storage_class,
                        "metadata": dict(key.metadata),
                        "modified": key.last_modified.isoformat(),
                    }
                    _write_json(folder / f"{digest}.json", record)
                    kept[digest] = version

    def close(self) -> None:
        self._lock_file.close()


@contextlib.contextmanager
def _understood(file: Path) -> Iterator[None]:
    """Whatever goes wrong inside, moto's refusals included, is the fault of ``file``: raises ``StateUnreadable``."""
    try:
        yield
    except Exception as error:
        raise StateUnreadable(f"{file} cannot be understood ({error!r}). Remove it, or restore it.") from None


def _version(key: Any) -> str:
    return f"{key.etag} {key.last_modified.isoformat()}"


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


class KeepingS3:
    """A WSGI application around moto that keeps a bucket after every request that may have changed it."""

    def __init__(self, moto: Any, state: StateFolder) -> None:
        self._moto = moto
        self._state = state

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        answer = self._moto(environ, start_response)
        bucket = self._changed_bucket(environ)
        if bucket:
            try:
                self._state.keep_bucket(bucket)
            except Exception:
                logger.exception("bucket %s could not be kept in the state folder", bucket)
        return answer

    @staticmethod
    def _changed_bucket(environ: dict[str, Any]) -> str | None:
        if environ.get("REQUEST_METHOD") not in ("PUT", "POST", "DELETE"):
            return None
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        if authorization and "/s3/aws4_request" not in authorization:
            return None
        # AWS SDKs name the bucket in the path for an address without domain name
        bucket: str = environ.get("PATH_INFO", "").removeprefix("/").partition("/")[0]
        return bucket or None


def reset_moto() -> None:
    """Empties all of moto's back ends: its state is global, and a local endpoint starts from nothing or its folder."""
    BackendDict.reset()
    reset_model_data()
