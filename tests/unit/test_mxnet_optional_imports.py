"""What MXNet imports and seldom needs is not imported with it, and is there when it is needed."""

from __future__ import annotations

import pytest

from tests.harness.programs import run_python, run_with_mxnet

IMPORT = """
import sys
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.settings import Settings
"""


def test_what_few_models_need_is_not_imported_with_mxnet() -> None:
    run_with_mxnet(
        IMPORT
        + """
mx = import_mxnet(Settings())
assert mx.nd.array([[1, 2]]).asnumpy().tolist() == [[1, 2]]
unwanted = {"scipy", "sklearn", "requests", "urllib3", "onnx", "distutils", "setuptools"}
found = sorted({name.partition(".")[0] for name in sys.modules} & unwanted)
assert not found, found
import scipy.stats, requests  # as a handler would
assert isinstance(requests.get, type(lambda: 0))
"""
    )


def test_what_is_left_out_is_there_when_mxnet_needs_it() -> None:
    run_with_mxnet(
        IMPORT
        + """
mx = import_mxnet(Settings())
try:
    mx.gluon.utils.download("http://127.0.0.1:9/nothing", "/tmp/nothing", retries=0)
except Exception as error:
    import requests
    assert isinstance(error, requests.exceptions.ConnectionError), repr(error)
else:
    raise SystemExit("there is nothing")
# compares NumPy's version with distutils' classes
from mxnet.numpy_op_fallback import StrictVersion
assert StrictVersion("2.10.1") >= StrictVersion("2.9") and StrictVersion("1.5.9") < StrictVersion("1.6.0")
try:
    import onnx
except ImportError:
    pass
else:
    assert mx.onnx.mx2onnx._op_translations._op_translations_opset12.onnx.TensorProto is onnx.TensorProto
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


@pytest.mark.slow
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
