"""Python packages to install, made without a builder and found without an index."""

from __future__ import annotations

import zipfile
from pathlib import Path


def write_wheel(folder: Path, name: str, code: str, *, version: str = "1.0", requires: str = "") -> Path:
    """Writes a package with one module ``name`` into ``folder``, as pip takes it; it may require another.

    The same package is the same bytes at any time: what models bring tells whether they share their packages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    members = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in members.items():
            member = zipfile.ZipInfo(path)  # of 1980
            member.external_attr = 0o644 << 16
            archive.writestr(member, text)
    return wheel


def write_requirements(model: Path, text: str, *, wheels: str | None = None) -> Path:
    """Writes ``code/requirements.txt`` of a model, which finds packages in ``wheels`` alone (``code/wheels`` there)."""
    file = model / "code" / "requirements.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"--no-index\n--find-links {wheels or file.parent / 'wheels'}\n{text}\n")
    return file
