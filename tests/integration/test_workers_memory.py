"""What forked workers share with the zygote, and share again once they are idle: real models, real memory."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from mme import pages
from tests.harness import models
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.workers import shares_pages, worker, zygotes

pytestmark = pytest.mark.skipif(not pages.can_share(), reason="pages.so is for Linux on x86-64")

_FILE = io.BytesIO()
Image.fromarray(np.arange(480 * 640 * 3, dtype=np.uint32).astype(np.uint8).reshape(480, 640, 3)).save(_FILE, "jpeg")
PICTURE = _FILE.getvalue()
ROWS = json.dumps([[1.0, 2.0, 3.0, 4.0]])


def own_bytes(process: psutil.Process) -> int:
    """What the process has copied or allocated since it was forked, and has not given back."""
    (found,) = re.findall(r"Private_Dirty:\s+(\d+) kB", Path(f"/proc/{process.pid}/smaps_rollup").read_text())
    return int(found) * 1024


def test_an_idle_worker_keeps_little_more_than_its_model_and_answers_as_before() -> None:
    with ServerProcess(MME_WORKERS="fork") as server:
        (zygote,) = zygotes(server)
        wait_until(lambda: shares_pages(zygote), "the zygote shares its pages")
        models.tiny_classifier(server.model_dir("pictures"))
        models.multiplier(server.model_dir("rows"), factor=2)
        for name in ("pictures", "rows"):
            assert server.load(name).status_code == 200
        first = server.invoke("pictures", PICTURE, "image/jpeg")
        assert first.status_code == 200
        process = worker(server, "pictures")
        wait_until(lambda: own_bytes(process) < 4_500_000, lambda: f"{own_bytes(process)} bytes are few")
        for _ in range(5):
            assert server.invoke("pictures", PICTURE, "image/jpeg").content == first.content
            assert server.invoke("rows", ROWS).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
            wait_until(lambda: own_bytes(process) < 4_500_000, lambda: f"{own_bytes(process)} bytes are few")
        assert worker(server, "pictures") == process


def test_pages_are_kept_where_that_is_wanted() -> None:
    with ServerProcess(MME_WORKERS="fork", MME_SHARE_PAGES="false") as server:
        models.multiplier(server.model_dir("rows"), factor=2)
        assert server.load("rows").status_code == 200
        assert server.invoke("rows", ROWS).status_code == 200
        assert not shares_pages(zygotes(server)[0])
        assert not shares_pages(worker(server, "rows"))


def test_the_next_zygote_shares_its_pages_too() -> None:
    with ServerProcess(MME_WORKERS="fork") as server:
        models.multiplier(server.model_dir("old"), factor=2)
        models.multiplier(server.model_dir("new"), factor=3)
        (first,) = zygotes(server)
        wait_until(lambda: shares_pages(first), "the zygote shares its pages")
        assert server.load("old").status_code == 200
        first.kill()
        assert server.load("new").status_code == 200
        (second,) = zygotes(server)
        wait_until(lambda: shares_pages(second), "the next one does so, too")
        assert server.invoke("old", ROWS).json() == {"predictions": [[2.0, 4.0, 6.0, 8.0]]}
        assert server.invoke("new", ROWS).json() == {"predictions": [[3.0, 6.0, 9.0, 12.0]]}
