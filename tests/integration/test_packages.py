"""``code/requirements.txt`` of a single model: installed before the start, or a start that ends with one clear line."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.harness import models
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until
from tests.harness.wheels import write_requirements, write_wheel
from tests.integration.test_start import CANNOT_START

HANDLER = """
import greeting_of_a_test
from model_handler import ModelHandler, entry_point


class Handler(ModelHandler):
    def postprocess(self, request, outputs):
        return greeting_of_a_test.TEXT


handle = entry_point(Handler)
"""


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python with the packages of this one, and a place of its own for others; servers are started with it."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    (own / "others.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    monkeypatch.setattr(sys, "executable", str(python))
    return own


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose handler needs a package."""
    folder = models.multiplier(tmp_path / "model", factor=2)
    write_wheel(folder / "code" / "wheels", "greeting_of_a_test", "TEXT = 'from the package'\n")
    write_requirements(folder, "greeting_of_a_test")
    (folder / "code" / "handler_of_a_test.py").write_text(HANDLER)
    return folder


@pytest.mark.ci
def test_a_handler_finds_the_packages_that_its_model_asks_for(interpreter: Path, model: Path) -> None:
    for run in (1, 2):
        with ServerProcess(
            single_model_dir=model,
            SAGEMAKER_HANDLER="handler_of_a_test",
            SAGEMAKER_MODEL_SERVER_WORKERS="1",
        ) as server:
            answered = wait_until(lambda server=server: server.post("/invocations", "[[1, 2, 3, 4]]"), "an answer")  # type: ignore[misc]
            assert (answered.status_code, answered.text) == (200, "from the package"), server.log_tail()
            assert ("pip: Successfully installed greeting_of_a_test-1.0" in server.log()) == (run == 1)
            assert "Traceback" not in server.log()
    assert (interpreter / "greeting_of_a_test.py").exists()


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("no_such_package", "No matching distribution found for no_such_package"),
        pytest.param(
            "greeting_of_a_test==7",
            "No matching distribution found for greeting_of_a_test==7",
            marks=pytest.mark.ci,
        ),
        pytest.param("needs_another_numpy", "ResolutionImpossible", marks=pytest.mark.ci),
        ("not a requirement", "Invalid requirement"),
    ],
)
def test_packages_that_cannot_be_installed_end_the_start_with_one_line(
    interpreter: Path, model: Path, requirement: str, reason: str
) -> None:
    write_wheel(model / "code" / "wheels", "needs_another_numpy", "", requires="numpy<2")
    write_requirements(model, requirement)
    server = ServerProcess(single_model_dir=model)
    try:
        server.launch()
        assert server.wait() == CANNOT_START
        last = server.log().splitlines()[-1]
        assert "requirements.txt could not be installed: " in last
        assert reason in server.log() and "Mend the file" in last
        assert "Traceback" not in server.log()
        server.assert_nothing_survives()
    finally:
        server.discard()
