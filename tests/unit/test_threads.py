"""How many threads OpenMP and OpenBLAS use in a template and in the workers that are forked from it."""

from __future__ import annotations

import json

import pytest

from mme import threads
from tests.harness.programs import run_with_mxnet

# Loads NumPy's, SciPy's and MXNet's libraries as a template does, forks, and prints what a worker's libraries say.
COUNTS_IN_A_WORKER = """
import ctypes, json, os, re, sys
from pathlib import Path
from mme import threads

os.environ.update(threads.environment_of_template())
import numpy, scipy.linalg
from mme.frameworks.registry import adapter
from mme.settings import Settings
adapter("mxnet").import_framework(Settings())

GETTERS = (
    "omp_get_max_threads", "openblas_get_num_threads", "openblas_get_num_threads64_",
    "scipy_openblas_get_num_threads", "scipy_openblas_get_num_threads64_",
)

def counts():
    found = {}
    for path in set(re.findall(r"/\\S*/lib(?:gomp|\\w*openblas)\\S*\\.so\\S*", Path("/proc/self/maps").read_text())):
        library = ctypes.CDLL(path)
        getter = next(name for name in GETTERS if hasattr(library, name) and ("gomp" in path) == name.startswith("omp"))
        found.setdefault("openmp" if "gomp" in path else "openblas", []).append(getattr(library, getter)())
    return found

before = counts()
read, write = os.pipe()
if os.fork() == 0:
    threads.set_counts(json.loads(sys.argv[1]))
    square = numpy.ones((300, 300))
    assert (square @ square == 300).all() and (scipy.linalg.blas.dgemm(1.0, square, square) == 300).all()
    os.write(write, json.dumps([before, counts()]).encode())
    os._exit(0)
os.close(write)
print(os.read(read, 65536).decode())
"""


@pytest.mark.parametrize(
    ("asked", "openmp", "openblas"),
    [
        ({"OMP_NUM_THREADS": "1"}, 1, 1),
        ({"OMP_NUM_THREADS": "2"}, 2, 2),
        ({"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}, 2, 1),
        ({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "2"}, 1, 2),
    ],
)
def test_all_libraries_of_a_forked_worker_have_the_threads_that_are_asked_for(
    asked: dict[str, str], openmp: int, openblas: int
) -> None:
    before, after = json.loads(run_with_mxnet(COUNTS_IN_A_WORKER, json.dumps(asked)))
    assert set(before["openmp"]) == set(before["openblas"]) == {1}, "a pool of threads does not survive a fork"
    assert len(after["openblas"]) >= 3, "NumPy, SciPy and MXNet have one each"
    assert set(after["openmp"]) == {openmp}
    assert set(after["openblas"]) == {openblas}


def test_a_user_who_asks_for_no_number_gets_one_thread() -> None:
    environment: dict[str, str] = {}
    threads.set_default(environment)
    assert environment == {"OMP_NUM_THREADS": "1"}


def test_a_users_number_of_threads_stays() -> None:
    environment = {"OMP_NUM_THREADS": "4"}
    threads.set_default(environment)
    assert environment == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize("asked", ["", "many", "0", "-2"])
def test_what_is_no_number_of_threads_leaves_them_alone(asked: str) -> None:
    threads.set_counts({"OMP_NUM_THREADS": asked})
