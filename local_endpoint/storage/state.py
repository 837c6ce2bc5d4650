"""The state folder, which outlives a restart: buckets and objects as files, the control plane's records as JSON.

    DIR/lock                        held while a local endpoint uses the folder
    DIR/sagemaker.json              see ``Resources``
    DIR/s3/BUCKET/bucket.json       region and policy
    DIR/s3/BUCKET/HASH.json         one object: its key, ETag, content type and metadata, and the name of its data
    DIR/s3/BUCKET/HASH-NUMBER.data  its bytes; (HASH.data where an earlier release kept it)

HASH is of the key. An object is replaced by one rename, that of its record: data without a record that names it is what
a crash left, and is removed.

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
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs

from moto.core.base_backend import BackendDict
from moto.core.common_models import BaseModel
from moto.core.model_instances import reset_model_data
from moto.s3.models import FakeDeleteMarker, s3_backends

from local_endpoint.configuration import ACCOUNT, DEFAULT_REGION
from local_endpoint.errors import StateError, StateInUse, StateUnreadable
from local_endpoint.storage.object_files import FileValue, ObjectFiles, StorageFull, copy_file

logger = logging.getLogger(__name__)


# What AWS allows, and capitals and underscores, which it did once. moto takes any text, also ``..``.
BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
DATA_NAME = re.compile(r"[0-9a-f]{64}-[0-9a-f]{16}\.data(\.new)?")


@dataclass(frozen=True)
class _Kept:
    """What is on disk of one object. ``version`` is its ETag and the time of its change."""

    version: str
    record_file: Path
    data_file: Path

    def remove(self) -> None:
        self.record_file.unlink(missing_ok=True)  # first: without it the data is nobody's
        self.data_file.unlink(missing_ok=True)


class StateFolder:
    """``restore`` once, then ``keep_object`` or ``keep_bucket`` after every change; ``close`` at the end."""

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
        self._kept: dict[str, dict[str, _Kept]] = {}  # by bucket and key

    @staticmethod
    def _backend() -> Any:
        return s3_backends[ACCOUNT]["aws"]

    # ---- restoring ----

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
                    record = json.loads(record_file.read_text())
                    data_file = folder / Path(record.get("data", f"{record_file.stem}.data")).name
                    key = self._restore_object(folder.name, record, data_file, files)
                    kept[record["key"]] = _Kept(_version(key), record_file, data_file)
            used = {each.data_file for each in kept.values()}
            for leftover in [each for each in folder.iterdir() if DATA_NAME.fullmatch(each.name) and each not in used]:
                leftover.unlink()

    def _restore_object(self, bucket: str, record: dict[str, Any], data_file: Path, files: ObjectFiles) -> Any:
        """moto's key."""
        path = files.new_path()
        copy_file(data_file, path)
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

    # ---- keeping ----

    def keep_object(self, bucket_name: str, key_name: str) -> None:
        """Makes what is kept of one object what it is now. Costs the same however many objects the bucket has."""
        with self._lock:
            bucket = self._backend().buckets.get(bucket_name)
            kept = self._kept.get(bucket_name)
            if bucket is not None and kept is not None:
                key = bucket.keys.get(key_name)
                if isinstance(key, FakeDeleteMarker):
                    key = None
                if key is not None or key_name in kept:
                    self._keep(self._s3 / bucket_name, kept, key_name, key)
                    return
        # a new bucket, or moto has another idea of the key's name
        self.keep_bucket(bucket_name)

    def keep_bucket(self, name: str) -> None:
        """Makes the folder of bucket ``name`` what the bucket is now, all of its objects included."""
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
            current = {key.name: key for key in list(bucket.keys.values()) if not isinstance(key, FakeDeleteMarker)}
            for key_name in {*kept, *current}:
                self._keep(folder, kept, key_name, current.get(key_name))

    @staticmethod
    def _keep(folder: Path, kept: dict[str, _Kept], key_name: str, key: Any) -> None:
        """``key`` is moto's, None where the object is gone. Call it holding the lock."""
        before = kept.get(key_name)
        if key is None:
            if before is not None:
                del kept[key_name]
                before.remove()
            return
        version = _version(key)
        if before is not None and before.version == version:
            return
        digest = hashlib.sha256(key_name.encode("utf-8", "surrogateescape")).hexdigest()
        now = _Kept(version, folder / f"{digest}.json", folder / f"{digest}-{secrets.token_hex(8)}.data")
        with key.lock:
            key._value_buffer.save(now.data_file)
        record = {
            "key": key_name,
            "etag": key.etag.strip('"'),
            "storage": key.storage_class,
            "metadata": dict(key.metadata),
            "modified": key.last_modified.isoformat(),
            "data": now.data_file.name,
        }
        _write_json(now.record_file, record)
        kept[key_name] = now
        if before is not None:
            before.data_file.unlink(missing_ok=True)

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
    """A WSGI application around moto that keeps what a request may have changed."""

    def __init__(self, moto: Any, state: StateFolder) -> None:
        self._moto = moto
        self._state = state

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        answer = self._moto(environ, start_response)
        bucket, key = _changed(environ)
        try:
            if bucket and key:
                self._state.keep_object(bucket, key)
            elif bucket:
                self._state.keep_bucket(bucket)
        except StorageFull as full:
            # moto has the object, until the end: the client is told that the state folder has not
            logger.error("bucket %s could not be kept in the state folder: %s", bucket, full.description)
            return full(environ, start_response)
        except Exception:
            logger.exception("bucket %s could not be kept in the state folder", bucket)
        return answer


def _changed(environ: dict[str, Any]) -> tuple[str, str]:
    """Bucket and key that an S3 request may have changed. Without a key it is the bucket; without a bucket nothing."""
    method = environ.get("REQUEST_METHOD")
    if method not in ("PUT", "POST", "DELETE"):
        return "", ""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if authorization and "/s3/aws4_request" not in authorization:
        return "", ""
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if "uploads" in query or "partNumber" in query:
        return "", ""  # an upload in parts: the object is there when it is completed
    # AWS SDKs name the bucket in the path for an address without domain name
    path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "surrogateescape")
    bucket, _, key = path.removeprefix("/").partition("/")
    return bucket, key


def reset_moto() -> None:
    """Empties all of moto's back ends: its state is global, and a local endpoint starts from nothing or its folder."""
    BackendDict.reset()
    reset_model_data()


@contextlib.contextmanager
def untracked_instances() -> Iterator[None]:
    """moto keeps whatever it has ever made, for the pages of its own interface: also what was deleted or replaced.

    That is each line of a log, each version of an object, each point of a metric that was asked for.
    """

    def make(cls: type[BaseModel], *_: Any, **__: Any) -> Any:
        return super(BaseModel, cls).__new__(cls)

    with patch.object(BaseModel, "__new__", make):
        yield
