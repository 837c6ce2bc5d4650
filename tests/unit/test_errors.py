"""What the caller of a load learns of an error."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mme import errors
from mme.errors import InsufficientMemory, ModelLoadError, ModelRefused, Refusal


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/model/weights"),
        OSError(errno.ENFILE, os.strerror(errno.ENFILE)),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        MemoryError(),
        InsufficientMemory("too little"),
        RuntimeError('LocalFileSystem::Open "weights": Too many open files'),  # as MXNet words it
        raised_from(ModelLoadError("the weights cannot be read."), OSError(errno.EMFILE, "")),
    ],
    ids=repr,
)
def test_a_load_that_lacks_resources_is_answered_507(error: BaseException) -> None:
    assert Refusal.of(error).status == 507


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT)), 500),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), 500),  # a lock that another has
        (ValueError("2 many open files"), 500),
        (raised_from(ModelLoadError("it says that it has 10^12 weights."), MemoryError()), 500),
        (raised_from(ModelRefused("not from there"), OSError(errno.EMFILE, "")), 400),
    ],
    ids=repr,
)
def test_a_load_that_would_fail_again_is_not_answered_507(error: BaseException, status: int) -> None:
    assert Refusal.of(error).status == status


def test_a_program_that_cannot_be_started_is_a_lack_of_resources() -> None:
    """Raised by the kernel: this user may have no more processes."""
    program = """
import resource, subprocess, sys
from mme.errors import Refusal
if os.getuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    subprocess.run([sys.executable], check=False)
except OSError as error:
    print(type(error).__name__, Refusal.of(error).status)
import threading
try:
    threading.Thread(target=print).start()
except RuntimeError as error:
    print(type(error).__name__, Refusal.of(error).status)
"""
    folder = Path(errors.__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-c", f"import os, sys; sys.path.insert(0, {str(folder)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["BlockingIOError", "507", "RuntimeError", "507"]
