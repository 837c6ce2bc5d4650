"""Work-arounds of Multi Model Server have a number: a paragraph each in the docs, cited where they are in the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"\bMMS-(\d+)\b")


def test_every_workaround_is_explained_and_cited() -> None:
    explained = {int(each) for each in re.findall(r"^## MMS-(\d+)$", page(), re.MULTILINE)}
    sources = [file for suffix in ("py", "java") for file in (ROOT / "container").rglob(f"*.{suffix}")]
    cited = {int(each) for file in sources for each in NUMBER.findall(file.read_text())}
    assert cited == explained


def page() -> str:
    return (ROOT / "docs" / "mms-workarounds.md").read_text()
