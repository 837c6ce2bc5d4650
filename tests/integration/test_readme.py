"""README's way to one's own model, walked as it stands there."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import requests
from PIL import Image

from tests.harness.marked_process import MarkedProcess
from tests.harness.models import tiny_classifier
from tests.harness.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PORT_IN_README = "8080"


def blocks_of_section(heading: str) -> list[str]:
    """The code blocks below ``heading``, fit to be run from another folder."""
    section = (ROOT / "README.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    section = section.replace("./scripts/", f"{ROOT}/scripts/")
    return re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.mark.ci  # a dozen programs
def test_the_way_to_ones_own_model_works_as_readme_says(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "my_model", input_shape=(1, 3, 32, 32))
    Image.new("RGB", (640, 480), (90, 120, 30)).save(tmp_path / "picture.jpg")
    packing, calls = blocks_of_section("Bring your own model")
    packing, serving = packing.rsplit("\n", 2)[0], packing.rstrip().rsplit("\n", 1)[1]
    assert serving.startswith(f"{ROOT}/scripts/serve ")

    def shell(commands: str) -> str:
        done = subprocess.run(["bash", "-euc", commands], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    shell(packing)
    shutil.rmtree(tmp_path / "my_model")  # from here on, the archive alone
    port = str(free_port())
    server = MarkedProcess(tmp_path / "log")
    server.spawn([*serving.split(), "--port", port], cwd=tmp_path)

    def answers() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/ping", timeout=2).ok
        except requests.RequestException:
            return False

    try:
        server.wait_until_ready(answers, timeout_s=60)
        said = shell(calls.replace(PORT_IN_README, port).replace("curl ", "curl -sS --fail-with-body "))
        best = json.loads(said[said.rindex("[") :])
        assert len(best) == 5
        assert best[0].startswith("probability=")
        assert server.stop(signal.SIGINT, timeout_s=40) == 0, server.log()
        server.assert_nothing_survives()
    finally:
        server.kill()
