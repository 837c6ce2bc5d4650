"""What the documents say exists: links, paths, commands with their options, settings, files of a model."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from mme.settings import Settings
from tests.harness.program_calls import call

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "scripts/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def commands(document: Path) -> list[list[str]]:
    """Every call of a program of this checkout in the code blocks and in `code`, split into words."""
    text = document.read_text()
    code = [line.removeprefix("$ ") for _, block in BLOCK.findall(text) for line in block.splitlines()]
    code += re.findall(r"`(\./[^`]+)`", BLOCK.sub("", text))
    return [shlex.split(line, comments=True) for line in code if line.startswith("./")]


@cache
def help_of(program: str) -> str:
    folder, _, name = program.rpartition("/")
    if folder.startswith("./examples/"):
        return (ROOT / folder / "story.py").read_text()  # it imports libraries before it says anything
    if folder == "./scripts":
        done = call(name, "--help")
        assert done.returncode == 0, done.stderr
        return done.stdout
    return subprocess.run([ROOT / program, "--help"], capture_output=True, text=True, check=True, timeout=120).stdout


def anchors(document: Path) -> set[str]:
    """The anchors that a rendered document has: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", document.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path) if path else document
        assert linked.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(linked), f"{linked.name} has no heading for #{anchor}"


@each_document
def test_programs_and_their_options_exist(document: Path) -> None:
    for program, *arguments in commands(document):
        assert (ROOT / program).is_file(), f"{program} is not there"
        if program == "./scripts/test":  # its arguments are pytest's
            continue
        for option in (word.partition("=")[0] for word in arguments if word.startswith("--")):
            assert option in help_of(program), f"{program} has no {option}"


@each_document
def test_paths_of_this_checkout_exist(document: Path) -> None:
    folders = "container|local_endpoint|scripts|tests|benchmarks|docs"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", document.read_text()):
        assert (ROOT / path).exists(), f"{path} is not there"


@each_document
def test_settings_are_real_ones(document: Path) -> None:
    known = {each.metadata["name"] for each in Settings.__dataclass_fields__.values()}
    named = set(re.findall(r"`((?:SAGEMAKER|MME)_[A-Z_]*[A-Z])(?:=[^`]*)?`", document.read_text()))
    assert named <= known


def test_readme_names_what_matters_on_its_first_screen() -> None:
    opening = (ROOT / "README.md").read_text().partition("## ")[0]
    shown = [line.removeprefix("$ ") for _, block in BLOCK.findall(opening) for line in block.splitlines()]
    assert "./scripts/quickstart" in shown
    assert "./build_and_push.sh --build-only" in shown


def test_messages_that_readme_explains_are_those_of_the_programs() -> None:
    """A message that was reworded would be looked up in vain."""
    table = (ROOT / "README.md").read_text().partition("## Troubleshooting")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert messages
    sources = "\n".join(
        path.read_text()
        for folder in ("scripts", "container")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in ("", ".py")
    )
    for message in messages:
        # a number is one in the source, too, or a {placeholder} there
        pattern = r"(\{[\w.]+\}|[\d.]+)".join(map(re.escape, re.split(r"\d[\d.]*", message)))
        assert re.search(pattern, sources), f"no program says {message!r}"


def test_pages_that_programs_and_documents_name_exist() -> None:
    named: dict[str, list[str]] = {}
    for folder in ("container", "scripts", "local_endpoint", "benchmarks", "examples", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".java", ".md", "") and path.is_file() and "__pycache__" not in path.parts:
                for page in re.findall(r"\bdocs/\w+\.(?:md|yaml)\b", path.read_text(errors="replace")):
                    named.setdefault(page, []).append(str(path.relative_to(ROOT)))
    assert len(named) > 10
    assert {page: places for page, places in named.items() if not (ROOT / page).is_file()} == {}
