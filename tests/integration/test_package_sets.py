"""Each model its own packages: installed once for all models that ask for the same, unseen by those that do not."""

from __future__ import annotations

import importlib.metadata
import io
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.harness.scripts import djl, script, thousand_models
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.wheels import write_wheel

# A handler of the model's own. It tells whether its package had been imported before the fork, and which one it is.
HANDLER = """
import sys
was_there = "greeting_of_a_test" in sys.modules
import greeting_of_a_test

def handle(data, context):
    if data is None:
        return None
    return [f"{greeting_of_a_test.TEXT} {was_there}".encode() for _ in data]
"""
PLAIN = """
def handle(data, context):
    if data is None:
        return None
    try:
        import greeting_of_a_test
    except ImportError as error:
        return [str(error).encode() for _ in data]
    return [b"found"]
"""


def write_model(server: ServerProcess, name: str, requirements: str | None, *, handler: str = HANDLER) -> Path:
    """A model that asks for ``requirements``, which it brings versions 1.0 and 2.0 of as wheels."""
    folder = server.models_dir / name / "model"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "service_of_a_test.py").write_text(handler)
    manifest = {"model": {"modelName": name, "handler": "service_of_a_test:handle"}, "runtime": "python"}
    (folder / "MAR-INF/MANIFEST.json").write_text(json.dumps(manifest))
    if requirements is not None:
        wheels = folder / "code" / "wheels"
        for version in ("1.0", "2.0"):
            write_wheel(wheels, "greeting_of_a_test", f"TEXT = 'version {version}'\n", version=version)
        (folder / "code" / "requirements.txt").write_text(requirements + "\n")
    return folder


def load(server: ServerProcess, name: str) -> None:
    answer = server.load(name)
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"


def said(server: ServerProcess, name: str) -> str:
    answer = server.invoke(name, b"x", "text/plain")
    assert answer.status_code == 200, f"{answer.text}\n{server.log_tail()}"
    return answer.text


def another_model(server: ServerProcess) -> str:
    """One that is loaded, now or by a test before."""
    if not server.invoke("another", b"x", "text/plain").ok:
        write_model(server, "another", "greeting_of_a_test==1.0")
        load(server, "another")
    return "another"


@pytest.fixture(scope="module")
def packages_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def forking(packages_dir: Path) -> Iterator[ServerProcess]:
    with ServerProcess(MME_PRELOAD="none", MME_PACKAGES_DIR=str(packages_dir)) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(packages_dir: Path) -> Iterator[ServerProcess]:
    """A server with the same folder of packages, which waits for two seconds where it has to install one."""
    settings = {"MME_PACKAGES_DIR": str(packages_dir), "MME_PACKAGES_TIMEOUT_S": "2"}
    with ServerProcess(MME_PRELOAD="none", **settings) as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture(scope="module")
def spawning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("spawning")
    with ServerProcess(MME_WORKERS="spawn", MME_PRELOAD="none", MME_PACKAGES_DIR=str(folder)) as running:
        yield running


@pytest.fixture(scope="module", params=["forking", pytest.param("spawning", marks=pytest.mark.ci)])
def server(request: pytest.FixtureRequest) -> ServerProcess:
    """A server whose workers start in one of the two ways."""
    running: ServerProcess = request.getfixturevalue(request.param)
    return running


def test_models_with_different_versions_of_a_package_and_without_it_do_not_notice_each_other(
    server: ServerProcess,
) -> None:
    write_model(server, "one", "greeting_of_a_test==1.0")
    write_model(server, "two", "greeting_of_a_test>1")
    write_model(server, "none", None, handler=PLAIN)
    for name in ("one", "two", "none"):
        load(server, name)
    assert said(server, "one").startswith("version 1.0")
    assert said(server, "two").startswith("version 2.0")
    assert said(server, "none") == "No module named 'greeting_of_a_test'"


SCRIPT = """
import greeting_of_a_test
def transform_fn(model, body, content_type, accept): return greeting_of_a_test.TEXT, "text/plain"
"""
DJL = """
import greeting_of_a_test
from djl_python import Output
def handle(inputs): return None if inputs.is_empty() else Output().add(greeting_of_a_test.TEXT)
"""


def test_scripts_and_models_of_djl_find_the_packages_of_a_file_at_the_top(server: ServerProcess) -> None:
    for name, write, source in (("top-script", script, SCRIPT), ("top-djl", djl, DJL)):
        folder = write(server.model_dir(name), source)
        write_wheel(folder / "code" / "wheels", "greeting_of_a_test", "TEXT = 'of the file at the top'\n")
        (folder / "requirements.txt").write_text("greeting_of_a_test\n")
        load(server, name)
        assert said(server, name) == "of the file at the top"
    assert server.log().count(f"the packages of {server.models_dir}/top-") == 1  # they share them


