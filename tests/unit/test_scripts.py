"""Every program in scripts/: it explains itself, refuses what it does not know, and stands in the index."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from tests.harness import models
from tests.harness.ports import free_port
from tests.harness.program_calls import SCRIPTS, call, call_shell, started_by

PROGRAMS = sorted(path.name for path in SCRIPTS.iterdir() if path.is_file() and not path.suffix)
# pytest's own arguments are passed through, so pytest refuses the unknown one, with its own exit code for usage (4)
PASSES_ARGUMENTS_ON = {"test": 4}


def test_the_known_programs_are_found() -> None:
    assert {"setup", "serve", "quickstart", "package_model", "download_zoo", "test", "check", "lock"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_says_how_to_call_it(name: str) -> None:
    done = call(name, "--help")
    assert done.returncode == 0, done.stderr
    assert re.search(rf"usage: \./scripts/{name}\b", done.stdout), done.stdout
    assert len(done.stdout.splitlines()) > 1, "usage alone explains nothing"


@pytest.mark.parametrize(  # one with each option of lib/run
    ("name", "argument"), [("serve", "--help"), ("list_models", "--no-such-argument"), ("load_test", "--help")]
)
def test_a_script_starts_its_program_with_what_it_was_told(name: str, argument: str) -> None:
    by_shell, called = call_shell(name, argument), call(name, argument)
    assert (by_shell.returncode, by_shell.stdout, by_shell.stderr) == (called.returncode, called.stdout, called.stderr)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_unknown_argument_is_a_usage_error(name: str) -> None:
    done = call(name, "--no-such-argument")
    assert done.returncode == PASSES_ARGUMENTS_ON.get(name, 2), done.stderr
    assert name in PASSES_ARGUMENTS_ON or f"usage: ./scripts/{name}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_can_be_started(name: str) -> None:
    assert os.access(SCRIPTS / name, os.X_OK)


def test_the_index_lists_every_program_and_no_other() -> None:
    index = (SCRIPTS / "README.md").read_text()
    listed = re.findall(r"^\| \[`(\w+)`\]\((\w+)\)", index, re.MULTILINE)
    assert sorted(listed) == [(name, name) for name in PROGRAMS]


def test_every_program_of_python_has_a_script_that_starts_it() -> None:
    with_main = {path.stem for path in (SCRIPTS / "programs").glob("*.py") if "    run(main)" in path.read_text()}
    assert with_main
    assert with_main <= set(PROGRAMS)
    assert {name: started_by(name) for name in with_main} == {name: name for name in with_main}


@pytest.mark.parametrize("name", ["serve", "quickstart"])
def test_a_taken_port_is_named_with_the_remedy(name: str) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        done = call(name, "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken: choose another with --port." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "port", "highest"),
    [
        ("serve", "0", 32766),
        ("serve", "32767", 32766),  # MMS takes none above
        ("serve", "http", 32766),
        ("quickstart", "0", 65535),
        ("quickstart", "65536", 65535),
        ("quickstart", "http", 65535),
    ],
)
def test_a_port_that_the_server_cannot_take_is_a_usage_error(name: str, port: str, highest: int) -> None:
    done = call(name, "--port", port)
    assert done.returncode == 2
    assert f"'{port}' is not a port from 1 to {highest}" in done.stderr


def test_an_address_of_another_machine_is_refused() -> None:
    done = call("serve", "--host", "no.such.host.invalid", "--port", str(free_port()))
    assert done.returncode == 1
    assert "no address of this machine" in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("serve", ["--base-dir", "{file}"]),
        ("quickstart", ["--cache", "{file}"]),
        ("download_zoo", ["synset", "--to", "{file}"]),
        ("package_model", ["--no-load", "{model}", "{file}/model.tar.gz"]),
    ],
)
def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path, name: str, arguments: list[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    model = models.multiplier(tmp_path / "model")
    port = ["--port", str(free_port())] if name in ("serve", "quickstart") else []
    done = call(name, *(each.format(file=file, model=model) for each in arguments), *port)
    assert done.returncode == 1
    assert f"{name}: {file}" in done.stderr
    assert "Choose a place that can be read and written." in done.stderr
    assert "Traceback" not in done.stderr
