"""Artifacts on an instance's disk, where the container has written beside them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from local_endpoint.configuration import Limits
from local_endpoint.model_cache.artifacts import ArtifactStore
from local_endpoint.storage.location import S3Location
from tests.endpoint.local import pack

NOBODY = 65534
LOCATION = S3Location("bucket", "m.tar.gz")


class Objects:
    """One archive."""

    def read(self, _: S3Location) -> Iterator[bytes]:
        yield pack({"weights": "1"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a container's root and another user in turn")
def test_what_a_containers_root_has_written_keeps_no_artifact_from_being_fetched_again(tmp_path: Path) -> None:
    for folder in (*tmp_path.parents, tmp_path):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o755)
    base_dir = tmp_path / "container-1"
    base_dir.mkdir()
    os.chown(base_dir, NOBODY, NOBODY)
    store: Any = None

    def as_another_user(what: str) -> None:
        nonlocal store
        os.seteuid(NOBODY)
        try:
            if store is None:
                store = ArtifactStore(base_dir, Objects(), Limits(), 1_000_000)  # type: ignore[arg-type]
            if what == "fetch":
                store.fetch(LOCATION, store.model_folder("m"), time.monotonic() + 10)
            else:
                store.remove("m")
        finally:
            os.seteuid(0)

    def write_as_root() -> None:
        cache = store.model_folder("m") / "__pycache__"
        cache.mkdir()
        (cache / "handler.pyc").write_bytes(b"code")

    as_another_user("fetch")
    write_as_root()
    as_another_user("fetch")
    assert [path.name for path in store.model_folder("m").iterdir()] == ["weights"]
    write_as_root()
    as_another_user("remove")
    assert not store.model_folder("m").parent.exists()
    as_another_user("fetch")
    assert [path.name for path in store.model_folder("m").iterdir()] == ["weights"]
