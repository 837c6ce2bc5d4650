"""A lack of memory, made by a limit in a process of its own, must become InsufficientMemory, which is answered 507."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from mme.errors import BadRequest, InsufficientMemory
from mme.frameworks.base import means_no_memory, memory_errors
from tests.harness import models
from tests.harness.programs import run_with_mxnet

# Loads a model under the limit in the environment, sends requests, prints what became of each.
UNDER_A_LIMIT = """
import json
import sys
from pathlib import Path
import model_handler
from mme.capacity.rlimit import limit_worker
from mme.errors import InsufficientMemory
from mme.frameworks.registry import adapter
from mme.settings import Settings
from tests.harness import requests as golden

adapter("mxnet").import_framework(Settings())
limit_worker(Settings.from_environment())
context = golden.context_for(Path(sys.argv[1]), batch_size=8)
try:
    model_handler.handle(None, context)
except MemoryError as error:
    print(json.dumps(["load", isinstance(error, InsufficientMemory), str(error)]))
    sys.exit()
for batch in json.loads(sys.argv[2]):
    bodies = [json.dumps([[0, 3, 8, 15]] * samples).encode() for samples in batch]
    requests = [({"Content-Type": "application/json"}, body) for body in bodies]
    for status, content_type, body in golden.call(model_handler.handle, context, *requests):
        print(json.dumps([status, content_type, json.loads(body)]))
"""


def under_a_limit(folder: Path, limit_mb: int, batches: list[list[int]]) -> list[list]:
    """``batches``: for each call the numbers of samples in its requests. Returns what was printed, line by line."""
    limit = {"MME_WORKER_MEMORY_LIMIT_MB": str(limit_mb)}
    said = run_with_mxnet(UNDER_A_LIMIT, folder, json.dumps(batches), **limit)
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("limit_mb", [400, *(pytest.param(each, marks=pytest.mark.ci) for each in (64, 600))])
def test_a_model_that_does_not_fit_fails_its_load_for_memory(tmp_path: Path, limit_mb: int) -> None:
    models.heavy_model(tmp_path, weights_mb=500)
    ((what, is_ours, message),) = under_a_limit(tmp_path, limit_mb, [])
    assert what == "load" and is_ours
    assert message.startswith("Not enough memory to") and "MME_WORKER_MEMORY_LIMIT_MB" in message


def test_a_request_that_does_not_fit_is_answered_507_and_the_next_is_served(tmp_path: Path) -> None:
    models.hungry_model(tmp_path, megabytes_per_sample=32)
    answers = under_a_limit(tmp_path, 600, [[1], [16], [1]])
    assert [status for status, _, _ in answers] == [200, 507, 200]
    _, content_type, error = answers[1]
    assert content_type == "application/json"
    assert error["code"] == 507 and error["type"] == "InsufficientMemoryException"
    assert "16 samples" in error["message"]
    copies = 32 * 65536
    np.testing.assert_allclose(answers[2][2]["predictions"], [[copies, 2 * copies, 3 * copies, 4 * copies]], rtol=0.05)


def test_a_batch_that_does_not_fit_is_run_request_by_request(tmp_path: Path) -> None:
    models.hungry_model(tmp_path, megabytes_per_sample=32)
    answers = under_a_limit(tmp_path, 600, [[1, 16, 2, 1]])
    assert [status for status, _, _ in answers] == [200, 507, 200, 200]


def _numpy_error() -> Exception:
    """NumPy's own, from an array that no machine holds."""
    with pytest.raises(MemoryError) as caught:
        np.empty(2**58, np.uint8)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        _numpy_error(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("Check failed: e == cudaSuccess: out of memory"),
        RuntimeError("MXNetError: Failed to allocate CPU Memory"),
        RuntimeError("std: :bad_alloc"),  # MXNet's own spelling
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a memory object"),
        ImportError("libx.so: failed to map segment from shared object"),
        ValueError("Unable to allocate 3 GiB"),
    ],
)
def test_every_wording_of_no_memory_becomes_our_error(error: Exception) -> None:
    with pytest.raises(InsufficientMemory) as caught, memory_errors("try"):
        raise error
    assert isinstance(caught.value, MemoryError)
    assert caught.value.status == 507


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, "x"),
        RuntimeError("shape mismatch"),
        BadRequest("Write 'out of memory' in the body, and this is still no lack of memory."),
        KeyError("out of memory"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not means_no_memory(error)
    with pytest.raises(type(error)), memory_errors("try"):
        raise error
