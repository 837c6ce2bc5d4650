"""MXNet's operators are written when they are first called, and are then what MXNet itself makes of them."""

from __future__ import annotations

import pytest

from tests.harness.programs import run_python, run_with_mxnet

IMPORT = """
from mme.frameworks.mxnet.adapter import import_mxnet
from mme.settings import Settings
mx = import_mxnet(Settings())
"""
AS_MXNET = """
import mme.frameworks.mxnet.numpy_names as numpy_names
numpy_names.restore()
import mxnet
"""
WRITE_ALL = """
import gc, types
for each in gc.get_objects():
    if isinstance(each, types.FunctionType) and "_unwritten" in (each.__kwdefaults__ or {}):
        each.__kwdefaults__["_unwritten"].write()
"""

# Prints each operator of each namespace: where it is, and a hash of its code, its defaults, signature and module.
LIST = """
import hashlib, inspect, sys, types

def told(function):
    code = function.__code__
    constants = [each for each in code.co_consts[1:] if not (isinstance(each, int) and each > 2**32)]  # no addresses
    what = (code.co_code, code.co_names, code.co_varnames, constants)
    signature = inspect.signature(function)
    text = repr((what, [repr(each) for each in signature.parameters.values()], function.__module__, function.__name__))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

found = []
for module in sorted(name for name in sys.modules if name.startswith(("mxnet.ndarray", "mxnet.symbol", "mxnet.numpy"))):
    for name, value in sorted(vars(sys.modules[module]).items()):
        if isinstance(value, types.FunctionType) and value.__code__.co_filename == "<string>":
            found.append(f"{module} {name} {told(value)}")
assert len(found) > 2500, len(found)
print("\\n".join(found))
"""


def test_an_operator_is_written_at_its_first_call() -> None:
    run_with_mxnet(
        IMPORT
        + """
import inspect
relu = mx.nd.relu
assert relu is mx.nd.op.relu and relu.__name__ == "relu" and relu.__module__ == mx.nd.op.relu.__module__
unwritten = mx.nd.sigmoid.__code__
assert relu.__code__ is unwritten
assert relu(mx.nd.array([-1, 2])).asnumpy().tolist() == [0, 2]
assert relu.__code__ is not unwritten and relu is mx.nd.relu and mx.nd.sigmoid.__code__ is unwritten
assert list(inspect.signature(relu).parameters) == ["data", "out", "name", "kwargs"]
assert "rectified linear" in relu.__doc__
assert relu(data=mx.nd.array([-3])).asnumpy().tolist() == [0]
assert mx.nd.concat(mx.nd.ones(1), mx.nd.zeros(1), dim=0).asnumpy().tolist() == [1, 0]
assert mx.sym.concat(mx.sym.Variable("a"), mx.sym.Variable("b"), dim=0, name="both").list_arguments() == ["a", "b"]
assert mx.np.add(mx.np.ones(1), 1).asnumpy().tolist() == [2]
try:
    mx.nd.relu([1])
except AssertionError as error:
    assert "must have NDArray type" in str(error)
else:
    raise SystemExit("a list is no array")
"""
    )


def test_threads_may_call_an_operator_for_the_first_time_at_once() -> None:
    run_with_mxnet(
        IMPORT
        + """
import sys
from concurrent.futures import ThreadPoolExecutor
data = mx.nd.array([1, 4])
sys.setswitchinterval(1e-5)
with ThreadPoolExecutor(8) as threads:
    for operator in (mx.nd.sqrt, mx.nd.square, mx.nd.exp, mx.nd.log, mx.nd.sign):
        assert len(list(threads.map(lambda _: operator(data, name="x"), range(16)))) == 16
"""
    )


@pytest.mark.ci
def test_every_operator_is_what_mxnet_makes_of_it() -> None:
    """(3 s: MXNet makes all of its 2,600 functions twice.)"""
    assert run_python(IMPORT + WRITE_ALL + LIST).splitlines() == run_python(AS_MXNET + LIST).splitlines()
