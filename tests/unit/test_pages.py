"""Pages that forked processes share again: what is given back, what never is, and that nobody notices."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from mme import pages
from tests.harness.server import REPOSITORY

pytestmark = pytest.mark.skipif(not pages.can_share(), reason="pages.so is for Linux on x86-64")


@pytest.mark.parametrize(
    "scenario",
    [
        "gives_back_what_is_as_it_was",
        "goes_on_working_however_often_it_gives_back",
        "costs_who_shares_it_next_to_nothing",
        "keeps_what_differs_by_a_single_bit",
        "leaves_memory_alone_that_is_somebody_elses_by_now",
        "gives_nothing_back_while_there_are_threads",
        "is_not_shared_by_a_process_of_several_threads",
        "cannot_be_written_to_by_who_shares_it",
        "lets_shared_objects_live_whoever_lets_go_of_them",
        "specialises_code_that_runs_for_the_first_time_in_a_fork",
    ],
)
def test_a_process_and_its_forks(scenario: str) -> None:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "container")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.page_sharing", scenario],
        env={"PATH": "/usr/bin:/bin", **one_thread},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_library_was_built_from_this_source() -> None:
    digest = hashlib.sha256(pages.SOURCE.read_bytes()).hexdigest()
    assert f"Source-SHA256: {digest}".encode() in pages.LIBRARY.read_bytes(), "run container/mme/pages/build"
