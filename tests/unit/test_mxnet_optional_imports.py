"""What MXNet imports and seldom needs is not imported with it, and is there when it is needed."""

from __future__ import annotations

from tests.harness.programs import run_python, run_with_mxnet

IMPORT = """
import sys
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.settings import Settings
"""


def test_scipy_and_scikit_learn_are_not_imported_with_mxnet() -> None:
    run_with_mxnet(
        IMPORT
        + """
mx = import_mxnet(Settings())
assert mx.nd.array([[1, 2]]).asnumpy().tolist() == [[1, 2]]
found = sorted({name.partition(".")[0] for name in sys.modules} & {"scipy", "sklearn"})
assert not found, found
import scipy.stats  # as a handler would
"""
    )


def test_sparse_matrices_of_scipy_are_taken_and_made() -> None:
    run_with_mxnet(
        IMPORT
        + """
mx = import_mxnet(Settings())
made = mx.nd.sparse.csr_matrix(([5.0], [1], [0, 1, 1]), shape=(2, 3)).asscipy()
assert "scipy.sparse" in sys.modules
assert made.toarray().tolist() == [[0, 5, 0], [0, 0, 0]]
for make in (mx.nd.array, mx.nd.sparse.array, mx.nd.sparse.csr_matrix):
    taken = make(made)
    assert taken.stype == "csr", make
    assert taken.asnumpy().tolist() == made.toarray().tolist()
"""
    )


def test_where_scipy_is_loaded_already_mxnet_has_it_itself() -> None:
    run_python(
        "import scipy.sparse"
        + IMPORT
        + """
mx = import_mxnet(Settings())
assert mx.nd.sparse.spsp is scipy.sparse
assert "scipy.stats" not in sys.modules  # which a third of the time of SciPy is
assert mx.contrib.quantization.stats.entropy([1, 1], [1, 1]) == 0
"""
    )
