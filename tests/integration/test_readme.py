"""README's way to one's own model, walked as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import requests
from PIL import Image

from tests.harness.models import tiny_classifier
from tests.harness.ports import free_port
from tests.harness.server import MARK, marked_processes
from tests.harness.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
PORT_IN_README = "8080"


def blocks_of_section(heading: str) -> list[str]:
    """The code blocks below ``heading``, fit to be run from another folder."""
    section = (ROOT / "README.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    section = section.replace("./scripts/", f"{ROOT}/scripts/")
    return re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


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
    port, mark = str(free_port()), uuid.uuid4().hex
    server = subprocess.Popen(
        [*serving.split(), "--port", port],
        cwd=tmp_path,
        env={**os.environ, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=(tmp_path / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )

    def answers() -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/ping", timeout=2).ok
        except requests.RequestException:
            return False

    try:
        wait_until(answers, "the server answers", 60)
        said = shell(calls.replace(PORT_IN_README, port).replace("curl ", "curl -sS --fail-with-body "))
        best = json.loads(said[said.rindex("[") :])
        assert len(best) == 5
        assert best[0].startswith("probability=")
        server.send_signal(signal.SIGINT)
        assert server.wait(40) == 0, (tmp_path / "log").read_text()
    finally:
        for each in marked_processes(mark):
            each.kill()
        server.wait()
