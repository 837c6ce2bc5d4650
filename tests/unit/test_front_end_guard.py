"""The agent in the front end's JVM: that what is shipped is what the source says. What it does: tests/integration."""

from __future__ import annotations

import hashlib
import zipfile

from mme.front_end import GUARD_JAR, GUARD_SOURCE


def test_the_jar_was_built_from_this_source() -> None:
    with zipfile.ZipFile(GUARD_JAR) as jar:
        manifest = jar.read("META-INF/MANIFEST.MF").decode().replace("\n ", "")
        names = jar.namelist()
    digest = hashlib.sha256(GUARD_SOURCE.read_bytes()).hexdigest()
    assert f"Source-SHA256: {digest}" in manifest, "run container/mme/front_end/build"
    assert names[0] == "META-INF/MANIFEST.MF"
    assert all(name.startswith("mme/FrontEndGuard") and name.endswith(".class") for name in names[1:])