def test_what_cannot_be_installed_fails_that_load_with_the_reason(server: ServerProcess) -> None:
    write_model(server, "missing", "greeting_of_a_test==3.0")
    for _ in range(2):  # a second time as the first
        answer = server.load("missing")
        assert answer.status_code == 500
        message = answer.json()["message"]
        assert "requirements.txt cannot be installed" in message and "greeting-of-a-test==3.0" in message.replace(
            "_", "-"
        )
        assert str(server.folder) not in message
    assert said(server, another_model(server)).startswith("version 1.0")


VERSION = """
import importlib.metadata, retrying

def handle(data, context):
    if data is None:
        return None
    return [f"{importlib.metadata.version('retrying')} {getattr(retrying, 'TEXT', 'of the container')}" for _ in data]
"""


def test_a_model_has_another_version_of_what_the_container_has_and_nobody_else_notices(server: ServerProcess) -> None:
    folder = write_model(server, "other_version", "retrying<1", handler=VERSION)
    write_wheel(folder / "code" / "wheels", "retrying", "TEXT = 'of the model'\n", version="0.0.1")
    write_model(server, "containers_version", None, handler=VERSION)
    for name in ("other_version", "containers_version"):
        load(server, name)
    assert said(server, "other_version") == "0.0.1 of the model"
    assert said(server, "containers_version") == f"{importlib.metadata.version('retrying')} of the container"


# Scripts that run compiled code of the package, and tell which one it is.
COMPILED = {
    "numpy": """
        import numpy
        def model_fn(model_dir): return numpy.linalg.inv(numpy.eye(3) * 2).sum()
        def transform_fn(model, body, content_type, accept):
            return f"{numpy.__version__} {numpy.linalg.__file__} {model}", "text/plain"
        """,
    "scikit-learn": """
        import sklearn.tree
        def model_fn(model_dir): return sklearn.tree.DecisionTreeRegressor().fit([[1], [2]], [1.5, 3]).predict([[1]])[0]
        def transform_fn(model, body, content_type, accept):
            return f"{sklearn.__version__} {sklearn.tree._tree.__file__} {model}", "text/plain"
        """,
}


def of_an_index(package: str, folder: Path) -> str:
    """The requirement of a version of ``package`` that is older than the container's; skips where no index has one."""
    requirement = f"{package}<{importlib.metadata.version(package)}"
    options = ["--dry-run", "--only-binary", ":all:", "--no-deps", "--target", str(folder), "--python", sys.executable]
    program = [sys.executable, "-m", "uv", "pip", "install", *options, requirement]
    try:
        asked = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"no package index answers within 120 s for {requirement}")
    if asked.returncode != 0:
        pytest.skip(f"no package index has {requirement}: {asked.stderr.strip()[-300:]}")
    return requirement


@pytest.mark.ci  # fetches
@pytest.mark.timeout(600)
@pytest.mark.parametrize("package", COMPILED)
def test_a_model_has_another_version_of_what_is_compiled_and_nobody_else_notices(
    forking: ServerProcess, packages_dir: Path, tmp_path: Path, package: str
) -> None:
    requirement = of_an_index(package, tmp_path)
    for name in (f"before-{package}", f"own-{package}", f"after-{package}"):
        folder = script(forking.model_dir(name), COMPILED[package])
        if name.startswith("own-"):
            (folder / "code" / "requirements.txt").write_text(f"{requirement}\n")
            wait_until(lambda: forking.load("own-" + package).status_code != 503, "the installation", timeout_s=300)
        else:
            load(forking, name)
    containers = importlib.metadata.version(package)
    for name in (f"before-{package}", f"own-{package}", f"after-{package}"):
        version, file, number = said(forking, name).split()
        is_own = name.startswith("own-")
        assert (version != containers) is is_own and float(number) == 1.5
        assert Path(file).is_relative_to(packages_dir) is is_own


def test_two_loads_wait_for_one_installation(server: ServerProcess) -> None:
    names = ("both_one", "both_two")
    for name in names:
        write_model(server, name, "greeting_of_a_test<2")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(server.load, names))
    assert [answer.status_code for answer in answers] == [200, 200], server.log_tail()
    assert server.log().count(f"the packages of {server.models_dir}/both_") == 1


BUILD = """
import os, subprocess

def build_wheel(*arguments, **options):
    os.environ["PATH"] = ""
    subprocess.run(["cc", "-c", "fast.c"], check=True)
"""


def write_source_distribution(folder: Path, name: str, build: str) -> None:
    """One that ``build``, a module with functions of PEP 517, makes a wheel of."""
    members = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "build_of_a_test"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n',
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n",
        "build_of_a_test.py": build,
    }
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
        for path, text in members.items():
            member = tarfile.TarInfo(f"{name}-1.0/{path}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def test_requirements_that_need_a_compiler_which_is_not_there_fail_that_load_with_the_reason(
    server: ServerProcess,
) -> None:
    folder = write_model(server, "compiled", "compiled_of_a_test")
    write_source_distribution(folder / "code" / "wheels", "compiled_of_a_test", BUILD)
    answer = server.load("compiled")
    assert answer.status_code == 500
    for text in (answer.json()["message"], server.log()):
        assert "compiled" in text and "No such file or directory: 'cc'" in text, text
    assert said(server, another_model(server)).startswith("version 1.0")


