"""What the processes that stay have imported: nothing that only some commands, or only workers, need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.harness.scripted_handler import HANDLER, command, make_model
from tests.harness.server import ServerProcess
from tests.harness.workers import zygotes

# Each is megabytes in a process that has it.
HEAVY = {"PIL", "asyncio", "boto3", "botocore", "mms", "mxnet", "numpy", "requests", "sagemaker_inference", "scipy"}
# In every Python process of the server: writes down what it has imported when it ends.
SPY = """
import atexit, os, sys
def write_down():
    with open(os.path.join(os.environ["IMPORTS"], str(os.getpid())), "w") as file:
        file.write("\\n".join(sys.modules))
atexit.register(write_down)
"""


@pytest.fixture
def imports(tmp_path: Path) -> Path:
    (tmp_path / "sitecustomize.py").write_text(SPY)
    folder = tmp_path / "imports"
    folder.mkdir()
    return folder


def test_the_supervisor_and_the_root_import_nothing_heavy(imports: Path) -> None:
    path = os.pathsep.join([str(imports.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    quickest = "script"  # of the frameworks that a template imports
    with ServerProcess(
        SAGEMAKER_HANDLER=HANDLER, MME_PRELOAD=quickest, PYTHONPATH=path, IMPORTS=str(imports)
    ) as server:
        make_model(server.model_dir("m"))
        assert server.load("m").status_code == 200
        assert server.invoke("m", command("echo", 1)).json() == 1
        assert server.unload("m").status_code == 200
        assert server.process is not None
        pids = [server.process.pid, *(each.pid for each in zygotes(server))]
        assert server.stop() == 0
    assert len(pids) == 2
    for pid in pids:
        imported = set((imports / str(pid)).read_text().split())
        assert "sitecustomize" in imported
        assert {name.partition(".")[0] for name in imported} & HEAVY == set()
        assert not [name for name in imported if name.startswith(("mme.handler", "mme.frameworks.mxnet.model"))]
