"""MXNet on NumPy 2: every name that MXNet's source asks NumPy for is there, and only where MXNet is."""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mme.frameworks.mxnet import numpy_names
from tests.harness.programs import run_python, run_with_mxnet

# lists of names that MXNet looks up in NumPy, by the file that they are in
_LISTS = {"numpy/fallback.py": "__all__", "numpy_dispatch_protocol.py": "_NUMPY_ARRAY_FUNCTION_LIST"}


def mxnet_folder() -> Path:
    spec = importlib.util.find_spec("mxnet")
    assert spec and spec.origin
    return Path(spec.origin).parent


def aliases(nodes: list[ast.AST]) -> dict[str, str]:
    """The names by which a module knows NumPy and its modules: ``{"onp": "numpy", "npt": "numpy.testing"}``."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "numpy":
                    found[alias.asname or "numpy"] = alias.name if alias.asname else "numpy"
    return found


def dotted(node: ast.AST, known: dict[str, str]) -> str | None:
    """``numpy.linalg.svd`` for an attribute of what is known as NumPy, else None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join([known[node.id], *parts]) if isinstance(node, ast.Name) and node.id in known and parts else None


def parse(path: Path) -> ast.AST:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of escapes in strings that MXNet's authors did not mean
        warnings.simplefilter("ignore", DeprecationWarning)  # the same on Python 3.11
        return ast.parse(path.read_bytes())


def asked_for(source: Path) -> Iterator[tuple[str, str]]:
    """(name, where) of everything that MXNet's Python files take from NumPy."""
    for path in sorted(source.rglob("*.py")):
        nodes, file = list(ast.walk(parse(path))), path.relative_to(source).as_posix()
        known = aliases(nodes)
        for node in nodes:
            if name := dotted(node, known):
                yield name, f"{file}:{node.lineno}"  # type: ignore[attr-defined]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "numpy":
                yield from ((f"{node.module}.{alias.name}", f"{file}:{node.lineno}") for alias in node.names)
            elif (
                file in _LISTS
                and isinstance(node, ast.Assign)
                and [ast.unparse(target) for target in node.targets] == [_LISTS[file]]
            ):
                yield from ((f"numpy.{name}", f"{file}:{node.lineno}") for name in ast.literal_eval(node.value))


def is_there(name: str) -> bool:
    value: Any = np
    for part in name.split(".")[1:]:
        try:
            value = getattr(value, part)
        except AttributeError:
            return False
    return True


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_numpy_has_every_name_that_the_source_of_mxnet_asks_for() -> None:
    numpy_names.restore()
    names = list(asked_for(mxnet_folder()))
    # what the walk must find, or it looks in the wrong place
    assert {"numpy.PZERO", "numpy.alltrue", "numpy.compat.basestring", "numpy.product"} <= {name for name, _ in names}
    assert len({name for name, _ in names}) > 200
    missing = {name: where for name, where in names if not is_there(name)}
    assert missing == {}


NAMES_ADDED = """
import numpy, sys
before = set(vars(numpy))
{what}
print("mxnet" in sys.modules, sorted(set(vars(numpy)) - before))
"""


@pytest.mark.ci  # imports MXNet in two new interpreters
@pytest.mark.slow
def test_importing_mxnet_is_enough_in_every_python_of_this_environment() -> None:
    imported, added = run_python(NAMES_ADDED.format(what="import mxnet")).strip().splitlines()[-1].split(" ", 1)
    assert imported == "True"
    assert "NZERO" in added


def test_no_python_pays_for_it_at_its_start() -> None:
    """Of the standard library it would need these, which took 30 ms."""
    assert run_python("import sys; print({'dataclasses', 'inspect', 're', 'typing'} & set(sys.modules))") == "set()\n"


def test_numpy_stays_as_it_is_where_mxnet_is_not_imported() -> None:
    code = NAMES_ADDED.format(what="import mme.frameworks.mxnet.adapter, model_handler")
    assert run_python(code).strip().splitlines()[-1] == "False []"


def test_nothing_that_numpy_has_is_replaced() -> None:
    code = (
        "import numpy; before = dict(vars(numpy)); from mme.frameworks.mxnet import numpy_names; numpy_names.restore()"
    )
    code += "\nprint(all(vars(numpy)[name] is value for name, value in before.items()))"
    assert run_python(code) == "True\n"


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("alltrue", ([[True, False], [True, True]], 0), [True, False]),
        ("sometrue", ([[False, False], [True, False]], 0), [True, False]),
        ("product", ([2, 3, 4],), 24),
        ("cumproduct", ([2, 3, 4],), [2, 6, 24]),
        ("round_", ([1.26, 2.5], 1), [1.3, 2.5]),
        ("row_stack", (([1, 2], [3, 4]),), [[1, 2], [3, 4]]),
        ("in1d", ([[1, 2], [3, 4]], [2, 4]), [False, True, False, True]),
        ("msort", ([[3, 1], [2, 5]],), [[2, 1], [3, 5]]),
        ("trapz", ([1.0, 2.0, 3.0],), 4.0),
        ("asfarray", ([1, 2],), [1.0, 2.0]),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_restored_function_does_what_it_did(name: str, arguments: tuple[Any, ...], expected: Any) -> None:
    numpy_names.restore()
    np.testing.assert_array_equal(getattr(np, name)(*arguments), expected)


def test_restored_constants_and_types() -> None:
    numpy_names.restore()
    constants = {name: getattr(np, name) for name in ("PINF", "NINF", "Inf", "infty", "PZERO", "NZERO")}
    assert constants == {"PINF": np.inf, "NINF": -np.inf, "Inf": np.inf, "infty": np.inf, "PZERO": 0, "NZERO": 0}
    assert np.signbit(np.NZERO)  # type: ignore[attr-defined]
    assert np.isnan(np.NaN)  # type: ignore[attr-defined]
    assert np.dtype(np.float_) == np.float64  # type: ignore[attr-defined]


def test_a_scalar_inside_a_tuple_is_written_as_mxnet_reads_it() -> None:
    code = "import numpy; print((2, numpy.int64(32), numpy.float32(0.5)))"
    assert run_with_mxnet(code) == "(2, 32, 0.5)\n"


def test_a_financial_function_names_the_package_that_has_it() -> None:
    numpy_names.restore()
    with pytest.raises(RuntimeError, match=r"numpy_financial\.npv"):
        np.npv(0.1, [1, 2])  # type: ignore[attr-defined]
