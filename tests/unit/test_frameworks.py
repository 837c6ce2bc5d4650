"""A framework is known by its adapter alone: no other module of the product has a word of it in its code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from mme.frameworks import registry
from mme.packages import constraints
from mme.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FRAMEWORKS = (ROOT / "container/mme/frameworks", ROOT / "container/djl_python")
# The local endpoint trains one algorithm, and lets no model set the variables of any library that loads code by them.
OTHERS = (
    ROOT / "local_endpoint/training",
    ROOT / "local_endpoint/control_plane/training_jobs.py",
    ROOT / "local_endpoint/hosting/runtimes/process_environment.py",
)
WORDS = re.compile(
    r"mxnet|-symbol\.json|-shapes\.json|\.params\b|onnx|djl|option\.entryPoint|inference\.py"
    r"|xgboost|\.ubj|sklearn|skops|lightgbm|\.lgb|torch|\.pt2",
    re.IGNORECASE,
)
ALLOWED = {
    ("container/mme/settings.py", "mxnet_fuse"),
    ("container/mme/settings.py", "MME_MXNET_FUSE"),
    ("container/mme/settings.py", "Let MXNet fuse operators: up to a tenth faster, for a second copy of the weights. "
     "`auto`: networks of at most 16 MiB once they have run 20 times; `on`: all when they are loaded, which takes "
     "longer then; `off`: none."),
    ("container/mme/settings.py", "inference.py"),
    ("container/mme/settings.py", "the name of a Python file, as inference.py or serving/inference.py"),
    ("container/mme/zygote/spawned_worker.py", "MXNetModelServiceWorker"),  # MMS's worker, whatever it serves
}  # fmt: skip


def words_in_code(source: str) -> Iterator[str]:
    """Identifiers, imports and strings that name a framework, without comments and docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
    }
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        for _, value in ast.iter_fields(node):
            for word in value if isinstance(value, list) else [value]:
                text = word.decode("latin-1") if isinstance(word, bytes) else word
                if isinstance(text, str) and WORDS.search(text):
                    yield text


def modules() -> list[Path]:
    found = [path for folder in ("container", "local_endpoint") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if not any(map(path.is_relative_to, FRAMEWORKS + OTHERS))]


def test_no_module_but_an_adapter_names_its_framework() -> None:
    found = {(str(path.relative_to(ROOT)), word) for path in modules() for word in words_in_code(path.read_text())}
    assert found - ALLOWED == set()
    assert ALLOWED - found == set(), "no longer needed here"


@pytest.mark.parametrize(
    "code",
    [
        "import mxnet",
        "from mme.frameworks import mxnet",
        "VARIABLE = 'MXNET_ENGINE_TYPE'",
        "VARIABLE = b'MXNET_ENGINE_TYPE'",
        "f'{prefix}-symbol.json'",
        "use(mxnet_fuse=1)",
        "settings.mxnet_fuse",
        "def f(mxnet): pass",
    ],
)
def test_a_word_in_code_is_found(code: str) -> None:
    assert list(words_in_code(code))


def test_words_in_comments_and_docstrings_are_not_code() -> None:
    assert list(words_in_code('"""MXNet."""\n# MXNet\ndef f():\n    """MXNet."""\n')) == []


@pytest.mark.parametrize("framework", registry.ADAPTERS)
def test_an_adapter_is_imported_without_its_framework(framework: str) -> None:
    program = (
        "import sys\n"
        "from mme.frameworks import registry\n"
        f"adapter, module = registry.adapter({framework!r}), registry.description({framework!r}).module\n"
        "assert adapter.description is registry.description(adapter.name)\n"
        "print(module in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "False\n", ended.stderr


def test_a_setting_reaches_the_variables_of_its_framework() -> None:
    plain, fused = (registry.environment(Settings(mxnet_fuse=fuse)) for fuse in ("auto", "on"))
    assert plain.pop("MXNET_SUBGRAPH_BACKEND") == "NONE"
    assert plain == fused
    assert fused["MXNET_ENGINE_TYPE"] == "NaiveEngine" and fused["MXNET_USE_OPERATOR_TUNING"] == "0"


def test_packages_of_frameworks_that_are_installed_keep_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = constraints.text().splitlines()
    here = [each for each in registry.descriptions() if not each.build_argument or find_spec(each.module or "")]
    of_frameworks = {package for each in here for package in each.packages}
    assert {"mxnet", "numpy", "onnxruntime"} <= of_frameworks
    assert [line.partition("==")[0] for line in lines] == sorted(
        {"multi-model-server", "pip", "psutil", "retrying", "sagemaker-inference", "setuptools"} | of_frameworks
    )
    monkeypatch.setattr(constraints, "_is_installed", lambda name: name != "mxnet")
    assert "mxnet" not in constraints.kept() and "numpy" in constraints.kept()
