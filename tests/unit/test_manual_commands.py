"""The commands that the quickstart prints: a shell reads them as they are meant, whatever a path looks like."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from scripts.programs import manual_commands
from scripts.programs.server_process import ROOT


def commands(picture: Path, model_folder: str = "/tmp/models/abc/model") -> list[list[str]]:
    place = manual_commands.Place(
        endpoint_url="http://127.0.0.1:8080",
        region="us-east-1",
        endpoint="digits",
        target="digits_mlp.tar.gz",
        picture=picture,
        container_url="http://127.0.0.1:20000",
        model_name="abc",
        model_folder=model_folder,
    )
    return [words(line) for line in manual_commands.lines(place) if line.startswith("  ")]


def words(line: str) -> list[str]:
    """As bash splits ``line``."""
    done = subprocess.run(["bash", "-uc", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("path", ["/a/7.png", "/with a blank/7.png", "/with \"quotes\" and 'these'/$HOME/`7`.png"])
def test_the_picture_is_one_word_of_each_command(path: str) -> None:
    found = commands(Path(path))
    _, _, _, invoke, python, aws, endpoint, _, _, container, _, _ = found
    assert invoke[-1] == path
    assert f"fileb://{path}" in aws
    assert endpoint[-1] == container[-1] == f"@{path}"
    strings = [node.value for node in ast.walk(ast.parse(python[-1])) if isinstance(node, ast.Constant)]
    assert path in strings


def test_what_lies_in_the_checkout_is_named_from_there() -> None:
    found = commands(ROOT / ".cache" / "7.png")
    assert found[0] == ["cd", str(ROOT)]
    assert found[3][-1] == ".cache/7.png"


def test_the_load_names_the_folder_that_the_container_sees() -> None:
    load = commands(Path("/7.png"), "/tmp/it's here/model")[-1]
    assert json.loads(load[-1]) == {"model_name": "abc", "url": "/tmp/it's here/model"}
