"""The records of the control plane: models, endpoint configurations, endpoints and their tags, by region and name.

Kept in memory, and in one JSON file where the local endpoint has a state folder.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from local_endpoint.configuration import ACCOUNT
from local_endpoint.errors import StateUnreadable

KINDS = ("model", "endpoint-config", "endpoint", "training-job")


def arn(region: str, kind: str, name: str) -> str:
    return f"arn:aws:sagemaker:{region}:{ACCOUNT}:{kind}/{name.lower()}"


class Resources:
    """Records are plain dictionaries in the API's own member names. All methods are safe to use from many threads."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._records: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self._tags: dict[str, list[dict[str, str]]] = {}
        if file is not None and file.exists():
            try:
                saved = json.loads(file.read_text())
                self._records.update(saved["records"])
                self._tags = saved["tags"]
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise StateUnreadable(f"{file} cannot be understood ({error!r}). Remove it, or restore it.") from None

    @staticmethod
    def _key(region: str, name: str) -> str:
        # names differ where their ARNs differ, and those are in lower case
        return f"{region}/{name.lower()}"

    def _save(self) -> None:
        if self._file is None:
            return
        text = json.dumps({"records": self._records, "tags": self._tags}, indent=1)
        temporary = self._file.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(self._file)

    def get(self, kind: str, region: str, name: str) -> dict[str, Any] | None:
        """A copy of the record."""
        with self._lock:
            record = self._records[kind].get(self._key(region, name))
            return dict(record) if record is not None else None

    def add(self, kind: str, region: str, name: str, record: dict[str, Any], tags: list[dict[str, str]]) -> bool:
        """False, and nothing changed, if there is one of that name."""
        with self._lock:
            key = self._key(region, name)
            if key in self._records[kind]:
                return False
            now_s = time.time()
            self._records[kind][key] = {"CreationTime": now_s, "LastModifiedTime": now_s, **record, "Region": region}
            if tags:
                self._tags[arn(region, kind, name)] = tags
            self._save()
            return True

    def change(self, kind: str, region: str, name: str, **members: Any) -> None:
        """Sets members (None removes one); nothing happens if the record is gone."""
        with self._lock:
            record = self._records[kind].get(self._key(region, name))
            if record is None:
                return
            record.update(members, LastModifiedTime=time.time())
            for member in [each for each, value in record.items() if value is None]:
                del record[member]
            self._save()

    def remove(self, kind: str, region: str, name: str) -> bool:
        with self._lock:
            self._tags.pop(arn(region, kind, name), None)
            removed = self._records[kind].pop(self._key(region, name), None)
            self._save()
            return removed is not None

    def all(self, kind: str, region: str | None = None) -> list[dict[str, Any]]:
        """Copies of the records, of one region or of all."""
        with self._lock:
            return [dict(each) for each in self._records[kind].values() if region in (None, each["Region"])]

    def owns(self, resource_arn: str) -> bool:
        """Whether the ARN is of a kind that is kept here."""
        return any(f":{kind}/" in resource_arn for kind in KINDS)

    def exists(self, resource_arn: str) -> bool:
        """False for what is no ARN, too."""
        parts = resource_arn.split(":", 5)
        if len(parts) < 6:
            return False
        kind, _, name = parts[5].partition("/")
        return kind in KINDS and self.get(kind, parts[3], name) is not None

    def tags(self, resource_arn: str) -> list[dict[str, str]]:
        with self._lock:
            return list(self._tags.get(resource_arn.lower(), []))

    def set_tags(self, resource_arn: str, tags: list[dict[str, str]]) -> None:
        with self._lock:
            self._tags[resource_arn.lower()] = tags  # as ``arn`` makes them, whatever case a caller has
            self._save()
