"""A server that says that it is ready has loaded, asked and unloaded a model; nothing of that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from mme.settings import Settings
from mme.supervisor import dry_run
from mme.zygote.load_policy import DRY_RUN
from tests.harness import scripts
from tests.harness.server import JVM_ARGUMENTS, ServerProcess

# What is left for the first load: what depends on a model's name, or on how many there are.
MOST_CLASSES = 15
QUICKEST = "script"  # of the frameworks with a sample model: it is the front end that runs


@pytest.mark.parametrize(
    "management", ["same", *(pytest.param(elsewhere, marks=pytest.mark.ci) for elsewhere in ("loopback", "socket"))]
)
def test_the_first_load_after_a_start_finds_the_front_end_warm(tmp_path: Path, management: str) -> None:
    log = tmp_path / "classes"
    where = f"unix:{tmp_path}/m.sock" if management == "socket" else management
    arguments = f"{JVM_ARGUMENTS} -Xlog:class+load=info:file={log}"
    with ServerProcess(SAGEMAKER_MODEL_SERVER_VMARGS=arguments, MME_MANAGEMENT=where, MME_PRELOAD=QUICKEST) as server:
        at_start = len(log.read_text().splitlines())
        if management == "same":
            assert server.list_models().json()["models"] == []
            scripts.adder(server.models_dir / "m")
            assert server.load("m", str(server.models_dir / "m")).status_code == 200
            assert server.invoke("m", "[[1, 2, 3, 4]]").status_code == 200
        later = log.read_text().splitlines()[at_start:]
        assert len(later) <= MOST_CLASSES, later
        assert not list(server.folder.glob(f"tmp/mme-*/{DRY_RUN}"))
        text = server.log_file.read_text()
        assert "dry run with a sample model failed" not in text
        assert at_start > 0 and "mme.PatchedWorkLoadManager$Run" in log.read_text()


def test_a_dry_run_that_there_is_no_memory_for_keeps_no_server_from_serving() -> None:
    with ServerProcess(MME_MEMORY_LIMIT_MB="300", MME_MEMORY_RESERVE_MB="290", MME_PRELOAD=QUICKEST) as server:
        assert server.ping().status_code == 200
        text = server.log_file.read_text()
        assert "the dry run with a sample model failed; the server starts all the same" in text
        assert "(507)" in text
        assert server.list_models().json()["models"] == []


@pytest.mark.parametrize(
    "settings",
    [Settings(multi_model=False), Settings(workers="spawn"), Settings(handler="/opt/program/serve.py:handle")],
    ids=["one model", "spawned workers", "a handler of the user's own"],
)
def test_there_is_none_where_a_sample_would_be_out_of_place(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    dry_run.prepare(settings, tmp_path)
    dry_run.run(settings, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert caplog.text == ""
