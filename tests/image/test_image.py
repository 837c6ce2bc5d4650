"""The built image: what it says of itself, what is inside, and what is not."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.harness.docker import BASE_IMAGE, Image, docker
from tests.harness.parallel import show

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1300)]

ROOT = Path(__file__).resolve().parents[2]
# Above Debian's base: the Java runtime 184 MB, MXNet 187 MB, SciPy and NumPy 176 MB, the other frameworks 240 MB …
# With the base, the whole image is to stay below 1.1 GB.
LARGEST_ADDED_MB = 970


@pytest.fixture(scope="module")
def configuration(image: Image) -> dict:
    """The ``Config`` of the image."""
    return image.inspect()["Config"]


# ---- what it says of itself ----


def test_both_sagemaker_capabilities_are_labelled(configuration: dict) -> None:
    assert configuration["Labels"]["com.amazonaws.sagemaker.capabilities.multi-models"] == "true"
    assert configuration["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"


def test_the_oci_labels_name_version_commit_and_base(configuration: dict) -> None:
    labels = configuration["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[prefix + "title"] == "demo-sagemaker-multimodel"
    assert labels[prefix + "description"]
    assert labels[prefix + "base.name"] == BASE_IMAGE
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert re.fullmatch("[0-9a-f]{40}", labels[prefix + "revision"])
        assert labels[prefix + "version"] != "unversioned"


def test_the_entry_point_is_in_exec_form_and_serve_the_default(configuration: dict) -> None:
    assert configuration["Entrypoint"] == ["python", "/usr/local/bin/dockerd-entrypoint.py"]
    assert configuration["Cmd"] == ["serve"]
    assert list(configuration["ExposedPorts"]) == ["8080/tcp"]
    assert configuration["User"] == "", "SageMaker starts containers as root"


def test_a_health_check_is_defined(configuration: dict) -> None:
    check = configuration["Healthcheck"]
    assert check["Test"] == ["CMD", "python", "-m", "mme.supervisor.healthcheck"]
    assert check["StartPeriod"] > 0


# ---- what a command gets ----


def test_a_command_is_run_and_its_exit_code_passed_on(image: Image) -> None:
    said = image.run("echo", "hi")
    assert (said.returncode, said.stdout) == (0, "hi\n")
    assert image.run("bash", "-c", "exit 42").returncode == 42


def test_a_command_that_is_not_there_ends_with_127(image: Image) -> None:
    missing = image.run("no-such-program")
    assert missing.returncode == 127
    assert missing.stderr == "no-such-program: No such file or directory\n"


# ---- what is inside ----


def test_the_packages_are_exactly_the_pinned_ones(image: Image) -> None:
    version = image.run("python", "-c", "import platform; print(platform.python_version())").stdout.strip()
    lines = re.findall(r"^[a-z0-9][^\\\n]+", (ROOT / "container" / "requirements.txt").read_text(), re.M)
    wanted = [Requirement(line) for line in lines]
    pinned = {
        each.name: str(each.specifier).removeprefix("==")
        for each in wanted
        if each.marker is None or each.marker.evaluate({"python_full_version": version})
    }
    program = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    installed = json.loads(image.run("python", "-c", program).stdout)
    assert installed == pinned


def test_python_java_and_every_package_can_be_used(image: Image) -> None:
    program = (
        "import sys, numpy, scipy.sparse, PIL.Image, psutil, boto3, mms.model_service_worker, mxnet as mx;"
        "from sagemaker_inference import model_server;"
        "import model_handler, mme.supervisor.server;"
        "print(sys.version_info[:2], mx.__version__, mx.nd.dot(mx.nd.ones((2, 3)), mx.nd.ones((3, 2))).asnumpy().sum())"
    )
    ran = image.run("python", "-W", "ignore", "-c", program, options=["--user", "10001"])
    assert ran.stdout == "(3, 13) 1.9.1 12.0\n", ran.stderr
    frameworks = (
        "import onnxruntime, xgboost, lightgbm, sklearn.ensemble, sklearn.pipeline, skops.io, joblib, pandas;"
        "from mme.frameworks import registry;"
        "print([name for name in registry.ADAPTERS if registry.is_installed(name)])"
    )
    ran = image.run("python", "-W", "ignore", "-c", frameworks, options=["--user", "10001"])
    assert {"mxnet", "onnx", "xgboost", "sklearn", "lightgbm"} <= set(ast.literal_eval(ran.stdout)), ran.stderr
    assert "pytorch" not in ran.stdout
    java = image.run("java", "-version")
    assert 'openjdk version "21.' in java.stderr


def test_no_compiler_or_package_cache_is_left(image: Image) -> None:
    ran = image.run(
        "bash",
        "-c",
        "for each in cc gcc g++ cpp ld as make javac; do command -v $each; done;"
        "find /home /tmp /var/tmp -mindepth 1;"
        "find ~root/.cache /var/lib/apt/lists /var/cache/apt /opt/ml /build -type f ! -name lock;"
        "find /opt /usr /var -name '*.deb' -o -name '*.whl';"
        "find /opt/venv -path '*/numpy/tests' -o -path '*/mxnet/include'",
    )
    assert ran.stdout == ""


def test_our_code_is_the_checkouts_and_nothing_else_of_it(image: Image) -> None:
    ran = image.run("bash", "-c", "cd /opt/model-server && find . -type f ! -name '*.pyc' | sort")
    container = ROOT / "container"
    found = [path for package in ("djl_python", "mme") for path in (container / package).rglob("*")]
    sources = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    expected = {f"./{path.relative_to(container)}" for path in sources} | {"./model_handler.py"}
    assert set(ran.stdout.split()) == expected
    inside = image.run("cat", "/opt/model-server/mme/settings.py").stdout
    assert inside == (container / "mme" / "settings.py").read_text()


def test_python_finds_bytecode_for_all_that_it_imports(image: Image) -> None:
    # which the server could not write, and a read-only image not keep
    imports = (
        "import mme.supervisor.server, model_handler, mms.model_service_worker, mxnet, sagemaker_inference.model_server"
    )
    verbose = image.run("python", "-v", "-c", imports).stderr
    loaded = re.findall(r"^# code object from '(/opt/[^']+)'", verbose, re.M)
    assert len(loaded) > 200
    assert [path for path in loaded if not path.endswith(".pyc")] == []


def test_nothing_inside_can_be_written_by_the_user_that_serves(image: Image) -> None:
    ran = image.run(
        "bash",
        "-c",
        "find / -xdev -writable ! -type l ! -path '/proc/*' ! -path '/sys/*' ! -path '/dev/*' -print",
        options=["--user", "model-server"],
    )
    assert set(ran.stdout.split()) <= {"/tmp", "/var/tmp", "/run/lock", "/var/lib/model-server/packages"}


# ---- how large it is ----


def test_the_size_is_printed_and_within_bounds(image: Image, request: pytest.FixtureRequest) -> None:
    size_bytes = image.inspect()["Size"]
    base_bytes = int(docker("image", "inspect", "--format", "{{.Size}}", BASE_IMAGE).stdout)
    history = docker("history", "--format", "{{.Size}}\t{{.CreatedBy}}", image.id).stdout.splitlines()
    show(request, f"image size: {size_bytes / 1e6:.0f} MB, of which the base {base_bytes / 1e6:.0f} MB; by layer:")
    for line in history:
        size, command = line.split("\t")
        if size not in ("0B", ""):
            show(request, f"  {size:>8}  {command[:90]}")
    assert size_bytes - base_bytes < LARGEST_ADDED_MB * 1e6