def set_of(packages_dir: Path, text: str) -> str:
    """The key of the set whose package has that text."""
    (module,) = [file for file in packages_dir.glob("*/site/greeting_of_a_test.py") if text in file.read_text()]
    return module.parents[1].name


def test_the_second_model_of_a_set_finds_it_installed_and_imported(
    forking: ServerProcess, impatient: ServerProcess, packages_dir: Path
) -> None:
    for name in ("first", "second", "third"):
        folder = write_model(forking, name, "# our greeting\ngreeting_of_a_test==1.0")
        write_wheel(folder / "code" / "wheels", "greeting_of_a_test", "TEXT = 'once'\n")
    load(forking, "first")
    assert said(forking, "first") == "once False"
    key = set_of(packages_dir, "once")
    wait_until((packages_dir / key / "modules.json").exists, "what the first model imported")
    imported = f"set {key} has imported beforehand what its first model did"
    wait_until(lambda: imported in forking.log(), "the import in the template")
    load(forking, "second")
    assert said(forking, "second") == "once True", forking.log()
    assert f"the packages of {forking.models_dir}/first" in forking.log()
    assert f"the packages of {forking.models_dir}/second" not in forking.log()
    assert forking.unload("second").status_code == 200
    load(forking, "second")
    assert said(forking, "second") == "once True", forking.log()
    # A folder that is kept saves another server the installation.
    shutil.copytree(forking.models_dir / "third", impatient.models_dir / "third")
    load(impatient, "third")
    assert said(impatient, "third") == "once True"
    assert "the packages of " not in impatient.log()


def load_from(server: ServerProcess, index: socket.socket) -> requests.Response:
    """Loads a model whose package is at an index that does not answer."""
    folder = write_model(server, "slow", f"--index-url http://127.0.0.1:{index.getsockname()[1]}/\nnot_there")
    shutil.rmtree(folder / "code" / "wheels")
    return server.load("slow")


def test_an_installation_that_takes_too_long_is_ended(impatient: ServerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        answer = load_from(impatient, nobody)
        assert answer.status_code == 500
        assert "longer than 2 s (MME_PACKAGES_TIMEOUT_S)" in answer.json()["message"]


def test_a_load_does_not_wait_for_longer_than_for_any_answer() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as nobody,
        ServerProcess(MME_PRELOAD="none", SAGEMAKER_MODEL_SERVER_TIMEOUT="6") as server,
    ):
        answer = load_from(server, nobody)
        assert answer.status_code == 503
        assert "still being installed" in answer.json()["message"]


def test_requirements_are_ignored_with_a_word() -> None:
    """(That they are refused where that is wanted is in test_security.py.)"""
    with ServerProcess(MME_PRELOAD="none", MME_MODEL_REQUIREMENTS="ignore") as server:
        write_model(server, "one", "greeting_of_a_test==1.0", handler=PLAIN)
        load(server, "one")
        assert "are ignored: MME_MODEL_REQUIREMENTS=ignore" in server.log()
        assert said(server, "one").startswith("No module named")


@pytest.mark.ci  # imports scikit-learn
def test_the_requirements_of_awss_sample_of_a_thousand_models_can_be_ignored() -> None:
    with ServerProcess(MME_PRELOAD="none", MME_MODEL_REQUIREMENTS="ignore") as server:
        thousand_models(server.model_dir("aws"), requirements=True)  # they cannot be installed on this Python
        load(server, "aws")
        assert server.invoke("aws", "[[0.5]]").json() == pytest.approx(1.0)


HOSTILE = {
    "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n",
    "exits where it is imported early": ("import os, sys\nif 'service_of_a_test' not in sys.modules: os._exit(3)\n"),
}


@pytest.mark.parametrize(
    "code", [HOSTILE["threads"], pytest.param(HOSTILE["exits where it is imported early"], marks=pytest.mark.ci)]
)
def test_a_package_that_cannot_be_imported_before_the_fork_is_imported_by_each_worker(
    forking: ServerProcess, packages_dir: Path, code: str
) -> None:
    text = uuid.uuid4().hex  # a set of their own
    names = [f"{text}-{number}" for number in (1, 2)]
    for name in names:
        folder = write_model(forking, name, "greeting_of_a_test==1.0")
        write_wheel(folder / "code" / "wheels", "greeting_of_a_test", f"{code}TEXT = '{text}'\n")
    load(forking, names[0])
    failed = f"the modules of set {set_of(packages_dir, text)} are not imported beforehand"
    wait_until(lambda: failed in forking.log(), "the template's trial")
    load(forking, names[1])
    assert [said(forking, name) for name in names] == [f"{text} False"] * 2
