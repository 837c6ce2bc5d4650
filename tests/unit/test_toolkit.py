"""What the toolkit raises ends the start with a message, never with a stack trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from mme.errors import StartError
from mme.settings import Settings
from mme.supervisor import toolkit
from mme.supervisor.agent import Agent
from tests.harness.programs import run_python


@pytest.mark.parametrize(
    "error", [ValueError("failed to install required packages"), OSError("no"), toolkit.FailedStart("it ended")]
)
def test_an_error_of_the_toolkit_becomes_one_of_ours(tmp_path: Path, error: Exception) -> None:
    class Failing(toolkit.FrontEnd):
        def _start_through_toolkit(self) -> int:
            raise error

    front_end = Failing(
        Settings(start_retry_s=0),
        {},
        runtime_dir=tmp_path,
        model_store=tmp_path,
        python=tmp_path,
        agent=Agent(tmp_path),
        statistics=-1,
        cancelled=lambda: False,
        on_child_exit=lambda _pid, _status: None,
    )
    with pytest.raises(StartError, match=f"the front end could not be started: {error}"):
        front_end.start_with_retry()


def test_the_supervisor_imports_nothing_that_no_step_of_it_needs() -> None:
    unwanted = {"numpy", "scipy", "botocore", "packaging", "http.client", "ssl", "email"}
    code = (
        "import sys; import mme.supervisor.server; from mme.supervisor import toolkit;"
        "module = toolkit._import_toolkit();"
        f"print(module.start_model_server.__name__, {unwanted} & set(sys.modules))"
    )
    assert run_python(code) == "start_model_server set()\n"
