"""The agent in the front end's JVM: that what is shipped is what the source says. What it does: tests/integration."""

from __future__ import annotations

import zipfile

from mme.front_end import GUARD_JAR, source_digest


def test_the_jar_was_built_from_this_source() -> None:
    with zipfile.ZipFile(GUARD_JAR) as jar:
        manifest = jar.read("META-INF/MANIFEST.MF").decode().replace("\n ", "")
        names = jar.namelist()
    assert f"Source-SHA256: {source_digest()}" in manifest, "run container/mme/front_end/build"
    assert names[0] == "META-INF/MANIFEST.MF"
    assert all(name.startswith("mme/") and name.endswith(".class") for name in names[1:])
